"""The pages on other clients and on stores: their Python runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.documents import DOCS, blocks

PAGES = {"other-clients": 5, "vector-types": 4}  # and how many programs each has at least


@pytest.mark.parametrize("page", PAGES)
def test_the_pages_python_runs(
    page: str, sample_switchable: Path, sample_query: Path, sample_passage: Path, tmp_path: Path
) -> None:
    folders = {
        "switchable": sample_switchable,
        "retrieval.query": sample_query,
        "retrieval.passage": sample_passage,
        "saved": tmp_path,
    }
    programs = list(blocks(DOCS / "tasks" / f"{page}.md", "python"))
    assert len(programs) >= PAGES[page]
    names: dict[str, object] = {}
    for program in programs:
        named = re.sub(
            r'"build/sample/([a-z.]+)(?:-fp16-onnxruntime)?"',
            lambda match: repr(str(folders[match[1]])),
            program,
        )
        assert "build/sample" not in named
        exec(named, names)
