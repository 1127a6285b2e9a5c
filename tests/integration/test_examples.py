"""The programs in ``examples/``, each in a process of its own, and the pages' own Python."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from peft import LoraConfig

from adaptrt import Embedder
from tests.documents import DOCS, README, ROOT, blocks
from tests.peft_zoo import train
from tests.support import build, run_cli
from tests.triton_support import Served
from tests.zoo import write_native

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run_example(name: str, *arguments: object) -> str:
    """What ``python examples/NAME ARGUMENTS`` prints; it must warn of nothing."""
    command = [sys.executable, "-W", "error", ROOT / "examples" / name, *arguments]
    done = subprocess.run(
        [str(part) for part in command],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_run_here() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert EXAMPLES
    for path in EXAMPLES:
        assert f'run_example("{path.name}"' in text, path.name


def test_texts_are_embedded(small_bundle: Path) -> None:
    lines = run_example("embed_texts.py", small_bundle).splitlines()
    assert lines[0] == "3 vectors of 64 numbers"
    with Embedder.load(small_bundle) as embedder:
        for line in lines[1:]:
            cosine, texts = line.split("  ", 1)
            first, second = embedder.encode(texts.split("  /  "))
            assert float(cosine) == pytest.approx(first @ second, abs=1e-3)
    assert len(lines) == 3


def test_documents_are_searched_by_task(chunk_bundle: Path) -> None:
    question, *found = run_example("search_documents.py", chunk_bundle).splitlines()
    with Embedder.load(chunk_bundle) as embedder:
        query = embedder.encode([question], task="retrieval.query")[0]
        for line in found:
            score, text = line.split("  ", 1)
            passage = embedder.encode([text], task="retrieval.passage")[0]
            assert float(score) == pytest.approx(query @ passage, abs=1e-3)
    assert len(found) == 3


def test_each_sentence_has_its_vector(chunk_bundle: Path) -> None:
    lines = run_example("late_chunking.py", chunk_bundle).splitlines()
    assert [line.split()[0] for line in lines] == ["64", "64", "64"]
    assert "Germany" in lines[0]
    assert "Spree" in lines[2]


def test_a_bundle_is_built_and_verified(small_folder: Path, tmp_path: Path) -> None:
    path, *comparisons = run_example("build_and_verify.py", small_folder, tmp_path).splitlines()
    assert Path(path).parent == tmp_path / "small"
    assert (Path(path) / "manifest.json").is_file()
    assert any(line.startswith("onnxruntime: ") for line in comparisons)


def test_an_adapter_changes_a_slots_vectors(small_folder: Path, tmp_path: Path) -> None:
    native = write_native(small_folder, tmp_path / "small-hf")
    train(native, tmp_path / "own", LoraConfig(r=2, lora_alpha=4, target_modules=["o_proj"]))
    options = ("--adapter", "slot", "--task", "base", "--rank", 2, "--max-tokens", 512)
    assert build(tmp_path, "--model", native, *options, "--name", "slot") == 0
    bundle, file = tmp_path / "small-hf" / "slot", tmp_path / "own.onnx_adapter"
    assert run_cli("adapter", "--peft", tmp_path / "own", "--bundle", bundle, "--out", file) == 0
    cosine = float(run_example("own_adapter.py", bundle, file).rsplit(maxsplit=1)[-1])
    assert -1 <= cosine < 0.9999


def test_a_server_is_asked(triton: Served) -> None:
    lines = run_example("triton_client.py", triton.url("grpc"), "retrieval.query").splitlines()
    assert "retrieval.query" in lines[0]
    assert lines[1].startswith("2 vectors of 64 numbers")


@pytest.mark.parametrize(
    ("page", "bundle"),
    [
        (README, "small_bundle"),
        (DOCS / "getting-started.md", "query_bundle"),
        (DOCS / "tasks" / "switchable.md", "chunk_bundle"),
        (DOCS / "tasks" / "late-chunking.md", "chunk_bundle"),
        (DOCS / "tasks" / "verify.md", "small_bundle"),
    ],
    ids=lambda value: getattr(value, "stem", None),
)
def test_a_pages_python_runs(page: Path, bundle: str, request: pytest.FixtureRequest) -> None:
    folder = repr(str(request.getfixturevalue(bundle)))
    programs = list(blocks(page, "python"))
    assert programs
    for program in programs:
        exec(re.sub(r'"build/sample/[^"]+"', folder, program), {})


def test_the_served_pages_python_runs(triton: Served) -> None:
    (program,) = blocks(DOCS / "tasks" / "triton.md", "python")
    names: dict[str, object] = {}
    exec(program.replace("grpc://localhost:8001", triton.url("grpc")), names)
    assert getattr(names["vectors"], "shape", None) == (1, 32)
