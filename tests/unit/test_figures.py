"""Figures in the documents are those of the committed reports, and look the same everywhere."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.bench import plots, reports, run, tables
from tests.bench.contenders import CONTENDERS

NAMES = reports.names()
REBUILD, PYTORCH, SWITCHABLE = "rebuild per call", "PyTorch FlashAttention", "adaptrt switchable"


@pytest.mark.parametrize("path", tables.documents(), ids=lambda path: path.name)
def test_tables_are_what_the_reports_give(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert tables.updated(text) == text, "run python -m tests.bench.tables"


def test_every_marker_is_a_table_and_every_table_is_shown() -> None:
    texts = [path.read_text(encoding="utf-8") for path in tables.documents()]
    marked = [name for text in texts for name in re.findall(r"<!-- figures: (\S+) -->", text)]
    assert sorted(marked) == sorted(tables.BLOCKS)
    assert sum(text.count("<!-- end -->") for text in texts) == len(marked)


def test_a_changed_figure_is_written_anew() -> None:
    path = reports.FOLDER / "cpu.md"
    text = path.read_text(encoding="utf-8")
    changed = re.sub(r"\d\.\d\d ×", "0.01 ×", text, count=1)
    assert changed != text
    assert tables.updated(changed) == text


def test_an_unknown_table_is_an_error() -> None:
    with pytest.raises(KeyError, match="nowhere"):
        tables.updated("<!-- figures: nowhere -->\n<!-- end -->")


@pytest.mark.parametrize("name", NAMES)
def test_a_report_names_its_machine_day_and_contenders(name: str) -> None:
    report = reports.load(name)
    assert re.search(r"EPYC \((Zen 4|generation not recorded).*\), 2 cores", report["machine"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", report["date"])
    for row in report["rows"]:
        assert row["case"] in CONTENDERS[row["contender"]].cases
    for caption in (tables.every(report), plots.title(report)):
        assert report["machine"] in caption
        assert report["date"] in caption


@pytest.mark.parametrize(
    ("name", "who"),
    [
        ("cpu-full", {PYTORCH, SWITCHABLE, REBUILD}),
        ("cpu-mid", {REBUILD}),
        ("zen4-mid", {REBUILD}),
        ("zen4-full", set()),
    ],
)
def test_memory_that_is_too_low_is_no_number_anywhere(name: str, who: set[str]) -> None:
    report = reports.load(name)
    for row in report["rows"]:
        assert (reports.extra_gb(report, row) is None) == (row["contender"] in who)
    lines = tables.every(report).splitlines()
    shown = {line.split(" | ")[1] for line in lines if "| not measured |" in line}
    assert shown == who
    assert {line.contender for line in plots.lines(report) if not line.memory} == who
    noted = [line.split(": ")[1].split(", ") for line in plots.note(report).splitlines()]
    assert {contender for contenders in noted for contender in contenders} == who


def test_a_run_takes_no_figure_from_another() -> None:
    """PyTorch's memory in cpu-full was once that of zen4-full."""
    seen: dict[float, str] = {}
    for name in NAMES:
        for row in reports.load(name)["rows"]:
            assert seen.setdefault(row["seconds"], name) == name
    pytorch = [r for r in reports.load("cpu-full")["rows"] if r["contender"] == PYTORCH]
    others = {
        r["extra_gb"]
        for n in NAMES
        if n != "cpu-full"
        for r in reports.load(n)["rows"]
        if r["contender"] == PYTORCH
    }
    assert not others & {row["extra_gb"] for row in pytorch}


def test_ratios_against_adaptrt_are_the_rounds_and_others_are_of_medians() -> None:
    report = {
        "rows": [
            {"contender": PYTORCH, "case": "1x128", "seconds": 4.0, "times_ours": 1.9},
            {"contender": "adaptrt", "case": "1x128", "seconds": 2.0, "times_ours": 1.0},
            {"contender": "adaptrt INT8", "case": "1x128", "seconds": 0.5, "times_ours": 0.3},
        ]
    }
    assert reports.ratio(report, PYTORCH, "adaptrt", "1x128") == 1.9
    assert reports.ratio(report, PYTORCH, "adaptrt INT8", "1x128") == 8.0
    assert reports.ratio(report, PYTORCH, "adaptrt INT8", "1x512") is None


def test_each_contender_looks_like_no_other() -> None:
    looks = CONTENDERS.values()
    assert len({c.colour for c in looks}) == len({c.marker for c in looks}) == len(looks)


@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_drawn_from_the_reports(name: str) -> None:
    drawn = plots.drawn_from(reports.FOLDER / f"{name}.png")
    assert drawn == plots.digest(reports.load(name)), "run python -m tests.bench.plots"


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_has_one_colour_per_contender(name: str) -> None:
    pytest.importorskip("matplotlib")
    figure = plots.draw(reports.load(name))
    for axis in figure.axes:
        assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
        assert "log" in axis.get_ylabel()
        for line in axis.get_lines():
            contender = CONTENDERS[str(line.get_label())]
            assert (line.get_color(), line.get_marker()) == (contender.colour, contender.marker)
    assert figure.axes[1].get_lines()


def test_a_run_times_each_contender_where_it_belongs_and_says_where_it_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, list[str]] = {}

    def worker(
        _work: Path, contender: str, cases: Sequence[str], *_: object
    ) -> list[dict[str, Any]]:
        asked[contender] = list(cases)
        return [{"case": c, "seconds": 1.0, "tokens": 8, "peak": 3e9, "loaded": 2e9} for c in cases]

    monkeypatch.setattr(run, "run_worker", worker)
    monkeypatch.setattr(run, "prepare", lambda *_: None)
    monkeypatch.setattr(run, "gemm_gflops", lambda: 100.0)
    monkeypatch.setattr(run, "gemm_share", lambda *_: 0.5)
    monkeypatch.setattr(run, "save", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["run", "--size", "mid", "--out", str(tmp_path)])
    run.main()
    assert asked == {name: list(contender.cases) for name, contender in CONTENDERS.items()}
    report = json.loads((tmp_path / "mid" / "bench.json").read_text())
    assert report["machine"].endswith("cores")
    assert (tmp_path / "mid" / "bench.md").read_text() == tables.every(report) + "\n"
    assert reports.extra_gb(report, report["rows"][0]) == 1.0
