"""Text to vectors from a bundle. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from runtimes.base import Runtime, RuntimeBase
from runtimes.errors import InputError
from runtimes.manifest import Manifest, read_manifest
from runtimes.tokens import Ids, TextTokenizer

Vectors = NDArray[np.float32]
BATCH_TOKENS = 8192  # tokens in one call; bounds the activations' memory


class Embedder(RuntimeBase):
    """Embeds texts with one bundle.

    >>> Embedder.load("build/sample/classification-fp16").encode(["Guten Tag"]).shape
    (1, 256)
    """

    def __init__(self, manifest: Manifest, tokenizer: TextTokenizer, runtime: Runtime) -> None:
        self.manifest, self.tokenizer, self.runtime = manifest, tokenizer, runtime

    @classmethod
    def load(
        cls, bundle: str | Path, *, runtime: str = "onnxruntime", threads: int | None = None
    ) -> Self:
        """Open a bundle.

        ``runtime`` names the executor and is never replaced by another: ``onnxruntime`` runs the
        bundle's CPU graph (half-precision weights, FP32 arithmetic). Raises
        :class:`InputError` for a bundle that is incomplete or has no graph for the executor.
        """
        folder = Path(bundle)
        manifest = read_manifest(folder)
        if runtime != "onnxruntime":
            raise InputError(f"runtime: got {runtime!r}, expected 'onnxruntime'")
        from runtimes.ort import OrtRuntime

        graph = folder / manifest.artifact("onnxruntime").path
        return cls(manifest, load_tokenizer(folder, manifest), OrtRuntime(graph, threads=threads))

    @property
    def dimensions(self) -> tuple[int, ...]:
        """The lengths a vector can be cut to; the last is the full length."""
        return self.manifest.dimensions

    def encode(
        self,
        texts: Sequence[str],
        *,
        dimensions: int | None = None,
        prefix: bool = True,
        strict: bool = False,
    ) -> Vectors:
        """One unit vector per text, FP32 ``[n, dimensions]``, in the order given.

        ``prefix`` puts the task's instruction before each text, as the model was trained.
        ``dimensions`` cuts (Matryoshka) and normalises again. ``strict`` refuses a text that is
        longer than the bundle takes, which otherwise is truncated with a ``TruncationWarning``.
        """
        if isinstance(texts, str):
            raise InputError("texts: got one str, expected a list of them: encode([text])")
        width = self._width(dimensions)
        rows = self.tokenizer.encode(
            texts, prefix=self.manifest.prefix if prefix else "", strict=strict
        )
        vectors = np.empty((len(rows), self.dimensions[-1]), np.float32)
        for batch in equal_length_batches([len(r) for r in rows], self.manifest.max_batch):
            tokens = self.tokenizer.pad([rows[i] for i in batch])
            vectors[batch] = self.runtime.run(tokens.inputs())["sentence_embedding"]
        return truncate(vectors, width)

    def tokenize(self, texts: Sequence[str]) -> list[Ids]:
        """The token ids that :meth:`encode` would embed."""
        return self.tokenizer.encode(texts, prefix=self.manifest.prefix)

    def close(self) -> None:
        """Free the runtime."""
        self.runtime.close()

    def _width(self, dimensions: int | None) -> int:
        if dimensions is None:
            return self.dimensions[-1]
        if dimensions not in self.dimensions:
            known = ", ".join(map(str, self.dimensions))
            raise InputError(f"dimensions: got {dimensions}, expected one of {known}")
        return dimensions


def load_tokenizer(folder: Path, manifest: Manifest) -> TextTokenizer:
    """The bundle's tokenizer."""
    path = folder / manifest.artifact("tokenizer").path
    return TextTokenizer(path, max_tokens=manifest.max_tokens, pad_id=manifest.pad_id)


def truncate(vectors: Vectors, width: int) -> Vectors:
    """The first ``width`` columns, each row scaled to length 1 again."""
    if width == vectors.shape[1]:
        return vectors
    cut = vectors[:, :width]
    shortened: Vectors = cut / np.linalg.norm(cut, axis=1, keepdims=True)
    return shortened


def equal_length_batches(lengths: Sequence[int], max_batch: int) -> Iterator[list[int]]:
    """Indices grouped so that no row is padded: padding would cost O(n²) attention memory."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    for length, group in groupby(order, key=lambda i: lengths[i]):
        members = list(group)
        size = max(1, min(max_batch, BATCH_TOKENS // length))
        for start in range(0, len(members), size):
            yield members[start : start + size]
