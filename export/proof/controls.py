"""Negative controls: the checkpoint made wrong in one way each, which every judgement must refuse.

Each is transformers' model with PEFT's adapters. A proof runs them beside a bundle, ``make
verdicts`` judges them by quality.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from export.checkpoint.reader import Checkpoint
from export.gate.reference import reference_model
from runtimes.arrays import Arrays, Ids, Vectors
from runtimes.choices import BASE_TASK
from runtimes.executors.base import RuntimeBase, while_open
from runtimes.executors.torch_reference import FlashReference, reference_place
from runtimes.outputs import truncate
from runtimes.tensors import ATTENTION_MASK, INPUT_IDS, SENTENCE_EMBEDDING

ROPE_BASE = 10000.0
Pool = Callable[[nn.Module, Tensor], Tensor]  # [batch, sequence, hidden] -> [batch, hidden]


class NoControlError(Exception):
    """A checkpoint that cannot be made wrong in this way; the message says why."""


def _mean(_: nn.Module, tokens: Tensor) -> Tensor:
    return normalize(tokens.mean(1), dim=1)


@dataclass(frozen=True)
class Control:
    """How one text's vector is made: the model of a task, the pooling, and the cut to a width."""

    model: Callable[[Checkpoint, str], Any] = reference_model
    pool: Pool = _mean
    cut: Callable[[Vectors, int], Vectors] = truncate

    @property
    def cuts(self) -> bool:
        """Whether it is right in full length, and wrong where vectors are cut."""
        return self.model is reference_model and self.pool is _mean


def _wrong_adapter(checkpoint: Checkpoint, task: str) -> Any:
    """That of the task behind it in the checkpoint; for the base model the first there is."""
    tasks = checkpoint.tasks
    other = tasks[(tasks.index(task) + 1) % len(tasks)] if task in tasks else (*tasks, task)[0]
    if other == task:
        raise NoControlError("the checkpoint has no other adapter")
    return reference_model(checkpoint, other)


def _no_adapter(checkpoint: Checkpoint, task: str) -> Any:
    if task == BASE_TASK:
        raise NoControlError("the base model has no adapter")
    return reference_model(checkpoint, BASE_TASK)


def _exchanged(checkpoint: Checkpoint, task: str) -> Any:
    """A and B change places where the shapes allow it: in the square matrices."""
    if task == BASE_TASK:
        raise NoControlError("the base model has no adapter")
    model = reference_model(checkpoint, task)
    count = 0
    for module in model.modules():
        for name in getattr(module, "lora_A", {}):
            down, up = module.lora_A[name].weight, module.lora_B[name].weight  # type: ignore[union-attr,index]
            if down.shape == up.T.shape:
                down.data, up.data = up.data.T.clone(), down.data.T.clone()
                count += 1
    if count == 0:
        raise NoControlError("no matrix that the adapter changes is square")
    return model


def _rotated(factor: Callable[[Tensor], Tensor]) -> Callable[[Checkpoint, str], Any]:
    """RoPE's frequencies, ``base ** -exponent``, as something else makes them of the exponents."""

    def model(checkpoint: Checkpoint, task: str) -> Any:
        found: Any = reference_model(checkpoint, task)
        frequencies = found.rotary_emb.inv_freq
        exponents = torch.arange(len(frequencies), dtype=torch.float32) / len(frequencies)
        found.rotary_emb.inv_freq = factor(exponents)
        return found

    return model


_no_positions = _rotated(torch.zeros_like)


def _absolute(checkpoint: Checkpoint, task: str) -> Any:
    """Sines and cosines of the position are added to the embeddings, and nothing is rotated."""
    model = _no_positions(checkpoint, task)

    def add(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        (x,) = inputs
        positions, half = torch.arange(x.shape[1])[:, None], x.shape[2] // 2
        angles = positions * ROPE_BASE ** -(torch.arange(half) / half)
        table = torch.cat([angles.sin(), angles.cos()], 1).to(x.device)
        return (x + table * x.square().mean().sqrt(),)

    model.embeddings.LayerNorm.register_forward_pre_hook(add)
    return model


def _pooler(model: Any, tokens: Tensor) -> Tensor:
    return normalize(model.pooler(tokens), dim=1)


def _not_cut_to_length(rows: Vectors, width: int) -> Vectors:
    return rows[:, :width]


def _reordered(rows: Vectors, width: int) -> Vectors:
    return truncate(rows[:, np.random.default_rng(0).permutation(rows.shape[1])], width)


def _halved(rows: Vectors, width: int) -> Vectors:
    """Every second text's vector has half the numbers, zeros behind them."""
    cut = truncate(rows, width).copy()
    cut[::2, width // 2 :] = 0
    found: Vectors = cut / np.linalg.norm(cut, axis=1, keepdims=True)
    return found


FP32 = Control()
CONTROLS: Mapping[str, Control] = {
    "wrong adapter": Control(_wrong_adapter),
    "no adapter": Control(_no_adapter),
    "A and B exchanged": Control(_exchanged),
    "RoPE's base 10000": Control(_rotated(lambda exponents: ROPE_BASE**-exponents)),
    "no positions": Control(_no_positions),
    "absolute positions": Control(_absolute),
    "pooler's output": Control(pool=_pooler),
    "mean not scaled to length 1": Control(
        pool=lambda _, tokens: tokens.mean(1), cut=_not_cut_to_length
    ),
    "cut, not scaled to length 1 again": Control(cut=_not_cut_to_length),
    "every second text of half the dimensions": Control(cut=_halved),
    "dimensions in another order": Control(cut=_reordered),
}


class ControlModel(RuntimeBase):
    """A control behind the encoder's contract: texts of one length run together, unpadded."""

    def __init__(self, control: Control, checkpoint: Checkpoint, task: str) -> None:
        """Raises :class:`NoControlError` where the checkpoint cannot be made wrong in this way."""
        device, kernel = reference_place()
        self._model = control.model(checkpoint, task)
        self._pool = control.pool
        self._reference = FlashReference(self._model, device=device, kernel=kernel)
        self.name = self._reference.name

    @while_open
    def run(self, inputs: Arrays) -> Arrays:
        """Execute once."""
        ids, lengths = inputs[INPUT_IDS.name], inputs[ATTENTION_MASK.name].sum(1)
        rows = self.embed([row[:length] for row, length in zip(ids, lengths, strict=True)])
        return {SENTENCE_EMBEDDING.name: rows}

    def embed(self, texts: Sequence[Ids]) -> Vectors:
        """``[texts, hidden]`` in the texts' order."""
        by_length: dict[int, list[int]] = {}
        for row, ids in enumerate(texts):
            by_length.setdefault(len(ids), []).append(row)
        vectors: dict[int, Vectors] = {}
        for rows in by_length.values():
            tokens = self._reference.token_vectors(np.stack([texts[row] for row in rows]))
            with torch.inference_mode():
                pooled = self._pool(self._model, tokens).float().cpu().numpy()
            vectors |= dict(zip(rows, pooled, strict=True))
        return np.stack([vectors[row] for row in range(len(texts))])

    def _free(self) -> None:
        self._reference.close()
        del self._model
