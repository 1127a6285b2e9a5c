"""Finds figures in a page's prose that no report stands behind.

A figure is a measured number: a number with a unit of time, rate, size or share, a multiple, a
cosine or other decimal below 1.1 with two or more digits, "N of M", and a number that fills a cell
of a table. What is none is told by rules, in this order of preference: where it stands (code, a
heading, a link, a column of limits), what stands before it ("at most"), its unit (MiB and GiB are
limits here, measured sizes are in MB and GB), a line ``<!-- no figures: WHY -->`` above a table of
settings or arithmetic, and last a row of ``settings.py``.

How long a make target takes, "about fifteen minutes", may be said on a page that names the target,
in the words of the Makefile's own help: that is for a reader's patience, not a measurement.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.bench.bindings import MARKED
from tests.bench.settings import SETTINGS

_NUMBER = r"(?<![\w.,/-])\d[\d,.]*(?:(?:\s?–\s?| to | and | or |; )\d[\d,.]*)*"
_UNIT = (
    r"\s?(?:%|×(?!\s?\d)|[kMGT]B\b|bytes\b|[GT]FLOP(?:/s)?|times\b|seconds?\b|minutes?\b|min\b|"
    r"hours?\b|ms\b|µs\b|s\b(?! of)|(?:texts|tokens|requests)(?:/s| a second)\b|percent\b|"
    r"per cent\b|TOP/s)"
)
_WORD = (
    r"\b(?:half an?|two thirds|a third|a quarter|one|two|three|four|five|six|seven|eight|nine|ten|"
    r"twelve|fifteen|twenty|thirty|forty|sixty)(?: to (?:two|three|four|five|ten))?"
    r" (?:times|seconds?|minutes?|hours?|per ?cent)\b"
)
_SHARE = r"(?:0\.\d{2,}|1\.0\d+)"
_PATTERN = re.compile(
    rf"{_NUMBER}{_UNIT}|{_WORD}|(?<![\w.,-]){_SHARE}(?:(?:, | and |; |–){_SHARE})*(?![\w.]*\d)|"
    r"\b\d+(?:,\d{3})* of (?:the )?\d[\d,]*\b",
    re.IGNORECASE,
)
_CELL = re.compile(r"(?:[+−]?\d[\d.,]*(?:\s?[–/;,×]\s?)?)+")
# Before a number: it bounds something, or was asked for.
_BOUND = re.compile(
    r"(?:at least|at most|more than|less than|fewer than|below|above|beyond|within|"
    r"default(?:s to|:| of| is)?|targets?|aim|asked for|limits? of|gate|>|≥|≤|<)"
    r"[\s(*]*(?:about )?$",
    re.IGNORECASE,
)
# After it, in its sentence: it is worked out on the page, or nobody measured it and it says so.
_REASONED = re.compile(r"^[^.;|]{0,60}\((?:arithmetic|an estimate)\)")
# A column that holds what is set or asked for.
_SET = re.compile(
    r"default|limit|gate|target|asked|aim|at least|at most|allowed|schema|version|minor|code$",
    re.IGNORECASE,
)
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"<!-- figures: \S+ -->.*?<!-- end -->", re.DOTALL)
_SOURCES = re.compile(r"<!-- sources -->.*?<!-- /sources -->", re.DOTALL)
_NONE = re.compile(
    r"^<!-- no figures: [^\n]+ -->\n.*?(?=\n(?!\|)[^\n]|\Z)", re.MULTILINE | re.DOTALL
)
_HIDDEN = (_FENCE, _BLOCK, _NONE, _SOURCES, MARKED, re.compile(r"<!--.*?-->", re.DOTALL))
_INLINE = (
    re.compile(r"`[^`\n]*(?:\n[^`\n]+)?`"),
    re.compile(r"\]\([^)\s]*\)"),
    re.compile(r"^#+ .*$", re.M),
)


@dataclass(frozen=True)
class Found:
    """A figure that nothing stands behind."""

    line: int
    text: str


def prose(text: str) -> str:
    """A page without what holds no prose; every other character stays where it was."""
    for pattern in _HIDDEN:
        text = pattern.sub(lambda m: re.sub(r"[^\n]", "\0", m[0]), text)
    for pattern in _INLINE:
        text = pattern.sub(lambda m: re.sub(r"[^\n|]", "\0", m[0]), text)
    return text


def figures(page: str, text: str, makefile: str) -> Iterator[Found]:
    """Of a page, by its path in the repository. ``makefile`` is the Makefile's text."""
    rows = [row for row in SETTINGS if re.fullmatch(row.page, page)]
    clean = prose(text)
    joined = clean.replace("\n", " ")
    patience = _helps(text, makefile)
    named = [m for row in rows for m in re.finditer(row.pattern, joined)]
    seen = set()
    for match in _PATTERN.finditer(joined):
        known = any(a.start() <= match.start() and match.end() <= a.end() for a in named)
        if not known and not _set(joined, match, text, patience):
            line = clean.count("\n", 0, match.start()) + 1
            seen.add((line, match[0]))
            yield Found(line, match[0])
    for number, row_text, cell in _cells(clean, text):
        twice = any(cell in figure for at, figure in seen if at == number)
        settings = [found[0] for row in rows for found in re.finditer(row.pattern, row_text)]
        if not twice and not any(cell in setting for setting in settings):
            yield Found(number, cell)


