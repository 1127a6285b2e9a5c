"""The page on the HTTP API and the README: their programs run, and their tables are complete."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import msgspec
import numpy as np
import pytest

from adaptrt import Embedder
from runtimes.api.contract import ENCODINGS, EmbeddingRequest
from tests.documents import DOCS, README, blocks
from tests.interop.api_server import BundleServer
from tests.interop.retrieval import distance

PAGE = DOCS / "tasks" / "http-api.md"
ADDRESS = re.compile(r"(http://127\.0\.0\.1|(?<![/\w])localhost):8080")


def here(program: str, api: BundleServer) -> str:
    """A program for the server of the tests."""
    assert ADDRESS.search(program)
    return ADDRESS.sub(api.address, program)


@pytest.mark.parametrize("program", [*blocks(PAGE, "python")], ids=lambda text: text.split()[1])
@pytest.mark.filterwarnings("default")  # of the clients' own doing
def test_the_pages_programs_run(
    program: str, api: BundleServer, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(here(program, api), {})
    assert capsys.readouterr().out


@pytest.mark.parametrize("page", [README, PAGE], ids=lambda path: path.name)
def test_curl_as_it_is_typed_gets_the_embedders_vectors(page: Path, api: BundleServer) -> None:
    (command,) = (text for text in blocks(page, "console") if text.startswith("curl"))
    done = subprocess.run(
        ["bash", "-c", here(command, api)], capture_output=True, text=True, check=True
    )
    given = [item["embedding"] for item in json.loads(done.stdout)["data"]]
    with Embedder.load(api.bundle, runtime="onnxruntime") as embedder:
        texts = ["Where is the station?", "Wo ist der Bahnhof?"]
        expected = embedder.encode(texts, task="text-matching", dimensions=64)
    assert distance(np.array(given), expected) <= 1e-6


def test_every_field_and_type_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in (*(f.name for f in msgspec.structs.fields(EmbeddingRequest)), *ENCODINGS):
        assert f"`{name}`" in text, name
