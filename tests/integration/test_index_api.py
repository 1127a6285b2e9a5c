"""``adaptrt api --index``: the server starts only where its vectors belong to the index."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from adaptrt import Embedder
from tests.api_support import api_server
from tests.index_support import TEXTS, write_index

PASSAGE, QUERY = "retrieval.passage", "retrieval.query"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, chunk_bundle: Path) -> Path:
    with Embedder.load(chunk_bundle) as embedder:
        return write_index(tmp_path_factory.mktemp("api") / "index", embedder, task=PASSAGE)


@pytest.mark.parametrize("workers", [0, 1])
def test_server_of_the_index_starts_and_others_do_not(
    workers: int, index: Path, chunk_bundle: Path, query_bundle: Path, small_bundle: Path
) -> None:
    """A bundle of another task may be served beside those of the index."""
    options = ("--index", index, "--workers", workers)
    with api_server([query_bundle, small_bundle], *options) as server:
        assert len(server.vectors(input=TEXTS[:2], task=QUERY)) == 2
    command = [sys.executable, "-m", "export.cli", "api", "--port", "0"]
    command += ["--bundle", str(small_bundle), *map(str, options)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 6
    (line,) = [line for line in ended.stderr.splitlines() if line]
    assert line.startswith(f"error: index: {index} does not belong to bundle {small_bundle}: task:")