def unused(pages: dict[str, str]) -> list[str]:
    """Rows of settings that no page needs."""
    return [
        f"tests/bench/settings.py: {row.pattern!r} is in none of {row.page}"
        for row in SETTINGS
        if not any(
            re.fullmatch(row.page, page) and re.search(row.pattern, _flat(text))
            for page, text in pages.items()
        )
    ]


def _flat(text: str) -> str:
    return prose(text).replace("\n", " ")


def _set(joined: str, match: re.Match[str], text: str, patience: str) -> bool:
    """Whether a rule says that it is no figure."""
    before = joined[max(0, match.start() - 40) : match.start()]
    return bool(
        _BOUND.search(before)
        or _REASONED.match(joined[match.end() :])
        or (re.search(r"minutes?|hours?", match[0]) and match[0] in patience)
        or _column(text, match.start())
    )


def _helps(text: str, makefile: str) -> str:
    """What the Makefile's help says of the targets that a page names, but as a source."""
    text = _SOURCES.sub("", _BLOCK.sub("", text))
    lines = dict(re.findall(r"^([a-z][a-z-]*):.* ## (.*)$", makefile, re.MULTILINE))
    return " ".join(lines.get(name, "") for name in re.findall(r"\bmake ([a-z][a-z-]*)", text))


def _column(text: str, at: int) -> bool:
    """Whether a place is in a column of what is set."""
    start, end = text.rfind("\n", 0, at) + 1, text.find("\n", at)
    if not text[start:end].startswith("|"):
        return False
    head = _head(text[:start].split("\n")[:-1])
    column = text[start:at].count("|") - 1
    return column < len(head) and bool(_SET.search(head[column]))


def _head(above: list[str]) -> list[str]:
    """The first row of the table that the last lines are of."""
    row = ""
    for line in reversed(above):
        if not line.startswith("|"):
            break
        row = line
    return [cell.strip() for cell in row.strip("|").split("|")]


def _cells(clean: str, text: str) -> Iterator[tuple[int, str, str]]:
    """Cells of tables that are nothing but numbers, in columns of what is found."""
    head: list[str] = []
    lines = zip(clean.split("\n"), text.split("\n"), strict=True)
    for number, (line, whole) in enumerate(lines, 1):
        if not line.startswith("|"):
            head = []
            continue
        cells = [cell.strip() for cell in (line if head else whole).strip("|").split("|")]
        if not head:
            head = cells
            continue
        for title, cell in zip(head, cells, strict=False):
            if _CELL.fullmatch(cell) and not _SET.search(title):
                yield number, line, cell
