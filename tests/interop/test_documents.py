"""The pages on other clients and on stores: their programs run."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.documents import DOCS, FENCE
from tests.interop.test_clients import ENVIRONMENTS, needed, run

PAGES = {"other-clients": 5, "vector-types": 4}  # and how many programs each has at least
# What stands before this heading runs without adaptrt, in the environments of the clients.
OURS = "\n## Python libraries\n"
# The environment of a program by what only it says.
CLIENTS = {
    "from sentence_transformers": "optimum",
    "from optimum": "optimum",
    "from fastembed": "fastembed",
    "@huggingface/transformers": "transformers.js",
}


def page_text(name: str) -> str:
    return (DOCS / "tasks" / f"{name}.md").read_text(encoding="utf-8")


def fenced(part: str, *languages: str) -> list[str]:
    """The fenced blocks of a part of a page."""
    return [text for language, text in FENCE.findall(part) if language in languages]


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
    programs = fenced(page_text(page).split(OURS)[-1], "python")
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


@pytest.mark.parametrize("mark", CLIENTS)
def test_the_pages_clients_run(
    mark: str, bundle_of: Callable[[str], Path], sample_query: Path, tmp_path: Path
) -> None:
    first = page_text("other-clients").split(OURS)[0]
    (program,) = (text for text in fenced(first, "python", "js") if mark in text)
    folder = tmp_path / "build" / "sample"
    folder.mkdir(parents=True)
    for name in re.findall(r"[a-z.-]+-fp16-onnxruntime", program):
        bundle = sample_query if name.startswith("retrieval.query") else bundle_of("FP16")
        (folder / name).symlink_to(bundle)
    environment = ENVIRONMENTS / CLIENTS[mark]
    needed(environment / ".installed", f"the environment {CLIENTS[mark]}")
    script = tmp_path / "program.mjs"
    script.write_text(program, encoding="utf-8")
    interpreter = environment / "bin" / "python"
    if CLIENTS[mark] == "transformers.js":
        interpreter = needed(shutil.which("node"), "node")
        (tmp_path / "node_modules").symlink_to(environment / "node_modules")
    done = run([interpreter, script], tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
