"""A bundle inside sentence-transformers: what is written here is all the glue it takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule

from adaptrt import Embedder
from tests.support import build

TEXTS = ["The last train leaves at ten.", "東京は雨です。", "Wo ist der Bahnhof, bitte?"]


class Bundle(InputModule):  # type: ignore[misc]  # has no types here
    """The embedder as the one module of a pipeline."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.embedder = Embedder.load(folder)

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **_: Any) -> Any:
        """Texts stay texts: the embedder has its own tokenizer and prefixes."""
        return {"texts": [(prompt or "") + str(text) for text in inputs]}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """One unit vector per text."""
        vectors = self.embedder.encode(features["texts"])
        return {"sentence_embedding": torch.from_numpy(vectors)}

    def get_embedding_dimension(self) -> int:
        """Length of a vector."""
        return self.embedder.dimensions[-1]

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """A bundle is a folder already."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, small_folder: Path) -> Path:
    out = tmp_path_factory.mktemp("interop")
    assert build(out, "--model", small_folder, "--task", "retrieval.query") == 0
    (manifest,) = out.rglob("manifest.json")
    return manifest.parent


def test_vectors_are_the_embedders(bundle: Path) -> None:
    model = SentenceTransformer(modules=[Bundle(bundle)], device="cpu")
    theirs = model.encode(TEXTS, batch_size=2, show_progress_bar=False)
    with Embedder.load(bundle) as embedder:
        assert np.abs(theirs - embedder.encode(TEXTS)).max() <= 3e-7


def test_truncation_is_the_embedders(bundle: Path) -> None:
    model = SentenceTransformer(modules=[Bundle(bundle)], device="cpu", truncate_dim=32)
    theirs = model.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    with Embedder.load(bundle) as embedder:
        ours = embedder.encode(TEXTS, dimensions=32)
    assert np.abs(theirs - ours).max() <= 3e-7
