"""INT8 with a chunk head: the sentence head's calibration, and a gate for chunks of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from adaptrt import Embedder
from calibration.table import read_calibration
from runtimes.manifest import read_manifest
from tests.support import cosines, edit_graph, few_gate_texts, rehash, run_cli

OPTIONS = (
    "--precision",
    "int8",
    "--max-tokens",
    64,
    "--parity-tokens",
    32,
    "--gpu",
    "sm89",
    "--calibration-texts",
    24,
)
CHUNKS = ("--head", "chunks")
DOCUMENT = "The ferry left at nine. Nobody minded. 東京は雨です。 Where is the station?"


@pytest.fixture(scope="module", autouse=True)
def small_gate() -> Iterator[None]:
    """Few texts. Random weights hardly rank: quality is judged mildly."""
    with pytest.MonkeyPatch.context() as patch:
        few_gate_texts(patch)
        yield


@pytest.fixture(scope="module")
def int8_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("int8")


def build(out: Path, model: Path, *options: object, target: str = "onnxruntime") -> int:
    """``adaptrt engine`` on few texts."""
    where = ("--model", model, "--out", out, "--target", target)
    return run_cli("engine", *where, *OPTIONS, *options)


@pytest.fixture(scope="module")
def bundle(int8_out: Path, small_folder: Path) -> Path:
    assert build(int8_out, small_folder, *CHUNKS, "--task", "separation") == 0
    return int8_out / "small" / "separation-chunks-int8-onnxruntime-t64"


def labels(bundle: Path) -> list[str]:
    return list(json.loads((bundle / "parity.json").read_text())["graphs"])


def test_chunks_and_texts_are_near_fp32s(bundle: Path, chunk_bundle: Path) -> None:
    with Embedder.load(bundle) as ours, Embedder.load(chunk_bundle) as exact:
        texts = [DOCUMENT, "Wo ist der Bahnhof?"]
        plain = ours.encode(texts)
        assert 0.99 < cosines(plain, exact.encode(texts, task="separation")).min() < 0.9999999
        spans = [(0, 23), (24, 38), (39, len(DOCUMENT))]
        found = ours.encode_chunks(DOCUMENT, spans).vectors
        expected = exact.encode_chunks(DOCUMENT, spans, task="separation").vectors
        assert 0.99 < cosines(found, expected).min() < 0.9999999
        whole = ours.encode_chunks(DOCUMENT, [(0, len(DOCUMENT))]).vectors
    assert cosines(whole, plain[:1]).min() > 0.999999


def test_gate_compares_chunks_at_both_lengths_by_int8s_threshold(bundle: Path) -> None:
    chunks = [
        f"{kind}, chunks{width}"
        for kind in ("onnxruntime", "portable")
        for width in ("", ", 32 dimensions")
    ]
    assert set(chunks) < set(labels(bundle))
    graphs = json.loads((bundle / "parity.json").read_text())["graphs"]
    for label in chunks:
        assert (graphs[label]["threshold"], graphs[label]["mean_threshold"]) == (0.99, 0.998)
        assert graphs[label]["rows"] > 80


def test_verify_runs_every_pass_and_quality(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli("verify", "--bundle", bundle) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [x.split(": ")[0] for x in lines if ", quality" not in x] == labels(bundle)
    judged = {x.split(": ")[0] for x in lines if ", quality: nearest to its limit of 8, " in x}
    assert judged == {f"{label}, quality" for label in labels(bundle) if "chunks" not in label}


def test_calibration_is_the_sentence_heads(
    int8_out: Path,
    bundle: Path,
    small_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One table for both heads, as good by name as by place."""
    table = int8_out / "small" / "calibration" / "separation.json"
    assert [path.name for path in table.parent.iterdir()] == [table.name]
    before = table.read_bytes()
    options = ("--model", small_folder, "--task", "separation", "--max-tokens", 64)
    for head in ((), CHUNKS):
        capsys.readouterr()
        texts = ("--calibration-texts", 24)
        assert run_cli("calibrate", *options, *texts, *head, "--out", int8_out) == 0
        assert "as it was" in capsys.readouterr().out
    assert table.read_bytes() == before
    assert run_cli("calibrate", *options, "--calibration", table, *CHUNKS, "--out", tmp_path) == 0
    assert read_calibration(bundle / "calibration.json") == read_calibration(table)


def test_tensorrt_builds_an_engine_of_it(bundle: Path, small_folder: Path, tmp_path: Path) -> None:
    table = ("--calibration", bundle / "calibration.json")
    arguments = (*CHUNKS, "--task", "separation", *table)
    assert build(tmp_path, small_folder, *arguments, target="tensorrt_rtx") == 0
    made = read_manifest(tmp_path / "small" / "separation-chunks-int8-t64")
    assert {"tensorrt_rtx", "reference_chunks"} <= {entry.kind for entry in made.artifacts}
    assert made.quantisation is not None
    assert made.quantisation.share > 0.7


def test_switchable_has_both_too(int8_out: Path, small_folder: Path, chunk_bundle: Path) -> None:
    switchable = ("--adapter", "switchable", "--calibration-texts", 120)
    assert build(int8_out, small_folder, *CHUNKS, *switchable) == 0
    made = int8_out / "small" / "switchable-chunks-int8-onnxruntime-t64"
    assert (int8_out / "small" / "calibration" / "switchable.json").is_file()
    assert {"onnxruntime, chunks", "onnxruntime, one task at a time"} < set(labels(made))
    with Embedder.load(made) as ours, Embedder.load(chunk_bundle) as exact:
        for task in ("retrieval.query", "separation", "base"):
            found, expected = (
                e.encode_chunks(DOCUMENT, sentences=1, task=task).vectors for e in (ours, exact)
            )
            assert cosines(found, expected).min() > 0.99


def test_graph_that_is_wrong_at_the_small_length_alone_fails_verify(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half the vector's weight is in the first 32 of 64 numbers, which show twice the error."""

    def disturb(graph: onnx.GraphProto) -> None:
        output = graph.output[0].name
        for node in graph.node:
            node.output[:] = ["undisturbed" if name == output else name for name in node.output]
        factors = np.concatenate([np.resize([1.075, 0.925], 32), np.ones(32)])
        graph.initializer.append(numpy_helper.from_array(factors.astype(np.float32), "factors"))
        graph.node.append(onnx.helper.make_node("Mul", ["undisturbed", "factors"], [output]))

    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    edit_graph(copy / "model.onnxruntime.onnx", disturb)
    rehash(copy)
    capsys.readouterr()
    assert run_cli("verify", "--bundle", copy) == 3
    assert "parity failed for onnxruntime, 32 dimensions: minimum cosine" in capsys.readouterr().err
