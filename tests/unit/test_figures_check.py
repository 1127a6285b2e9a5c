"""``make figures-check`` finds what it is for, on small copies; and nothing in the repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench import figures, tables, unbound
from tests.bench.bindings import MARKED, shown
from tests.bench.derived import DERIVED
from tests.bench.settings import Setting
from tests.bench.sources import ROOT, Tree

REPORT = {
    "command": "make soak",
    "date": "2026-11-29",
    "machine": "a machine",
    "share": 0.125,
    "rows": [{"who": "a/b", "bytes": 1.2e6}, {"who": "c", "bytes": 3.4e6}],
}
SENTENCE = "It grows by <!-- figure: soak/small.json#/share as %.1 -->12.5 %<!-- / --> in all."


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """One page, one report, one target."""
    monkeypatch.setattr(unbound, "SETTINGS", ())
    (tmp_path / "Makefile").write_text("soak: ## Memory (about two minutes)\n", encoding="utf-8")
    home = tmp_path / "docs" / "benchmarks" / "soak"
    home.mkdir(parents=True)
    report(tmp_path, REPORT)
    page(Tree(tmp_path), f"# Memory\n\n{SENTENCE}\n")
    figures.write(Tree(tmp_path))
    return Tree(tmp_path)


def report(root: Path, content: dict[str, Any], name: str = "soak/small.json") -> None:
    (root / "docs" / "benchmarks" / name).write_text(json.dumps(content), encoding="utf-8")


def page(tree: Tree, text: str) -> None:
    (tree.root / "docs" / "page.md").write_text(text, encoding="utf-8")


def read(tree: Tree) -> str:
    return (tree.root / "docs" / "page.md").read_text(encoding="utf-8")


def the_only(tree: Tree) -> str:
    (found,) = figures.problems(tree)
    return found


def test_the_repository_has_no_figure_without_its_source() -> None:
    assert figures.problems(Tree(ROOT)) == []


def test_a_page_lists_the_sources_of_its_figures(tree: Tree) -> None:
    assert figures.problems(tree) == []
    assert (
        "*Figures in the text: `make soak` ([soak/small.json](benchmarks/soak/small.json), "
        "2026-11-29, a machine).*" in read(tree)
    )
    before = read(tree)
    assert figures.write(tree) == []
    assert read(tree) == before
    page(tree, before.replace(SENTENCE, "Nothing."))
    assert "expected" in figures.problems(tree)[0]
    figures.write(tree)
    assert read(tree) == "# Memory\n\nNothing.\n"


def test_a_changed_report_is_found_and_mended(tree: Tree) -> None:
    report(tree.root, REPORT | {"share": 0.25})
    found = the_only(tree)
    assert found.startswith("docs/page.md:3: '12.5 %' stands there, soak/small.json says '25.0 %'")
    assert found.endswith("make figures")
    assert len(figures.write(tree)) == 1
    assert figures.problems(tree) == []
    assert "-->25.0 %<!-- / -->" in read(tree)


def test_a_changed_number_in_a_page_is_found(tree: Tree) -> None:
    page(tree, read(tree).replace("12.5 %", "2.5 %"))
    assert the_only(tree).startswith("docs/page.md:3: '2.5 %' stands there")


def test_a_changed_number_in_a_generated_table_is_found(tmp_path: Path) -> None:
    name = "docs/benchmarks/memory.md"
    text = (ROOT / name).read_text(encoding="utf-8")
    found = figures.differing(Tree(ROOT), name, text.replace("| 93 | 143 |", "| 93 | 102 |"))
    assert len(found) == 1
    assert found[0].startswith(name)
    assert "| 93 | 143 |" in found[0]


@pytest.mark.parametrize(
    "figure",
    [
        "It takes 12 s.",
        "It takes five minutes.",
        "`make other` takes about two minutes.",
        "It is 3.5 times as fast.",
        "It is 2.1 to 3.4\ntimes as fast.",
        "It keeps 98 %.",
        "It compiled for 20 s.",
        "It has 1,133 MB.",
        "The least cosine is 0.9987.",
        "The ratio is 1.04.",
        "It found 40 of 50 texts.",
        "It reached 437 GFLOP/s.",
        "It gives 605 tokens/s.",
        "| who | seconds |\n|---|---|\n| a | 12 |",
        "| who | texts |\n|---|---|\n| a | 1,200–1,300 |",
    ],
)
def test_a_figure_without_a_source_is_found(tree: Tree, figure: str) -> None:
    page(tree, f"{read(tree)}\n{figure}\n")
    found = the_only(tree)
    assert "is in no report" in found
    number = int(found.split(":")[1])
    assert number >= read(tree)[: read(tree).index(figure)].count("\n") + 1


@pytest.mark.parametrize(
    "setting",
    [
        "At most 2 % may be lost.",
        "A text has up to `5 s`.",
        "A request of 8 MiB is refused.",
        "## In 30 seconds",
        "`make soak` takes about two minutes.",
        "Python 3.11 and TensorRT 10.3 on 2026-11-29.",
        "```console\nmake soak  # 12 s\n```",
        "| option | default |\n|---|---|\n| a | 12 |",
        "| day | what |\n|---|---|\n| 2026-11-29 | a |",
        "[what](page.md#in-30-seconds)",
        "That is 410 MB (arithmetic).",
        "<!-- no figures: what the device has -->\n\n| device | memory |\n|---|---|\n| a | 12 GB |",
    ],
)
def test_a_setting_is_no_figure(tree: Tree, setting: str) -> None:
    page(tree, f"{read(tree)}\n{setting}\n")
    assert figures.problems(tree) == []


def test_figures_below_a_table_of_settings_count_again(tree: Tree) -> None:
    table = "<!-- no figures: what it has -->\n\n| a | b |\n|---|---|\n| a | 12 GB |"
    page(tree, f"{read(tree)}\n{table}\n\nIt takes 12 s.\n")
    assert "'12 s'" in the_only(tree)


def test_a_row_of_settings_names_a_number_and_is_reported_where_no_page_needs_it(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    page(tree, f"{read(tree)}\nIts gap is 15 s wide. It takes 12 s.\n")
    assert len(figures.problems(tree)) == 2
    row = Setting("docs/page.md", "gap is 15 s", "it is set")
    monkeypatch.setattr(unbound, "SETTINGS", (row,))
    assert "'12 s'" in the_only(tree)
    page(tree, read(tree).replace("\nIts gap is 15 s wide. It takes 12 s.\n", ""))
    assert "is in none of docs/page.md" in the_only(tree)


@pytest.mark.parametrize(
    ("marker", "said"),
    [
        ("soak/small.json#/nothing as %", "there is no nothing"),
        ("soak/small.json#/rows/7/bytes as MB", "there is no 7"),
        ("soak/small.json#/rows/who=x/bytes as MB", "0 entries with who=x"),
        ("soak/small.json#/rows/*/who as MB", "is no number"),
        ("soak/small.json#/date as number", "is no number"),
        ("soak/small.json#nothing as number", "no row nothing"),
        ("soak/other.json#/share as %", "no report soak/other.json"),
        ("../../../Makefile#/share as %", "no report"),
        ("soak/small.json#/share as furlongs", "no format furlongs"),
        ("soak/small.json#/share as %.x", "no format %.x"),
    ],
)
def test_a_marker_of_what_is_not_there_is_found(tree: Tree, marker: str, said: str) -> None:
    page(tree, read(tree).replace("soak/small.json#/share as %.1", marker))
    found = figures.problems(tree)[0]  # a second one where nothing shows the report any more
    assert found.startswith("docs/page.md:3: ")
    assert said in found


def test_half_a_marker_and_one_that_begins_a_line_are_found(tree: Tree) -> None:
    page(tree, read(tree).replace("12.5 %<!-- / -->", "12.5 %"))
    assert any("half a marker" in line for line in figures.problems(tree))
    page(tree, f"{SENTENCE.removeprefix('It grows by ')}\n")
    assert "GitHub" in figures.problems(tree)[0]
    before = read(tree)
    with pytest.raises(ValueError, match="GitHub"):
        figures.write(tree)
    assert read(tree) == before


def test_a_marker_in_code_is_an_example(tree: Tree) -> None:
    example = (
        "Write `<!-- figure: nowhere.json#/a as % -->?<!-- / -->`.\n\n```text\n<!-- / -->\n```\n"
    )
    page(tree, f"{read(tree)}\n{example}")
    assert figures.problems(tree) == []
    assert figures.write(tree) == []


def test_an_unknown_table_is_found(tree: Tree) -> None:
    page(tree, f"{read(tree)}\n<!-- figures: nowhere -->\n<!-- end -->\n")
    assert "no table nowhere" in the_only(tree)


def test_a_table_of_a_report_that_is_not_there_is_found(tree: Tree) -> None:
    page(tree, f"{read(tree)}\n<!-- figures: ladder -->\n<!-- end -->\n")
    assert "table ladder is of ladder/full.json, which is not there" in the_only(tree)


def test_a_report_needs_a_command_and_a_target(tree: Tree) -> None:
    (tree.root / "Makefile").write_text("other: ## Other\n", encoding="utf-8")
    assert "make soak, which the Makefile lacks" in the_only(tree)
    report(tree.root, {k: v for k, v in REPORT.items() if k != "command"})
    assert 'no "command": "make TARGET"' in the_only(tree)
    report(tree.root, REPORT | {"command": "rm -r /"})
    assert 'no "command": "make TARGET"' in the_only(tree)


def test_a_report_that_no_page_shows_is_found(tree: Tree) -> None:
    report(tree.root, REPORT, "soak/other.json")
    assert the_only(tree) == "docs/benchmarks/soak/other.json: no page shows a figure of it"


@pytest.mark.parametrize(
    ("place", "form", "text"),
    [
        ("/rows/0/bytes", "MB.1", "1.2 MB"),
        ("/rows/*/bytes", "MB", "1–3 MB"),
        ("/rows/who=a~1b/bytes", "kB", "1200 kB"),
        ("/rows/who=c,bytes=3400000.0/bytes", "count", "3,400,000"),
        ("/share", "times.3", "0.125 times"),
    ],
)
def test_places_and_formats(tree: Tree, place: str, form: str, text: str) -> None:
    assert shown(tree, "soak/small.json", place, form) == text


def test_every_figure_that_is_worked_out_is_shown() -> None:
    texts = [page.read_text(encoding="utf-8") for page in Tree(ROOT).pages()]
    places = {m["place"] for text in texts for m in MARKED.finditer(text)}
    assert {place for place in places if not place.startswith("/")} == set(DERIVED)


@pytest.mark.parametrize("name", tables.BLOCKS)
def test_a_table_names_the_reports_that_it_reads(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "prediction-errors":
        pytest.skip("reads the published times, which are no report; and fits them anew, slowly")
    seen: set[Path] = set()
    before = Path.read_text

    def read_text(self: Path, *args: Any, **kwargs: Any) -> str:
        if self.suffix == ".json":
            seen.add(self.resolve())
        return before(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", read_text)
    block = tables.BLOCKS[name]
    block.table()
    tree = Tree(ROOT)
    assert seen == {tree.path(report).resolve() for report in block.reports}
    assert bool(block.reports) != bool(block.origin)
