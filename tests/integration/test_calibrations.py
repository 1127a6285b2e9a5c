"""Calibrations of the sample on other texts: compared, merged, and used for a bundle."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calibration.corpus import load_corpus
from calibration.table import Calibration, read_calibration, write_calibration
from export.build.comparison import compare_calibrations
from export.request import BuildRequest
from runtimes.manifest import read_manifest
from tests.support import few_gate_texts, run_cli

OPTIONS = ("--max-tokens", 64, "--calibration-texts", 24)


def calibrate(out: Path, *options: object) -> int:
    return run_cli("calibrate", "--out", out, *OPTIONS, *options)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Texts in two pairs of languages: a file, and a folder of shards with another column."""
    folder = tmp_path_factory.mktemp("texts")
    by = {
        names: [text.text for text in load_corpus(None) if text.language in names.split("-")]
        for names in ("zh-ja", "en-de")
    }
    (folder / "zh-ja.txt").write_text("\n".join(" ".join(text.split()) for text in by["zh-ja"]))
    (folder / "en-de").mkdir()
    for number in range(2):
        table = pa.table({"body": by["en-de"][number::2]})
        pq.write_table(table, folder / "en-de" / f"train-{number}.parquet")
    return {"zh-ja": folder / "zh-ja.txt", "en-de": folder / "en-de"}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("calibrations")


@pytest.fixture(scope="module")
def tables(out: Path, data: dict[str, Path]) -> dict[str, Path]:
    assert calibrate(out / "zh-ja", "--calibration-data", data["zh-ja"]) == 0
    column = ("--calibration-column", "body")
    assert calibrate(out / "en-de", "--calibration-data", data["en-de"], *column) == 0
    return {n: out / n / "sample" / "calibration" / "classification.json" for n in data}


@pytest.fixture(scope="module")
def merged_path(out: Path, tables: dict[str, Path]) -> Path:
    listed = ",".join(map(str, tables.values()))
    assert calibrate(out / "merged", "--merge", listed) == 0
    return out / "merged" / "sample" / "calibration" / "classification-merged.json"


@pytest.fixture(scope="module")
def merged(merged_path: Path) -> Calibration:
    return read_calibration(merged_path)


def test_two_calibrations_clip_each_others_texts(tables: dict[str, Path]) -> None:
    """Exactly, as the sample's weights are at hand."""
    found = compare_calibrations(list(tables.values()), BuildRequest())
    assert found.gemms is not None
    assert len(found.gemms) == 24
    assert all(gemm.first.exact and gemm.second.exact for gemm in found.gemms)
    assert sum(gemm.first.clips for gemm in found.gemms) > 12
    assert sum(gemm.second.clips for gemm in found.gemms) > 12
    assert found.texts is not None
    assert {row.kind for row in found.texts if row.differs} >= {"script", "tokens"}


def test_of_another_model_the_ranges_are_bounded(tables: dict[str, Path], tmp_path: Path) -> None:
    paths = []
    for name, path in tables.items():
        raw = read_calibration(path)
        other = Calibration(**{**vars(raw), "model_sha256": "0" * 64})
        write_calibration(tmp_path / f"{name}.json", other)
        paths.append(tmp_path / f"{name}.json")
    exact = compare_calibrations(list(tables.values()), BuildRequest()).gemms
    bounded = compare_calibrations(paths, BuildRequest()).gemms
    assert exact is not None
    assert bounded is not None
    factors = {gemm.name: gemm.first for gemm in exact}
    for gemm in bounded:
        known = factors[gemm.name].factor
        assert gemm.first.factor is not None
        assert known is not None
        assert gemm.first.factor >= known * (1 - 1e-5)
        assert gemm.first.exact == (gemm.alphas[0] == 0)


def test_merged_ranges_hold_the_texts_of_both(
    tables: dict[str, Path], merged_path: Path, merged: Calibration
) -> None:
    parts = [read_calibration(path) for path in tables.values()]
    for name, entry in merged.ranges.items():
        first, second = (np.array(part.ranges[name].channel_max) for part in parts)
        assert np.array_equal(entry.channel_max, np.maximum(first, second))
    for path in tables.values():
        gemms = compare_calibrations([merged_path, path], BuildRequest()).gemms
        assert gemms is not None
        assert not any(gemm.first.may_clip for gemm in gemms)
    assert merged.settings["merged"] == ",".join(sorted(part.key for part in parts))
    lengths = [Counter(part.corpus.counts.length) for part in parts]
    assert merged.corpus.counts.length == dict(lengths[0] + lengths[1])
    assert merged.profile is not None
    assert merged.profile.texts == sum(p.profile.texts for p in parts if p.profile is not None)


