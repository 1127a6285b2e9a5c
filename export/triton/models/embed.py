"""``embed``, the front model: the library's own embedder, its tokenizer and encoders over BLS.

Prefixes, batches of equal length, task ids, truncation and pooling weights are those of
:class:`runtimes.Embedder`, so a served vector is the vector computed in process.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from triton_io import Arrays, answer, call

from runtimes.arrays import Ids
from runtimes.embedder import Embedder
from runtimes.executors.base import RuntimeBase
from runtimes.heads import HEADS
from runtimes.manifest import Manifest, read_manifest
from runtimes.serving.requests import Router
from runtimes.text.batching import GPU, Budget
from runtimes.text.tokenizer_file import load_tokenizer
from runtimes.text.tokens import Offsets, TextTokenizer
from runtimes.text.vocabulary import read_kept


class ServedTokenizer(TextTokenizer):
    """The tokenizer of the model ``tokenize``; the limit in tokens is the bundle's.

    Many texts are asked for in groups, so that other requests get their turn in between.
    """

    def __init__(self, folder: Path, manifest: Manifest, max_bytes: int) -> None:
        self._folder, self._manifest = folder, manifest
        self.kept = read_kept(folder, manifest)
        self.max_tokens, self.pad_id = manifest.max_tokens, manifest.pad_id
        self.max_bytes = max_bytes

    @cached_property
    def _local(self) -> TextTokenizer:
        """In this process, for the few texts with tokens that the bundle does not hold."""
        return load_tokenizer(self._folder, self._manifest, self.max_bytes)

    @cached_property
    def unknown_id(self) -> int:
        """The id of what the tokenizer has no token for."""
        return self._local.unknown_id

    @cached_property
    def restricted(self) -> TextTokenizer:
        """The same that makes no token but those the bundle has rows for."""
        return self._local.restricted

    def token(self, index: int) -> str:
        """A token's text."""
        return self._local.token(index)

    def _rows(self, texts: Sequence[str]) -> list[Ids]:
        tokens = _tokenize(texts, offsets=False)
        return np.split(tokens["IDS"], np.cumsum(tokens["LENGTHS"])[:-1])

    def tokenize_with_offsets(self, text: str) -> tuple[Ids, Offsets]:
        """Ids and each token's characters."""
        tokens = _tokenize([text], offsets=True)
        return tokens["IDS"], tokens["OFFSETS"]


def _tokenize(texts: Sequence[str], *, offsets: bool) -> dict[str, Any]:
    encoded = np.array([text.encode() for text in texts], np.object_)
    inputs = {"TEXT": encoded, "OFFSETS_WANTED": np.array([offsets])}
    tokens: dict[str, Any] = call("tokenize", inputs, ["IDS", "LENGTHS", "OFFSETS"])
    return tokens


class ServedEncoder(RuntimeBase):
    """An encoder of this server as a runtime."""

    def __init__(self, model: str, manifest: Manifest, budget: Budget) -> None:
        self.name, self.budget = model, budget
        self._output = HEADS[manifest.head].output.name

    def run(self, inputs: Arrays) -> Arrays:
        """Execute once; every input of a batching model has a further axis, so task_id too."""
        shaped = {n: a[:, None] if a.ndim == 1 else a for n, a in inputs.items()}
        return call(self.name, shaped, [self._output])


class TritonPythonModel:
    """One embedder per bundle, whose manifest lies in ``bundles`` under its encoder's name."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the manifests."""
        folder = Path(args["model_repository"]) / args["model_version"] / "bundles"
        parameters = json.loads(args["model_config"])["parameters"]
        on_gpu = parameters.get("on_gpu", {"string_value": ""})["string_value"].split(",")
        max_bytes = int(parameters["max_bytes"]["string_value"])
        embedders = [
            _embedder(bundle, GPU if bundle.name in on_gpu else Budget(), max_bytes)
            for bundle in sorted(folder.iterdir())
        ]
        self._router = Router(embedders, max_bytes)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request; what is wrong with one concerns no other."""
        return [answer(request, self._router.answer) for request in requests]


def _embedder(bundle: Path, budget: Budget, max_bytes: int) -> Embedder:
    manifest = read_manifest(bundle)
    encoder = ServedEncoder(bundle.name, manifest, budget)
    runtime = HEADS[manifest.head].apply(encoder)
    return Embedder(manifest, ServedTokenizer(bundle, manifest, max_bytes), runtime)
