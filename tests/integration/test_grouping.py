"""A text's vector is its own: company, order and padding do not show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from adaptrt import Embedder
from runtimes.errors import MissingError
from tests.support import cosines

SENTENCE = "Die Fähre legte mit vier Stunden Verspätung ab and nobody on board seemed to mind"


def texts() -> list[str]:
    """Mixed lengths, 1 to about 700 tokens: some padded together, some too long for that."""
    rng = np.random.default_rng(3)
    sizes = [1, 2, 3, 4, 5, 6, 30, 31, 32, 33, 90, 91, 200, 210, 450, 451, 600, 600]
    return [" ".join(rng.choice(SENTENCE.split(), size)) for size in sizes] + [" ", "one"]


@pytest.fixture(scope="module", params=["fp32_bundle", "fp16_bundle"])
def embedder(request: pytest.FixtureRequest) -> Iterator[Embedder]:
    with Embedder.load(request.getfixturevalue(request.param)) as opened:
        yield opened


def test_alone_or_together(embedder: Embedder) -> None:
    alone = np.concatenate([embedder.encode([text]) for text in texts()])
    assert cosines(embedder.encode(texts()), alone).min() >= 0.999999


def test_in_any_order(embedder: Embedder) -> None:
    forward = embedder.encode(texts())
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(len(texts()))
        shuffled = embedder.encode([texts()[i] for i in order])
        assert cosines(shuffled, forward[order]).min() >= 0.999999


def test_another_text_is_told_apart(embedder: Embedder) -> None:
    """Guards the tests above: one word more must show at their threshold."""
    words = texts()[10].split()
    first, second = embedder.encode([" ".join(words), " ".join([*words, "ferry"])])
    assert cosines(first[None], second[None]).min() < 0.999999


def test_the_cuda_graph_is_not_run_on_a_cpu(fp16_bundle: Path) -> None:
    with pytest.raises(MissingError, match="CUDAExecutionProvider"):
        Embedder.load(fp16_bundle, runtime="onnxruntime_cuda")
