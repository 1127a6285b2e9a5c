"""Figures in prose, bound to the reports they come from.

In a page a figure stands between two comments, which no reader sees::

    after <!-- figure: soak/small.json#/warm as count -->500<!-- / --> calls

It names a report, a place in it, and a format with its digits. A place is a JSON pointer, whose
parts may also be ``*``, every entry, or ``key=value,key=value``, the one entry of a list that has
them; ``key=value,*`` are all that have them. Without a leading slash it is a row of
:data:`tests.bench.derived.DERIVED`. Several values are shown as their range.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.bench.derived import DERIVED
from tests.bench.sources import Tree

MARKED = re.compile(
    r"<!-- figure: (?P<report>[^#\s]+)#(?P<place>(?:(?!-->).)+) as (?P<format>\S+) -->"
    r"(?P<text>[^\n]*?)<!-- / -->"
)
_CODE = re.compile(r"^```.*?^```|`[^`\n]*(?:\n[^`\n]+)?`", re.MULTILINE | re.DOTALL)
# What looks like a marker and is none.
BROKEN = re.compile(r"<!-- ?figure:? |<!-- ?/ ?-->")


@dataclass(frozen=True)
class Format:
    """A number as it is shown: times ``scale``, with so many digits after the point, and a unit."""

    scale: float = 1
    unit: str = ""
    digits: int = 0
    thousands: bool = False

    def shown(self, value: float, digits: int | None) -> str:
        comma = "," if self.thousands else ""
        return f"{value * self.scale:{comma}.{self.digits if digits is None else digits}f}"


FORMATS: Mapping[str, Format] = {
    "number": Format(),  # with its unit, if any, in the text
    "count": Format(thousands=True),
    "%": Format(100, " %"),
    "times": Format(1, " times", 1),
    "cosine": Format(digits=5),
    "s": Format(1, " s"),
    "minutes": Format(1 / 60, " minutes"),  # of seconds
    "kB": Format(1e-3, " kB"),  # of bytes, and so the next two
    "MB": Format(1e-6, " MB"),
    "GB": Format(1e-9, " GB", 1),
}


def shown(tree: Tree, report: str, place: str, form: str) -> str:
    """A figure as the report gives it. Raises ValueError where anything of it is unknown."""
    name, _, digits = form.partition(".")
    if name not in FORMATS or not re.fullmatch(r"\d?", digits):
        raise ValueError(f"no format {form}: one of {', '.join(FORMATS)}, and .DIGITS")
    found = values(tree.report(report), place)
    row = FORMATS[name]
    ends = [row.shown(value, int(digits) if digits else None) for value in (min(found), max(found))]
    return "–".join(dict.fromkeys(ends)) + row.unit


def values(report: Any, place: str) -> list[float]:
    """The numbers at a place. Raises ValueError where there is none."""
    if not place.startswith("/"):
        if place not in DERIVED:
            raise ValueError(f"no row {place} in tests/bench/derived.py")
        return list(DERIVED[place](report))
    found = list(_at(report, place[1:].split("/"), place))
    if not found or not all(isinstance(v, int | float) for v in found):
        raise ValueError(f"{place} is no number: {str(found)[:60]}")
    return found


def _at(node: Any, parts: list[str], place: str) -> Iterator[Any]:
    if not parts:
        yield node
        return
    part, rest = parts[0].replace("~1", "/").replace("~0", "~"), parts[1:]
    entries = list(node.values()) if isinstance(node, dict) else node
    if part == "*" and isinstance(entries, list):
        for entry in entries:
            yield from _at(entry, rest, place)
    elif isinstance(node, list) and "=" in part:
        wanted = dict(pair.split("=", 1) for pair in part.removesuffix(",*").split(","))
        found = [e for e in node if all(str(e.get(k)) == v for k, v in wanted.items())]
        if not found or (len(found) > 1 and not part.endswith(",*")):
            raise ValueError(f"{place}: {len(found)} entries with {part}, expected one")
        for entry in found:
            yield from _at(entry, rest, place)
    elif isinstance(node, list) and part.isdecimal() and int(part) < len(node):
        yield from _at(node[int(part)], rest, place)
    elif isinstance(node, dict) and part in node:
        yield from _at(node[part], rest, place)
    else:
        raise ValueError(f"{place}: there is no {part}")


def visible(text: str) -> str:
    """A page without its code, in which a marker is only an example; the rest stays in place."""
    return _CODE.sub(lambda m: re.sub(r"[^\n]", "\0", m[0]), text)


def rewritten(tree: Tree, text: str) -> str:
    """A page with its bound figures as the reports give them."""
    parts, end = [], 0
    for match in MARKED.finditer(visible(text)):
        figure = shown(tree, match["report"], match["place"], match["format"])
        parts += [text[end : match.start("text")], figure]
        end = match.end("text")
    return "".join([*parts, text[end:]])


def reports(text: str) -> list[str]:
    """Those that a page's bound figures come from."""
    return [match["report"] for match in MARKED.finditer(visible(text))]
