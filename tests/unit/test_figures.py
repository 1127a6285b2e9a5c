"""Figures in the documents are those of the committed reports, and look the same everywhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.bench import aims, plots, reports, tables
from tests.bench.contenders import CONTENDERS
from tests.bench.sources import Tree

NAMES = reports.names()
PAGES = [page for page in Tree(reports.ROOT).pages() if tables.blocks(page.read_text("utf-8"))]
REBUILD, PYTORCH, SWITCHABLE = "rebuild per call", "PyTorch FlashAttention", "adaptrt switchable"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_tables_are_what_the_reports_give(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert tables.updated(text, path) == text, "run make figures"


def test_every_marker_is_a_table_and_every_table_is_shown() -> None:
    texts = [path.read_text(encoding="utf-8") for path in PAGES]
    marked = [name for text in texts for name in re.findall(r"<!-- figures: (\S+) -->", text)]
    assert sorted(marked) == sorted(tables.BLOCKS)
    assert sum(text.count("<!-- end -->") for text in texts) == len(marked)


def test_a_changed_figure_is_written_anew() -> None:
    path = reports.FOLDER / "cpu.md"
    text = path.read_text(encoding="utf-8")
    changed = re.sub(r"\d\.\d\d ×", "0.01 ×", text, count=1)
    assert changed != text
    assert tables.updated(changed, path) == text


def test_an_unknown_table_is_an_error() -> None:
    with pytest.raises(KeyError, match="nowhere"):
        tables.updated("<!-- figures: nowhere -->\n<!-- end -->")


@pytest.mark.parametrize("name", NAMES)
def test_a_report_names_its_machine_day_and_contenders(name: str) -> None:
    report = reports.load(name)
    assert re.search(r"EPYC \((Zen [45]|generation not recorded).*\), 2 cores", report["machine"])
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


def test_ratios_are_of_rounds_where_the_report_holds_them_and_else_of_medians() -> None:
    report: dict[str, Any] = {
        "rows": [
            {"contender": PYTORCH, "case": "1x128", "seconds": 4.0, "times_ours": 1.9},
            {"contender": "adaptrt", "case": "1x128", "seconds": 2.0, "times_ours": 1.0},
            {"contender": "adaptrt INT8", "case": "1x128", "seconds": 0.5, "times_ours": 0.3},
        ]
    }
    assert reports.ratio(report, PYTORCH, "adaptrt", "1x128") == 1.9
    assert reports.ratio(report, PYTORCH, "adaptrt INT8", "1x128") == 8.0
    assert reports.ratio(report, PYTORCH, "adaptrt INT8", "1x512") is None
    report["rows"][0]["seconds_by_round"] = {"0": 4.0, "1": 3.0, "2": 9.0}
    report["rows"][2]["seconds_by_round"] = {"1": 1.0, "2": 1.0}
    assert reports.ratio(report, PYTORCH, "adaptrt INT8", "1x128") == 6.0


def test_targets_stand_beside_what_was_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"PyTorch BF16": 3.0, "sentence-transformers BF16": 9.0, "adaptrt OpenVINO BF16": 2.0}
    rows = [
        {"contender": who, "case": case, "seconds": s, "times_ours": 1.0}
        for who, s in seconds.items()
        for case in ("1x128", "corpus")
    ]
    report = reports.load("zen4-mid") | {"rows": rows}
    name, table = aims.AIMS["cpu-targets"]
    monkeypatch.setattr(aims, "names", lambda: [name])
    monkeypatch.setattr(aims, "load", lambda _: report)
    line = next(x for x in aims.against(name, table).splitlines() if "1.50 (1.3)" in x)
    assert line.endswith("| 4.50 (3) |")  # of the corpus, beside sentence-transformers
    assert report["machine"] in aims.against(name, table)
    monkeypatch.setattr(aims, "names", lambda: [])
    assert "1.50" not in aims.against(name, table)
    assert "not measured (1.3)" in aims.against(name, table)


def test_each_contender_looks_like_no_other() -> None:
    looks = CONTENDERS.values()
    assert len({c.marker for c in looks}) == len(looks)
    assert len({c.colour for c in looks}) <= 8  # more cannot be told apart


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
