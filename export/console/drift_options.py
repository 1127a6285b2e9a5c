"""Options of ``adaptrt drift``."""

from __future__ import annotations

from argparse import ArgumentParser

from export.console.options import Options, reference
from export.console.values import path, wholes


def drift(command: ArgumentParser) -> None:
    """Which bundle, beside which checkpoint, on which texts, and in which form."""
    options = Options(command)
    add = options.add
    add("--bundle", "FOLDER", "the bundle to look into", kind=path, required=True)
    reference(options, "its checkpoint, a folder or a hub id")
    add("--task", "NAME", "one of the bundle's tasks (default: its first)")
    add(
        "--text",
        "TEXT",
        "a text; give the option again for more. They are joined and cut to the lengths (default: "
        "the project's own texts)",
        action="append",
    )
    add("--file", "FILE", "texts instead: one per line, or .jsonl", kind=path)
    add(
        "--lengths",
        "LIST",
        "tokens, separated by commas (default: 8,32,128,512, as far as the bundle goes)",
        kind=wholes,
    )
    add("--html", "FILE", "write a page with heat maps too", kind=path)
    options.flag("--json", "print JSON")
