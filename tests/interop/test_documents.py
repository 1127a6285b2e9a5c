"""The page on other clients: its Python runs."""

from __future__ import annotations

import re
from pathlib import Path

from tests.documents import DOCS, blocks

PAGE = DOCS / "tasks" / "other-clients.md"


def test_the_pages_python_runs(
    sample_switchable: Path, sample_query: Path, sample_passage: Path, tmp_path: Path
) -> None:
    folders = {
        "switchable": sample_switchable,
        "retrieval.query": sample_query,
        "retrieval.passage": sample_passage,
        "saved": tmp_path,
    }
    programs = list(blocks(PAGE, "python"))
    assert len(programs) >= 5
    names: dict[str, object] = {}
    for program in programs:
        named = re.sub(
            r'"build/sample/([a-z.]+)(?:-fp16-onnxruntime)?"',
            lambda match: repr(str(folders[match[1]])),
            program,
        )
        assert "build/sample" not in named
        exec(named, names)
