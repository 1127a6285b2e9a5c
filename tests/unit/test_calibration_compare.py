"""Two calibrations GEMM by GEMM: exact where it can be, bounded where not, and who clips whom."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.compare import gemm_differences, overshoot
from calibration.smoothing import input_factors
from calibration.table import Range, write_calibration
from export.quantisation.compare import as_json, compare, open_table, text_lines
from export.request import BuildRequest
from runtimes.errors import InputError
from tests.support import run_cli
from tests.unit.test_calibration_table import FC1, PROFILE, edit, make


def measured(channels: list[float], alpha: float = 0.0, reads: Any = None) -> Range:
    """A range as min-max gives it: the greatest smoothed magnitude."""
    own = np.array(channels, np.float32)
    weight = np.ones_like(own) if reads is None else np.asarray(reads, np.float32)
    factors = input_factors(own, weight[:, None], alpha, "float32")
    amplitude = float((own * factors).max())
    return Range(
        observer="min-max",
        amplitude=amplitude,
        scale=max(amplitude / 127, 2.0**-14),
        histogram_digest="ab",
        channel_max=own.tolist(),
        alpha=alpha,
    )


def test_plain_inputs_are_exact() -> None:
    small, large = measured([1.0, 2.0, 0.5, 0.0]), measured([0.5, 3.0, 0.5, 0.0])
    assert overshoot(small, large).factor == pytest.approx(1.5)
    assert overshoot(small, large).channels == 0.25
    assert overshoot(small, large).clips
    assert overshoot(large, small).factor == pytest.approx(2 / 3)
    assert not overshoot(large, small).may_clip
    assert not overshoot(small, small).may_clip


CHANNELS = st.lists(st.floats(2.0**-10, 100, width=32), min_size=3, max_size=3)


@given(CHANNELS, CHANNELS, CHANNELS, st.sampled_from([0.3, 0.5, 0.7]))
def test_without_the_weights_smoothed_inputs_are_bounded(
    mine: list[float], others: list[float], reads: list[float], alpha: float
) -> None:
    first, second = measured(mine, alpha, reads), measured(others, alpha, reads)
    exact = overshoot(first, second, np.array(reads, np.float32))
    bound = overshoot(first, second)
    assert exact.exact
    assert not bound.exact
    assert exact.factor is not None
    assert bound.factor is not None
    assert exact.factor <= bound.factor * (1 + 1e-5)
    assert not bound.clips
    assert not overshoot(first, first, np.array(reads, np.float32)).may_clip


def test_other_observers_with_smoothing_are_unknown() -> None:
    first = replace(measured([1.0], 0.5), observer="mse")
    assert overshoot(first, measured([2.0])).factor is None
    assert overshoot(first, measured([2.0])).may_clip


def test_the_most_different_come_first() -> None:
    first = {name: measured([1.0, 1.0]) for name in "abc"}
    second = first | {"b": measured([1.0, 8.0]), "c": measured([0.5, 0.5])}
    rows = gemm_differences(first, second)
    assert [row.name for row in rows] == ["b", "c", "a"]
    assert [row.ratio for row in rows] == [8, 0.5, 1]


def test_dead_inputs_are_compared() -> None:
    dead, live = measured([0.0, 0.0]), measured([1.0, 0.0])
    (row,) = gemm_differences({"a": dead}, {"a": live})
    assert row.first.clips
    assert not row.second.may_clip
    (row,) = gemm_differences({"a": dead}, {"a": dead})
    assert row.ratio == 1


@pytest.mark.parametrize("other", [{"b": measured([1.0])}, {"a": measured([1.0, 2.0])}, {}])
def test_other_gemms_are_refused(other: dict[str, Range]) -> None:
    with pytest.raises(InputError, match=r"their GEMMs differ .*expected two of one model"):
        gemm_differences({"a": measured([1.0])}, other)


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    """A bundle's and a file's."""
    (tmp_path / "bundle").mkdir()
    first, second = tmp_path / "bundle" / "calibration.json", tmp_path / "b.json"
    ranges = {FC1: measured([1.0, 2.0]), "other": measured([1.0], 0.5)}
    write_calibration(first, make(tensors=ranges))
    write_calibration(second, make(tensors=ranges | {FC1: measured([4.0, 2.0])}))
    return first.parent, second


def test_files_and_bundles_are_compared(tables: tuple[Path, Path]) -> None:
    found = compare([open_table(path) for path in tables], BuildRequest())
    lines = text_lines(found)
    assert lines[0].endswith("bundle/calibration.json")
    assert "  the first clips the second's texts in 1 GEMMs" in lines
    assert "  the second clips the first's texts in 0 GEMMs" in lines
    assert any(line.startswith(f"{FC1} ") and "2.00x (50% of channels)" in line for line in lines)
    raw = json.loads(json.dumps(as_json(found)))
    assert [row["name"] for row in raw["gemms"]] == [FC1, "other"]
    assert raw["texts"][0] == {
        "kind": "length",
        "divergence": 0.0,
        "chance": 0.125,
        "differs": False,
        "most": [
            {"name": "a", "first": 2 / 3, "second": 2 / 3},
            {"name": "b", "first": 1 / 3, "second": 1 / 3},
        ],
    }


def test_tables_of_before_profiles_are_compared_without_texts(tables: tuple[Path, Path]) -> None:
    edit(tables[1], lambda v: (v.update(schema=1), v.pop("profile")))
    found = compare([open_table(path) for path in tables], BuildRequest())
    assert found.texts is None
    assert "texts: a table does not say what they are like" in "\n".join(text_lines(found))
    assert found.gemms is not None


def test_command_prints_lines_or_json(
    tables: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    both = ",".join(map(str, tables))
    assert run_cli("calibrate", "--compare", both) == 0
    assert "2 GEMMs; amplitude" in capsys.readouterr().out
    assert run_cli("calibrate", "--compare", both, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["gemms"]) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--compare", "A"], "got 1 calibrations without CALIBRATION_DATA, expected two"),
        (["--compare", "A,B,B"], "got 3 calibrations"),
        (["--compare", "A,B", "--calibration-data", "T"], "got 2 calibrations and CALIBRATION_DA"),
        (["--compare", "A", "--calibration-data", "T"], "counted with another tokenizer"),
        (["--compare", "OLD", "--calibration-data", "T"], "tables of before 2026-11-29"),
        (["--compare", "A,B", "--merge", "A,B"], "--merge and --compare: got both"),
        (["--compare", "A,"], "--compare: got '', expected a name"),
        (["--compare", "A,EMPTY"], "no calibration.json in it; bundles in INT8 or FP8 have one"),
        (["--json"], "--json: is for --compare"),
        (["--calibration", "B", "--merge", "A,B"], "--calibration and --merge: got both"),
        (["--merge", "A,B", "--observer", "mse"], "MERGE: got OBSERVER=mse, expected min-max"),
        (["--merge", "A", "--task", "all"], "MERGE: got TASK=all"),
        (["--merge", "A,B"], "MERGE: .*bundle: its model is"),
    ],
    ids=" ".join,
)
def test_wrong_usage(
    tables: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    words: str,
) -> None:
    (tmp_path / "t.txt").write_text("one\ntwo\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "old.json").write_bytes(tables[1].read_bytes())
    edit(tmp_path / "old.json", lambda v: (v.update(schema=1), v.pop("profile")))
    names = {
        "A": tables[0],
        "B": tables[1],
        "T": tmp_path / "t.txt",
        "OLD": tmp_path / "old.json",
        "EMPTY": tmp_path / "empty",
    }
    if options == ["--compare", "A", "--calibration-data", "T"]:
        names["A"] = tables[0] / "calibration.json"  # a bundle would need its manifest
    filled = [",".join(str(names.get(p, p)) for p in option.split(",")) for option in options]
    assert run_cli("calibrate", *filled, "--out", tmp_path / "out") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.search(words, last), last
    assert not (tmp_path / "out").exists()


def test_profile_of_the_test_is_one(tables: tuple[Path, Path]) -> None:
    assert open_table(tables[0]).table.profile == PROFILE
