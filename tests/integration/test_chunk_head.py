"""Late chunking by the graph: against the reference's token vectors, in every graph and type."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import export.graph.encoder
from adaptrt import Embedder, InputError
from export.checkpoint.reader import Checkpoint
from export.gate.reference import reference_model
from runtimes.bundle_files import GRAPH_FILES
from runtimes.choices import GraphKind, HeadName
from runtimes.executors.torch_reference import FlashReference
from tests.support import build, cosines, run_cli, session

DOCUMENT = (
    "The ferry left at nine. Nobody minded.\nIt rained. 東京は雨です。 Where is the station? " * 3
)


@pytest.mark.parametrize("task", ["retrieval.query", "base"])
def test_chunks_are_means_of_the_references_token_vectors(
    chunk_bundle: Path, small: Checkpoint, task: str
) -> None:
    reference = FlashReference(reference_model(small, task))
    with Embedder.load(chunk_bundle) as embedder:
        found = embedder.encode_chunks(DOCUMENT, sentences=1, task=task)
        prefix = embedder.manifest.prefixes[task]
        ids, offsets = embedder.tokenizer.tokenize_with_offsets(prefix + DOCUMENT)
    tokens = reference.token_vectors(ids[None])[0].numpy()
    # Where a token's visible part begins; a lone space belongs to what follows it.
    pieces = [(prefix + DOCUMENT)[a:b] for a, b in offsets]
    places = offsets[:, 0] - len(prefix) + [len(p) - len(p.lstrip()) for p in pieces]
    for (start, end), vector in list(zip(found.spans, found.vectors, strict=True))[1:-1]:
        mean = tokens[(places >= start) & (places < end)].mean(0)
        assert cosines(vector[None], mean[None])[0] >= 0.999999, DOCUMENT[start:end]


def test_chunks_are_integers_and_bits_too(chunk_bundle: Path) -> None:
    with Embedder.load(chunk_bundle) as embedder:
        floats, steps, bits = (
            embedder.encode_chunks(DOCUMENT, sentences=1, task="base", output=output).vectors
            for output in ("float32", "int8", "ubinary")
        )
    assert cosines(steps, floats).min() >= 0.9995
    np.testing.assert_array_equal(bits, np.packbits(floats > 0, axis=1))


@pytest.mark.parametrize("prefix", [True, False])
def test_one_chunk_is_the_sentence_embedding_of_the_plain_bundle(
    chunk_bundle: Path, query_bundle: Path, prefix: bool
) -> None:
    whole = [(0, len(DOCUMENT))]
    with Embedder.load(chunk_bundle) as chunks, Embedder.load(query_bundle) as plain:
        late = chunks.encode_chunks(DOCUMENT, whole, task="retrieval.query", prefix=prefix)
        assert cosines(late.vectors, plain.encode([DOCUMENT], prefix=prefix))[0] >= 0.999999
        with pytest.raises(InputError, match="HEAD=chunks"):
            plain.encode_chunks(DOCUMENT, whole)


def test_a_chunk_has_seen_the_document(chunk_bundle: Path) -> None:
    """Late chunking is not embedding each piece alone."""
    with Embedder.load(chunk_bundle) as embedder:
        late = embedder.encode_chunks(DOCUMENT, [(24, 38)], task="base").vectors
        alone = embedder.encode(["Nobody minded."], task="base")
    assert cosines(late, alone)[0] < 0.9999


def test_document_beyond_8192_tokens(chunk_bundle: Path) -> None:
    document = DOCUMENT * 150
    with Embedder.load(chunk_bundle) as embedder:
        assert len(embedder.tokenizer.tokenize([document])[0]) > 8192
        found = embedder.encode_chunks(document, chunk_tokens=500, task="base", dimensions=32)
        first = found.windows[0]
        alone = embedder.encode_chunks(
            document[: first.end],
            [s for s in found.spans if s[1] <= first.end],
            task="base",
            dimensions=32,
        )
    assert len(found.windows) == len(set(found.window_of)) > 1
    assert max(w.tokens for w in found.windows) <= 8192
    assert found.vectors.shape == (len(found.spans), 32)
    assert found.windows[1].start < first.end
    own = [v for v, w in zip(found.vectors, found.window_of, strict=True) if w == 0]
    assert cosines(np.stack(own), alone.vectors[: len(own)]).min() > 0.9999


def test_every_graph_pools_alike(chunk_bundle: Path) -> None:
    rng = np.random.default_rng(0)
    mask = np.array([[1] * 9, [1] * 5 + [0] * 4])
    inputs = {
        "input_ids": rng.integers(5, 16000, mask.shape),
        "attention_mask": mask,
        "task_id": np.array([3, -1]),
        "chunk_weights": (rng.random((2, 4, 9)) * mask[:, None]).astype(np.float32),
    }
    inputs["chunk_weights"][1, 3] = 0  # fills up: no NaN
    kinds = [
        GraphKind.PORTABLE,
        GraphKind.ONNXRUNTIME,
        GraphKind.PRIMITIVE,
    ]  # the others need a GPU
    found = {
        kind: session(str(chunk_bundle / GRAPH_FILES[kind])).run(["chunk_embedding"], inputs)[0]
        for kind in kinds
    }
    for kind in kinds:
        np.testing.assert_allclose(found[kind], found[GraphKind.PORTABLE], atol=2e-6)
    assert not found[GraphKind.PORTABLE][1, 3].any()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_passes_the_gate(tmp_path: Path, small_folder: Path, precision: str) -> None:
    arguments = ("--model", small_folder, "--head", "chunks", "--task", "separation")
    assert build(tmp_path, *arguments, precision=precision) == 0
    bundle = tmp_path / "small" / f"separation-chunks-{precision}-onnxruntime"
    graphs = json.loads((bundle / "parity.json").read_text())["graphs"]
    assert {"portable, chunks", "onnxruntime, chunks"} <= set(graphs)
    assert run_cli("verify", "--bundle", bundle) == 0


def test_gate_sees_wrong_pooling(
    tmp_path: Path,
    small_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Negative control: the whole text is pooled rightly and its parts are not."""

    def smeared(x: torch.Tensor, _: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        weights = weights + 0.1 * weights.sum(1, keepdim=True)
        sums = torch.matmul(weights, x)
        unit: torch.Tensor = sums / torch.linalg.vector_norm(sums, dim=-1, keepdim=True)
        return unit

    monkeypatch.setitem(export.graph.encoder.POOLINGS, HeadName.CHUNKS, smeared)
    export.graph.trace.trace.cache_clear()
    arguments = ("--model", small_folder, "--head", "chunks", "--task", "separation")
    try:
        assert build(tmp_path, *arguments) == 3
    finally:
        export.graph.trace.trace.cache_clear()
    assert "chunks" in capsys.readouterr().err
    assert not list(tmp_path.rglob("manifest.json"))


@pytest.mark.parametrize(
    "more", [["--interface", "official", "--adapter", "switchable"], ["--adapter", "slot"]]
)
def test_combinations_without_sense_are_refused(
    tmp_path: Path, small_folder: Path, more: list[str]
) -> None:
    assert build(tmp_path, "--model", small_folder, "--head", "chunks", *more) == 2
