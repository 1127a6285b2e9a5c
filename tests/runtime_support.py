"""What tests of :mod:`runtimes` need, and nothing that builds: they run on Python 3.10 too."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from runtimes.choices import AdapterMode, HeadName, Interface, Precision, Target
from runtimes.executors.base import RuntimeBase
from runtimes.manifest import (
    SCHEMA,
    SCHEMA_MINOR,
    Architecture,
    BuiltFor,
    Manifest,
    Model,
    Parity,
    Quantisation,
    Vocabulary,
)
from runtimes.text.tokens import TextTokenizer

SAMPLE = Path(__file__).parents[1] / "export" / "sample"  # export.checkpoint.source's
PAD_ID = 1
PREFIX = "query: "
ARCHITECTURE: dict[str, Any] = {
    "hidden": 8,
    "layers": 1,
    "heads": 2,
    "intermediate": 16,
    "vocab": 16000,
    "token_types": 1,
    "max_positions": 8194,
    "layer_norm_eps": 1e-5,
    "rope_theta": 20000.0,
    "pad_id": PAD_ID,
}
Array = np.ndarray[Any, Any]


def changed(tree: Any, at: tuple[Any, ...], value: Any) -> Any:
    """A copy of nested JSON with one entry changed; ``...`` removes it."""
    inner = tree = copy.deepcopy(tree)
    for key in at[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[at[-1]]
    else:
        inner[at[-1]] = value
    return tree


def padded(lengths: list[int], *, vocab: int = 16000, seed: int = 0) -> dict[str, Array]:
    """A right-padded batch of random ids."""
    rng = np.random.default_rng(seed)
    ids = np.full((len(lengths), max(lengths)), PAD_ID, np.int64)
    mask = np.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = rng.integers(5, vocab, length)
        mask[row, :length] = 1
    return {"input_ids": ids, "attention_mask": mask}


def cosines(a: Array, b: Array) -> Array:
    """Row by row in FP64; written apart from the product's own."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    found: Array = (x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1))
    return found


class CallableRuntime(RuntimeBase):
    """The fake behind the runtime seam: a function from ids and mask to vectors."""

    name = "fake"

    def __init__(self, function: Callable[[Array, Array], Array]) -> None:
        self.function = function
        self.calls: list[tuple[int, ...]] = []
        self.closed = False

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        self.calls.append(ids.shape)
        return {"sentence_embedding": self.function(ids, mask)}

    def close(self) -> None:
        self.closed = True


def sample_tokenizer(max_tokens: int = 8192) -> TextTokenizer:
    return TextTokenizer(SAMPLE / "tokenizer.json", max_tokens=max_tokens, pad_id=PAD_ID)


VOCABULARY = {
    "rows": 9,
    "of": 16000,
    "source": "languages de",
    "min_count": 1,
    "unknown": "error",
    "texts": 3,
    "coverage": {"de": {"texts": 3, "covered": 2}},
    "gate": {"texts": 48, "covered": 7},
    "corpus_sha256": "0" * 64,
    "tokenizer_sha256": "0" * 64,
}
PARITY = {
    "reference": "torch-sdpa-flash-cpu-float32",
    "executed": "onnxruntime-cpu",
    "rows": 1,
    "min_cosine": 1.0,
    "mean_cosine": 1.0,
    "max_abs": 0.0,
    "threshold": 0.99,
    "passed": True,
}


def make_manifest(**changes: Any) -> Manifest:
    """A merged bundle's manifest with no artefacts; records may be given as in its JSON.

    Nothing is checked but the choices' names; an architecture needs only what differs.
    """
    entries: dict[str, Any] = {
        "schema": SCHEMA,
        "schema_minor": SCHEMA_MINOR,
        "model": {"name": "fake", "sha256": "0" * 64},
        "architecture": ARCHITECTURE,
        "task": "retrieval.query",
        "tasks": ("retrieval.query",),
        "adapter": "merged",
        "slot_rank": None,
        "interface": "sentence",
        "precision": "fp32",
        "target": {"name": "onnxruntime"},
        "max_batch": 4,
        "max_tokens": 64,
        "dimensions": (2, 4, 8),
        "prefix": PREFIX,
        "prefixes": {"retrieval.query": PREFIX},
        "pad_id": PAD_ID,
        "artifacts": (),
        "parity": PARITY,
        "versions": {"adaptrt": "0"},
    }
    entries |= changes
    return Manifest(**{key: _RECORDS.get(key, _as_it_is)(entries[key]) for key in entries})


def _as_it_is(value: Any) -> Any:
    return value


_RECORDS: dict[str, Callable[[Any], Any]] = {
    "model": lambda raw: Model(**raw),
    "architecture": lambda raw: Architecture(**ARCHITECTURE | raw),
    "target": lambda raw: BuiltFor(**raw | {"name": Target(raw["name"])}),
    "parity": lambda raw: Parity(**raw),
    "quantisation": lambda raw: Quantisation(
        **raw | {"scheme": Precision(raw["scheme"]), "quantised": tuple(raw["quantised"])}
    ),
    "vocabulary": lambda raw: None if raw is None else msgspec.convert(raw, Vocabulary),
    "adapter": AdapterMode,
    "interface": Interface,
    "head": HeadName,
    "precision": Precision,
}
