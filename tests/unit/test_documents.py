"""What the documents say is there: commands, variables, options, files, links, names."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from export.console.parser import COMMANDS, make_parser
from runtimes.errors import InputError
from runtimes.manifest_records import (
    SCHEMA,
    SCHEMA_MINOR,
    Architecture,
    Artifact,
    BuiltFor,
    Manifest,
    Model,
    Parity,
    Quantisation,
)
from tests.documents import DOCS, FENCE, README, ROOT, blocks
from tests.unit import test_imports

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TOP = [ROOT / name for name in ("README.md", "DESIGN.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES = [*TOP, *sorted(DOCS.rglob("*.md")), *sorted((ROOT / "examples").glob("*.py"))]
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))

TARGETS = set(re.findall(r"^([a-z-]+):.* ## ", MAKEFILE, re.MULTILINE))
VARIABLES = set(re.findall(r"\$\((?:if \$\()?([A-Z][A-Z0-9_]+)\)", MAKEFILE))
# Those that the Makefile sets for itself, and make's own.
INNER = {
    *re.findall(r"^([A-Z_]+) :?= ", MAKEFILE, re.MULTILINE),
    *("MAKE", "MAKECMDGOALS", "MAKEFILE_LIST"),
}
_LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
# Libraries that only the environment of tests/interop has, which runs these blocks.
ELSEWHERE = (
    "adaptrt.integrations.",
    "sentence_transformers",
    "haystack",
    "qdrant_client",
    "optimum",
    "openai",
    "langchain_openai",
    "llama_index.embeddings",
    "mteb.models",
)
_PATH = re.compile(r"`((?:export|runtimes|calibration|tests|locks|docs|examples)/[\w./-]*)`")


def commands(page: Path) -> Iterator[tuple[list[str], bool]]:
    """The ``make`` and ``adaptrt`` commands of a page in words, and whether each stands in a block.

    In the text one may be named without what it needs to run.
    """
    text = page.read_text(encoding="utf-8")
    whole = blocks(page, "console") if page.suffix == ".md" else (text,)
    lines = [(line, True) for block in whole for line in joined(block).splitlines()]
    spans = re.findall(r"`([^`]+)`", FENCE.sub("", text))
    for line, in_block in [*lines, *((span.replace("\n", " "), False) for span in spans)]:
        command = line.strip().removeprefix("$ ").removeprefix(".venv/bin/")
        if re.match(r"(make|adaptrt) [a-z]", command):
            yield shlex.split(command, comments=True), in_block


def joined(text: str) -> str:
    return re.sub(r"\\\n\s*", " ", text)


@EVERY_PAGE
def test_make_commands_name_targets_and_variables_that_exist(page: Path) -> None:
    for words, _ in commands(page):
        for word in words[1:] if words[0] == "make" else ():
            name, equals, _ = word.partition("=")
            assert name in (VARIABLES - INNER if equals else TARGETS), " ".join(words)


@EVERY_PAGE
def test_adaptrt_commands_are_what_the_parser_takes(page: Path) -> None:
    parser = make_parser(dict.fromkeys(COMMANDS, lambda _: 0))
    for words, in_block in commands(page):
        if words[0] == "make":
            continue
        try:
            parser.parse_args(words[1:])
        except InputError as error:
            if in_block or "the following arguments are required" not in str(error):
                pytest.fail(f"{' '.join(words)}: {error}")


def test_the_commands_above_are_found_at_all() -> None:
    found = [words for page in PAGES for words, _ in commands(page)]
    assert {words[1] for words in found if words[0] == "make"} >= TARGETS - {"clean"}
    assert {words[1] for words in found if words[0] == "adaptrt"} >= set(COMMANDS)


@EVERY_PAGE
def test_python_blocks_compile_and_import_what_exists(page: Path) -> None:
    for text in blocks(page, "python"):
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and not str(node.module).startswith(ELSEWHERE):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), text


@EVERY_PAGE
def test_links_lead_to_files_and_headings(page: Path) -> None:
    """The site's own links are checked when it is built; the root's files and anchors only here."""
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text(encoding="utf-8")))
    for match in _LINK.findall(text) if page.suffix == ".md" else ():
        link = match[0] or match[1]
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page}: {link}"


def anchors(page: Path) -> set[str]:
    text = FENCE.sub("", root_of(page).read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    given = {name for title in titles for name in re.findall(r"\{ #([\w-]+) \}", title)}
    return given | {slug(re.sub(r"\{.*\}", "", title)) for title in titles}


def root_of(page: Path) -> Path:
    """docs/contributing.md and its like are a file of the root."""
    name = f"{page.stem.upper()}.md"
    return ROOT / name if page.parent == DOCS and (ROOT / name).exists() else page


def slug(title: str) -> str:
    words = re.sub(r"[^\w\s-]", "", title.strip().lower())
    return re.sub(r"[\s-]+", "-", words)


@EVERY_PAGE
def test_paths_of_the_project_exist(page: Path) -> None:
    for path in _PATH.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), f"{page}: {path}"


def test_no_page_is_longer_than_it_may_be() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150
    assert (ROOT / "DESIGN.md").stat().st_size <= 8000


def test_the_page_of_variables_has_every_variable_and_target() -> None:
    page = (DOCS / "reference" / "make.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([A-Z][A-Z0-9_]+)(?:=[^`]*)?`", page))
    assert named == (VARIABLES - INNER) | {"ADAPTRT_DEBUG", "PYTHON"}
    assert set(re.findall(r"`make ([a-z-]+)[^`]*`", page)) - {"help"} == TARGETS - {"help"}


def test_every_decision_is_dated_and_in_the_index() -> None:
    index = (DOCS / "decisions" / "index.md").read_text(encoding="utf-8")
    pages = sorted((DOCS / "decisions").glob("2*.md"))
    assert len(pages) >= 40
    for page in pages:
        title, _, dated = page.read_text(encoding="utf-8").splitlines()[:3]
        date = page.name[:10]
        assert dated == f"*Decided {date}.*"
        assert f"| {date} | [{title.removeprefix('# ')}]({page.name}) |" in index


def test_designs_table_has_every_package_in_the_order_of_imports() -> None:
    rows = re.findall(r"^\| `([\w./]+)`", (ROOT / "DESIGN.md").read_text(encoding="utf-8"), re.M)
    packages = [row.removesuffix(".py").replace("/", ".") for row in rows]
    floors = [test_imports.floor(name if "." in name else f"{name}.x") for name in packages[1:]]
    assert floors == sorted(floors)
    named = {name for names in test_imports.FLOORS for name in names}
    assert {name for name in named if not name.startswith("runtimes.")} <= {
        *packages,
        *("export.__init__", "export.request"),
    }


RECORDS = (Manifest, Model, Architecture, BuiltFor, Artifact, Parity, Quantisation)


def test_the_page_of_the_manifest_has_every_entry() -> None:
    page = (DOCS / "reference" / "manifest.md").read_text(encoding="utf-8")
    for record in RECORDS:
        for entry in fields(record):
            assert f"`{entry.name}`" in page, f"{record.__name__}.{entry.name}"
    minors = re.findall(r"^\| (\d+) \| 20", page, re.MULTILINE)
    assert minors == [str(minor) for minor in range(SCHEMA_MINOR + 1)]


def test_stability_says_which_manifests_are_read_and_written() -> None:
    page = (DOCS / "stability.md").read_text(encoding="utf-8")
    row = f"| schema {SCHEMA}, minor 0 to {SCHEMA_MINOR} | schema {SCHEMA}, minor {SCHEMA_MINOR} |"
    assert row in page
