"""What ``adaptrt drift`` does with what it found: a table or JSON, and a page."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from export.console.encode import read_texts
from export.console.progress import stage
from export.drift.spec import DriftSpec
from runtimes.errors import InputError, shown
from runtimes.files import replacing, require_file_place


def run(arguments: argparse.Namespace) -> str:
    """Compare, write the page where one is asked for, and give what is printed.

    Raises :class:`InputError` before any work for a file that cannot be written.
    """
    html: Path | None = arguments.html
    if html is not None:
        if not html.parent.is_dir():
            raise InputError(f"--html: {shown(str(html.parent))}: no such folder")
        require_file_place(html)
    texts: tuple[str, ...] = ()
    if arguments.text or arguments.file is not None:
        texts = tuple(read_texts(arguments.text or (), arguments.file))
        if not texts:
            raise InputError(f"--file: {shown(str(arguments.file))} holds no text")
    spec = DriftSpec(
        bundle=arguments.bundle,
        texts=texts,
        task=arguments.task,
        reference=arguments.reference,
        revision=arguments.revision,
        lengths=arguments.lengths,
    )
    with stage("loading PyTorch"):
        from export.drift.drift import measure_drift
    from export.drift.page import drift_page
    from export.drift.table import as_json, text_lines

    found = measure_drift(spec)
    lines = [json.dumps(as_json(found), indent=2)] if arguments.json else [*text_lines(found)]
    if html is not None:
        page = drift_page(found)
        with replacing(html) as staged:
            staged.write_text(page, encoding="utf-8")
        if not arguments.json:
            lines.append(str(html))
    return "\n".join(lines)
