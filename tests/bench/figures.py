"""Figures in the documents: where each comes from, and whether it still is what its report says.

``make figures`` writes the generated tables, the bound figures and the lists of sources anew;
``make figures-check`` prints what differs, what has no source and which report nobody shows.
"""

from __future__ import annotations

import difflib
import re
import sys
from pathlib import Path

from tests.bench import bindings, sources, tables, unbound
from tests.bench.bindings import BROKEN, MARKED
from tests.bench.sources import Tree

_SOURCES = re.compile(r"<!-- sources -->.*?<!-- /sources -->", re.DOTALL)
_MEND = "make figures"
_HOW = (
    "is in no report: bind it (<!-- figure: REPORT.json#/place as FORMAT -->), put it into a "
    "generated table, or move it to a dated decision; a setting: tests/bench/settings.py"
)


def rewritten(tree: Tree, page: Path, text: str) -> str:
    """A page as its reports give it. Raises ValueError for a marker of what is not there."""
    text = bindings.rewritten(tree, tables.updated(text, page))
    names = bindings.reports(text)
    if not names:
        return re.sub(r"\n*<!-- sources -->.*?<!-- /sources -->\n", "\n", text, flags=re.DOTALL)
    listed = sources.page_list(tree, page, names)
    block = f"<!-- sources -->\n\n{listed}\n\n<!-- /sources -->"
    if _SOURCES.search(text):
        return _SOURCES.sub(lambda _: block, text)
    return f"{text.rstrip()}\n\n{block}\n"


def problems(tree: Tree) -> list[str]:
    """Everything that is wrong with figures in the documents, a line each."""
    found = sources.faults(tree)
    if found:
        return found
    texts = {
        page.relative_to(tree.root).as_posix(): page.read_text(encoding="utf-8")
        for page in tree.pages()
    }
    makefile = tree.makefile()
    shown: set[str] = set()
    for name, text in texts.items():
        found += wrong(tree, name, text) or differing(tree, name, text)
        found += [
            f"{name}:{at.line}: {at.text!r} {_HOW}" for at in unbound.figures(name, text, makefile)
        ]
        shown.update(bindings.reports(text))
        shown.update(
            r for b in tables.blocks(text) if b in tables.BLOCKS for r in tables.BLOCKS[b].reports
        )
    found += [
        f"{tree.path(name).relative_to(tree.root)}: no page shows a figure of it"
        for name in tree.reports()
        if name not in shown
    ]
    return found + unbound.unused(texts)


def wrong(tree: Tree, name: str, text: str) -> list[str]:
    """Markers that are none, that GitHub would take for a block, or that name what is not there."""
    found = []
    for number, line in enumerate(bindings.visible(text).split("\n"), 1):
        where = f"{name}:{number}"
        if BROKEN.search(MARKED.sub("", line)):
            found.append(f"{where}: half a marker; expected {_FORM}")
        if line.lstrip().startswith("<!-- figure: "):
            found.append(f"{where}: a marker begins a line, which GitHub takes for a block")
        for match in MARKED.finditer(line):
            try:
                bindings.shown(tree, match["report"], match["place"], match["format"])
            except ValueError as error:
                found.append(f"{where}: {error}")
    reports = tree.reports()
    for block in tables.blocks(text):
        if block not in tables.BLOCKS:
            found.append(f"{name}: no table {block} in tests/bench/tables.py")
            continue
        lacking = [report for report in tables.BLOCKS[block].reports if report not in reports]
        found += [f"{name}: table {block} is of {report}, which is not there" for report in lacking]
    return found


_FORM = "<!-- figure: REPORT.json#/place as FORMAT -->TEXT<!-- / --> in one line"


def differing(tree: Tree, name: str, text: str) -> list[str]:
    """Lines that are not what the reports give."""
    new = rewritten(tree, tree.root / name, text)
    before, after = text.split("\n"), new.split("\n")
    found = []
    for tag, a, b, c, d in difflib.SequenceMatcher(
        None, before, after, autojunk=False
    ).get_opcodes():
        if tag == "equal":
            continue
        there, given = before[a:b], after[c:d]
        first = next(
            (i for i, pair in enumerate(zip(there, given, strict=False)) if pair[0] != pair[1]), 0
        )
        old = there[first].strip() if first < len(there) else ""
        new_line = given[first].strip() if first < len(given) else ""
        found.append(f"{name}:{a + first + 1}: {_changed(old, new_line)}; {_MEND}")
    return found


def _changed(old: str, new: str) -> str:
    """What stands there and what the report says; of bound figures only those."""
    pairs = [
        f"{m['text']!r} stands there, {m['report']} says {n['text']!r}"
        for m, n in zip(MARKED.finditer(old), MARKED.finditer(new), strict=False)
        if m["text"] != n["text"]
    ]
    return ", ".join(pairs) or f"{old[:100]!r} stands there, expected {new[:100]!r}"


def write(tree: Tree) -> list[Path]:
    """Writes every page that differs; gives those. Raises ValueError, and writes nothing."""
    texts = {page: page.read_text(encoding="utf-8") for page in tree.pages()}
    names = {page: page.relative_to(tree.root).as_posix() for page in texts}
    if found := [line for page, text in texts.items() for line in wrong(tree, names[page], text)]:
        raise ValueError("\n".join(found))
    new = {page: rewritten(tree, page, text) for page, text in texts.items()}
    changed = [page for page, text in new.items() if text != texts[page]]
    for page in changed:
        page.write_text(new[page], encoding="utf-8")
    return changed


def main() -> int:
    tree = Tree(sources.ROOT)
    if sys.argv[1:] == ["--check"]:
        found = problems(tree)
        print("\n".join(found) if found else "every figure has a source and is what it says")
        return 1 if found else 0
    try:
        changed = write(tree)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    for page in changed:
        print(f"written: {page.relative_to(tree.root)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
