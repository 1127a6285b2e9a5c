"""RoPE and pooling from one token to 8192, against the reference; padding changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch import nn

from export.checkpoint.reader import Checkpoint
from export.gate.reference import reference_model
from runtimes.choices import GraphKind
from runtimes.executors.torch_reference import FlashReference
from tests.support import (
    Array,
    cosines,
    first_output,
    graph_path,
    padded,
    sample_tokenizer,
    write_graphs,
)

TASK = "text-matching"
LENGTHS = [3, 100, 2049, 6001, 8192]  # 3: one token of content; 2049: beyond FP16's whole numbers


@pytest.fixture(scope="module")
def folder(original: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_graphs(tmp_path_factory.mktemp("lengths"), original, TASK, "float32")


@pytest.fixture(scope="module")
def reference(original: Checkpoint) -> nn.Module:
    return reference_model(original, TASK)


def run(folder: Path, inputs: dict[str, Array], kind: GraphKind = GraphKind.ONNXRUNTIME) -> Array:
    return first_output(str(graph_path(folder, kind)), inputs)


def document(tokens: int) -> dict[str, Array]:
    """One unpadded text of exactly so many tokens, special ones included."""
    words = "Die Fähre legte mit vier Stunden Verspätung ab; nobody on board seemed to mind. "
    ids = sample_tokenizer(100_000).encode([words * (tokens // 8 + 2)])[0]
    cut = np.concatenate([ids[: tokens - 1], ids[-1:]])[None]
    return {"input_ids": cut, "attention_mask": np.ones_like(cut)}


@pytest.mark.parametrize("tokens", LENGTHS)
def test_graph_is_the_reference_at_every_length(
    folder: Path, reference: nn.Module, tokens: int
) -> None:
    """Agreement at short texts, wrong past 6000 tokens: a RoPE folded at the export length."""
    inputs = document(tokens)
    assert inputs["input_ids"].shape == (1, tokens)
    theirs = FlashReference(reference).run(inputs)["sentence_embedding"]
    assert cosines(run(folder, inputs), theirs).min() >= 0.999999


def test_reference_tells_lengths_apart(reference: nn.Module) -> None:
    """Guards the test above: cutting a document's last 5 % must show at its threshold."""
    model = FlashReference(reference)
    whole, cut = (model.run(document(n))["sentence_embedding"] for n in (600, 570))
    assert cosines(whole, cut).min() < 0.999999


@pytest.mark.parametrize("kind", [GraphKind.ONNXRUNTIME, GraphKind.PORTABLE, GraphKind.PRIMITIVE])
def test_padding_does_not_change_a_vector(folder: Path, kind: GraphKind) -> None:
    """Padding changes the vector: sentence-transformers #2312, #2569."""
    lengths = [3, 100, 700, 31]
    batch = padded(lengths)
    together = run(folder, batch, kind)
    for row, length in enumerate(lengths):
        alone = {name: value[row : row + 1, :length] for name, value in batch.items()}
        single = run(folder, alone, kind)
        assert cosines(together[row : row + 1], single).min() >= 0.999999
        np.testing.assert_allclose(together[row], single[0], atol=2e-6)


def test_position_matters_far_from_the_start(folder: Path) -> None:
    """Negative control: exchanging two distant tokens must move the vector."""
    inputs = document(2049)
    changed = {name: value.copy() for name, value in inputs.items()}
    ids = changed["input_ids"][0]
    ids[100], ids[1900] = 4321, 77
    other = {name: value.copy() for name, value in changed.items()}
    other["input_ids"][0, [100, 1900]] = ids[[1900, 100]]
    assert np.abs(run(folder, changed) - run(folder, other)).max() > 1e-6
