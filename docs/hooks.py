"""What MkDocs is told of this project: pages from the root's files, and the commands' own help."""

from __future__ import annotations

import re
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# MkDocs reads only what is below docs; these pages are a file of the root.
PAGES = {
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
    "design.md": "DESIGN.md",
}
_HELP = re.compile(r"<!-- help: (\w+) -->")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A page's text as it is built."""
    if name := PAGES.get(page.file.src_uri):
        return root_text(name)
    return _HELP.sub(lambda match: f"```text\n{command_help(match[1])}```", markdown)


def root_text(name: str) -> str:
    """A file of the root with its links as they are from ``docs``."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
    for below, above in PAGES.items():
        text = text.replace(f"]({above}", f"]({below}")
    return text


def command_help(name: str) -> str:
    """What ``adaptrt NAME --help`` prints."""
    sys.path.insert(0, str(ROOT))
    from export.console.parser import COMMANDS, make_parser

    parser = make_parser(dict.fromkeys(COMMANDS, lambda _: 0))
    (commands,) = (a for a in parser._actions if isinstance(a.choices, dict))
    command: ArgumentParser = commands.choices[name]
    return command.format_help()
