"""Where figures come from: the committed reports, the targets that make them, and how pages say so.

A report is a JSON file below docs/benchmarks, or one of a table below docs/tasks. Its ``command``
is the make target, with variables, that measured what is in it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TARGET = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)
_COMMAND = re.compile(r"make ([a-z][a-z-]*)( [A-Z_]+=\S+)*")
ROOT = Path(__file__).parents[2]
HOME = Path("docs", "benchmarks")


@dataclass(frozen=True)
class Tree:
    """A copy of the repository's documents, reports and Makefile."""

    root: Path

    def reports(self) -> list[str]:
        """Names of all reports, as in a page's marker: relative to docs/benchmarks."""
        home = self.root / HOME
        found = [*home.rglob("*.json"), *(self.root / "docs" / "tasks").glob("*.json")]
        return sorted(Path(os.path.relpath(path, home)).as_posix() for path in found)

    def path(self, name: str) -> Path:
        """Of a report."""
        return Path(os.path.normpath(self.root / HOME / name))

    def report(self, name: str) -> Any:
        """Raises ValueError where there is none of the name."""
        if name not in self.reports():
            raise ValueError(f"no report {name} below {HOME}")
        return json.loads(self.path(name).read_text(encoding="utf-8"))

    def command(self, name: str) -> str:
        """That makes a report. Raises ValueError where it names none."""
        report = self.report(name)
        command = report.get("command") if isinstance(report, dict) else None
        if not isinstance(command, str) or not _COMMAND.fullmatch(command):
            raise ValueError(f'{name} has no "command": "make TARGET"')
        return command

    def targets(self) -> set[str]:
        """Of the Makefile."""
        return set(_TARGET.findall(self.makefile()))

    def makefile(self) -> str:
        return (self.root / "Makefile").read_text(encoding="utf-8")

    def pages(self) -> list[Path]:
        """Live pages: all but the changelog and the dated decisions, which are records."""
        top = ("README.md", "DESIGN.md", "CONTRIBUTING.md", "SECURITY.md")
        below = (self.root / "docs").rglob("*.md")
        records = self.root / "docs" / "decisions"
        return [
            *(path for name in top if (path := self.root / name).is_file()),
            *sorted(path for path in below if records not in path.parents),
        ]

    def link(self, name: str, page: Path) -> str:
        """A report as a page links to it."""
        where = Path(os.path.relpath(self.path(name), page.parent)).as_posix()
        return f"[{Path(name).name if name.startswith('..') else name}]({where})"


def line(tree: Tree, page: Path, names: Iterable[str], origin: str = "") -> str:
    """What stands under a block: its reports by the command that makes them."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(tree.command(name), []).append(tree.link(name, page))
    parts = [f"{', '.join(links)} by `{command}`" for command, links in groups.items()]
    return f"*Source: {'; '.join([*parts, *([origin] if origin else [])])}*"


def page_list(tree: Tree, page: Path, names: Iterable[str]) -> str:
    """What stands at the end of a page: reports of the figures in its text, day and machine."""
    parts = []
    for name in sorted(set(names)):
        report = tree.report(name)
        known = [str(report[key]) for key in ("date", "machine") if key in report]
        told = ", ".join([tree.link(name, page), *known])
        parts.append(f"`{tree.command(name)}` ({told})")
    return f"*Figures in the text: {'; '.join(parts)}.*"


def faults(tree: Tree) -> list[str]:
    """Reports without a command, and commands whose target is not in the Makefile."""
    found = []
    targets = tree.targets()
    for name in tree.reports():
        where = tree.path(name).relative_to(tree.root)
        try:
            target = tree.command(name).split()[1]
        except ValueError as error:
            found.append(f"{where}: {error}")
            continue
        if target not in targets:
            found.append(f"{where}: its command names make {target}, which the Makefile lacks")
    return found
