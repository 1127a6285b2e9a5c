"""``adaptrt verify``: passes on what was built, and notices every later change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from export.checkpoint import Checkpoint
from export.weights import WEIGHT_FILE
from runtimes.files import sha256
from runtimes.manifest import read_manifest
from tests.support import listing, run_cli, write_graphs

KINDS = {
    "portable", "onnxruntime", "tensorrt", "primitive", "weights", "tokenizer", "reference",
    "parity",
}  # fmt: skip


def verify(bundle: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run_cli("verify", "--bundle", bundle)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def rehash(bundle: Path) -> None:
    """What a careful forger would do: the manifest's sizes and hashes follow the files."""
    path = bundle / "manifest.json"
    raw = json.loads(path.read_text())
    for entry in raw["artifacts"]:
        file = bundle / entry["path"]
        entry |= {"bytes": file.stat().st_size, "sha256": sha256(file)}
    path.write_text(json.dumps(raw))


@pytest.mark.parametrize("name", ["fp16_bundle", "fp32_bundle", "bf16_bundle", "query_bundle"])
def test_fresh_bundle_passes(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    bundle: Path = request.getfixturevalue(name)
    before = {n: b for n, b in listing(bundle).items() if n == "manifest.json"}
    code, out, err = verify(bundle, capsys)
    assert (code, err) == (0, "")
    assert "minimum cosine" in out
    assert str(bundle) in out
    assert (bundle / "manifest.json").read_bytes() == before["manifest.json"]


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("place", [0, 0.5, 1])
def test_one_flipped_byte_exits_3_and_names_the_file(
    bundle_copy: Path, capsys: pytest.CaptureFixture[str], kind: str, place: float
) -> None:
    name = read_manifest(bundle_copy).artifact(kind).path
    raw = bytearray((bundle_copy / name).read_bytes())
    raw[int(place * (len(raw) - 1))] ^= 0x10
    (bundle_copy / name).write_bytes(bytes(raw))
    code, out, err = verify(bundle_copy, capsys)
    assert (code, out) == (3, "")
    assert err.startswith("error: ")
    assert name in err


def test_flipped_byte_of_an_engine_exits_3(
    fp16_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(fp16_bundle, tmp_path / "bundle"))
    engine = copy / "encoder.sm89.engine"
    with engine.open("r+b") as stream:
        stream.seek(engine.stat().st_size // 2)
        byte = stream.read(1)
        stream.seek(-1, 1)
        stream.write(bytes([byte[0] ^ 1]))
    code, _, err = verify(copy, capsys)
    assert code == 3
    assert "encoder.sm89.engine" in err


def test_weights_of_another_task_fail_whatever_the_manifest_says(
    bundle_copy: Path, small: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_graphs(tmp_path / "other", small, "classification", "float32")
    (bundle_copy / WEIGHT_FILE).write_bytes((other / WEIGHT_FILE).read_bytes())
    rehash(bundle_copy)
    code, _, err = verify(bundle_copy, capsys)
    assert code == 3
    assert "parity failed" in err


def test_same_weights_with_a_rehashed_manifest_still_pass(
    bundle_copy: Path, small: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards the test above: it is the task that makes the difference, not the copying."""
    same = write_graphs(tmp_path / "same", small, "separation", "float32")
    (bundle_copy / WEIGHT_FILE).write_bytes((same / WEIGHT_FILE).read_bytes())
    rehash(bundle_copy)
    assert verify(bundle_copy, capsys)[0] == 0


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_weights_that_give_nan_exit_3(
    bundle_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bundle_copy / WEIGHT_FILE
    path.write_bytes(np.full(path.stat().st_size // 4, np.nan, np.float32).tobytes())
    rehash(bundle_copy)
    code, _, err = verify(bundle_copy, capsys)
    assert code == 3
    assert "parity failed" in err


def test_extra_file_exits_3_and_missing_file_2(
    bundle_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle_copy / "stray.bin").write_bytes(b"x")
    code, _, err = verify(bundle_copy, capsys)
    assert code == 3
    assert "stray.bin" in err
    (bundle_copy / "stray.bin").unlink()
    (bundle_copy / "parity.json").unlink()
    code, _, err = verify(bundle_copy, capsys)
    assert code == 2
    assert "parity.json: no such file" in err


def test_reference_of_other_texts_exits_2_with_the_version(
    bundle_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bundle_copy / "parity.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps(raw | {"texts_sha256": "0" * 64}))
    rehash(bundle_copy)
    code, _, err = verify(bundle_copy, capsys)
    assert code == 2
    assert "other parity texts" in err


def test_reference_of_the_wrong_shape_exits_3(
    bundle_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bundle_copy / "reference.npy"
    np.save(path, np.load(path)[:-1])
    rehash(bundle_copy)
    assert verify(bundle_copy, capsys)[0] == 3


def test_pickled_reference_is_never_loaded(
    bundle_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(bundle_copy / "reference.npy", np.array([{"a": 1}], object), allow_pickle=True)
    rehash(bundle_copy)
    code, _, err = verify(bundle_copy, capsys)
    assert code in (2, 3)
    assert err.startswith("error: ")
