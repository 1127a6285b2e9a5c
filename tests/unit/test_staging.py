"""Publishing a bundle atomically, and noticing any change to a published one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from export.bundle.staging import check_hashes, staging, write_json
from runtimes.bundle_files import MANIFEST_FILE
from runtimes.choices import FileKind, GraphKind, Precision
from runtimes.errors import GateError, InputError
from runtimes.manifest import Manifest, make_artifact, read_manifest
from tests.support import edit_json, listing, make_manifest


def fill(folder: Path, text: str = "weights") -> None:
    """The smallest complete bundle."""
    (folder / "weights").write_text(text)
    (folder / "graph.onnx").write_text("graph")
    artifacts = (
        make_artifact(folder, "weights", FileKind.WEIGHTS),
        make_artifact(folder, "graph.onnx", GraphKind.ONNXRUNTIME, precision=Precision.FP32),
    )
    write_json(folder / MANIFEST_FILE, make_manifest(artifacts=artifacts).to_json())


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "out" / "model" / "task-fp32"
    with staging(folder) as staged:
        fill(staged)
    return folder


def test_manifest_survives_the_disk(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert isinstance(manifest, Manifest)
    expected = make_manifest(artifacts=manifest.artifacts)
    assert manifest == expected
    assert {a.path: a.bytes for a in manifest.artifacts} == {"weights": 7, "graph.onnx": 5}
    assert json.loads((bundle / MANIFEST_FILE).read_text()) == json.loads(
        json.dumps(asdict(expected))
    )


def test_nothing_is_visible_before_the_end_and_no_staging_after(tmp_path: Path) -> None:
    final = tmp_path / "out" / "task-fp32"
    with staging(final) as staged:
        fill(staged)
        assert not final.exists()
        assert staged.parent == final.parent  # one file system: the rename is atomic
    assert [p.name for p in final.parent.iterdir()] == ["task-fp32"]
    check_hashes(final)


def test_second_build_replaces_the_first(bundle: Path) -> None:
    with staging(bundle) as staged:
        fill(staged, "newer")
    assert (bundle / "weights").read_text() == "newer"
    assert [p.name for p in bundle.parent.iterdir()] == [bundle.name]


@pytest.mark.parametrize(
    "error", [RuntimeError, KeyboardInterrupt, SystemExit, GateError, MemoryError]
)
def test_interrupted_build_leaves_the_former_bundle(
    bundle: Path, error: type[BaseException]
) -> None:
    before = listing(bundle.parent)

    def interrupted() -> None:
        with staging(bundle) as staged:
            fill(staged, "half")
            raise error("in the middle")

    with pytest.raises(error, match="in the middle"):
        interrupted()
    assert listing(bundle.parent) == before


def test_interrupted_first_build_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with staging(tmp_path / "out" / "model" / "task") as staged:
            fill(staged)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file() or p.name[0] == "."] == []


def write_unlisted(staged: Path) -> None:
    (staged / "stray").write_text("x")


def spoil(staged: Path) -> None:
    (staged / "weights").write_text("NEWER")


def unlist(staged: Path) -> None:
    (staged / MANIFEST_FILE).unlink()


@pytest.mark.parametrize(
    ("damage", "error"), [(write_unlisted, GateError), (spoil, GateError), (unlist, InputError)]
)
def test_staged_folder_is_read_back_before_it_is_published(
    bundle: Path, damage: Callable[[Path], None], error: type[Exception]
) -> None:
    before = listing(bundle.parent)

    def build() -> None:
        with staging(bundle) as staged:
            fill(staged, "newer")
            damage(staged)

    with pytest.raises(error):
        build()
    assert listing(bundle.parent) == before


def test_every_file_is_flushed_before_the_rename_and_the_folders_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    fsync, final = os.fsync, tmp_path / "out" / "task"

    def record(handle: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        assert final.exists() == (flushed[-1] in ("out", tmp_path.name))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", record)
    with staging(final) as staged:
        fill(staged)
        assert flushed == []
    assert {"weights", "graph.onnx", MANIFEST_FILE, staged.name} <= set(flushed)
    assert sorted(flushed[-2:]) == sorted(["out", tmp_path.name])  # where the names were made


def test_out_that_is_a_file_is_an_error_naming_it(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")

    def build() -> None:
        with staging(tmp_path / "out" / "model" / "task"):
            pass

    with pytest.raises(InputError, match="OUT: cannot write below"):
        build()


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(bytes(raw))


@pytest.mark.parametrize("name", ["weights", "graph.onnx"])
def test_one_flipped_bit_is_a_gate_error_naming_the_file(bundle: Path, name: str) -> None:
    flip(bundle / name)
    with pytest.raises(GateError, match=name):
        check_hashes(bundle)


@pytest.mark.parametrize("place", ["stray.txt", ".hidden", "sub/stray.txt"])
def test_extra_file_is_a_gate_error_naming_it(bundle: Path, place: str) -> None:
    (bundle / place).parent.mkdir(exist_ok=True)
    (bundle / place).write_text("x")
    with pytest.raises(GateError, match=place.replace(".", r"\.")):
        check_hashes(bundle)


def test_missing_file_is_an_input_error_naming_it(bundle: Path) -> None:
    (bundle / "weights").unlink()
    with pytest.raises(InputError, match="weights: no such file, but the manifest names it"):
        read_manifest(bundle)


def test_truncated_file_is_noticed_without_hashing(bundle: Path) -> None:
    (bundle / "weights").write_text("wei")
    with pytest.raises(InputError, match="weights: 3 bytes, expected 7"):
        read_manifest(bundle)


def test_manifest_without_a_field_is_an_input_error(bundle: Path) -> None:
    edit_json(bundle / MANIFEST_FILE, drop=("max_tokens",))
    with pytest.raises(InputError, match="max_tokens: missing"):
        read_manifest(bundle)


@pytest.mark.parametrize("name", ["absent", "file"])
def test_bundle_that_is_no_folder_is_an_input_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"BUNDLE: .x{100,130}… .* is not a folder"):
        read_manifest(Path("x" * 5000))
    with pytest.raises(InputError, match=r"BUNDLE: .* is not a folder"):
        read_manifest(tmp_path / name)


def test_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"BUNDLE: .* has no manifest\.json"):
        read_manifest(tmp_path)


def test_artifact_of_an_absent_kind_lists_the_kinds_there_are(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert manifest.artifact(FileKind.WEIGHTS).path == "weights"
    with pytest.raises(InputError, match="no 'tensorrt' artefact, only onnxruntime, weights"):
        manifest.artifact(GraphKind.TENSORRT)