def test_order_of_merging_is_of_no_matter(
    out: Path, tables: dict[str, Path], merged: Calibration, tmp_path: Path
) -> None:
    listed = ",".join(str(path) for path in reversed(tables.values()))
    assert calibrate(tmp_path, "--merge", listed) == 0
    again = tmp_path / "sample" / "calibration" / "classification-merged.json"
    assert read_calibration(again) == merged


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "got 1 calibration, expected at least two different ones"),
        ({"task": "separation"}, "its task is 'separation', expected 'classification'"),
        ({"observer": "mse"}, "its observer is 'mse', expected min-max"),
        ({"prefixes": "{}"}, "its texts had the instructions '{}', expected"),
        ({"storage": "float8_e4m3fn"}, "its type is 'float8_e4m3fn', expected 'int8'"),
    ],
    ids=str,
)
def test_what_does_not_belong_together_is_not_merged(
    tables: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str],
    words: str,
) -> None:
    table = read_calibration(tables["en-de"])
    settings = {k: v for k, v in change.items() if k != "task"}
    changed = {
        **vars(table),
        "task": change.get("task", table.task),
        "settings": {**table.settings, **settings},
        "tensors": {} if "storage" in change else table.tensors,  # another type, other scales
    }
    if change:
        write_calibration(tmp_path / "a.json", Calibration(**changed))
    else:
        (tmp_path / "a.json").write_bytes(tables["en-de"].read_bytes())
    listed = f"{tables['en-de']},{tmp_path / 'a.json'}"
    assert calibrate(tmp_path / "out", "--merge", listed) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_table_of_before_gets_its_profile_without_another_run(
    tables: dict[str, Path], data: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "sample" / "calibration" / "classification.json"
    path.parent.mkdir(parents=True)
    raw = json.loads(tables["zh-ja"].read_text(encoding="utf-8"))
    del raw["profile"]
    path.write_text(json.dumps(raw | {"schema": 1}), encoding="utf-8")
    assert calibrate(tmp_path, "--calibration-data", data["zh-ja"]) == 0
    assert path.read_bytes() == tables["zh-ja"].read_bytes()


def test_bundle_of_a_merged_calibration(
    merged_path: Path,
    merged: Calibration,
    data: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Built with texts that it does not fit, which is said; the bundle answers the same later."""
    few_gate_texts(monkeypatch)
    options = ("--precision", "int8", "--target", "onnxruntime", "--parity-tokens", 64)
    texts = ("--calibration-data", data["zh-ja"])
    named = ("--calibration", merged_path)
    sizes = ("--max-tokens", 64, "--name", "x")
    assert run_cli("engine", "--out", tmp_path, *sizes, *options, *named, *texts) == 0
    (warning,) = (x for x in capsys.readouterr().err.splitlines() if x.startswith("warning: "))
    assert "classification-merged.json and CALIBRATION_DATA differ" in warning
    assert "script 0." in warning
    bundle = tmp_path / "sample" / "x"
    manifest = read_manifest(bundle)
    assert manifest.quantisation is not None
    assert manifest.quantisation.calibration_key == merged.key
    assert run_cli("calibrate", "--compare", bundle, *texts) == 0
    captured = capsys.readouterr()
    assert "calibration.json and CALIBRATION_DATA differ" in captured.err
    assert "script" in captured.out
    # A negative control: texts of both kinds.
    both = tmp_path / "both.jsonl"
    english = load_corpus(data["en-de"], column="body")
    rows = [*load_corpus(data["zh-ja"]), *english]
    both.write_text("\n".join(json.dumps({"text": row.text}) for row in rows))
    assert run_cli("calibrate", "--compare", bundle, "--calibration-data", both) == 0
    captured = capsys.readouterr()
    assert "differ" not in captured.err
    assert "fits CALIBRATION_DATA" in captured.err
