"""The parity gate's negative controls, judged by quality: a part of ``make verdicts``.

Each is transformers' model with PEFT's adapters, wrong in one way. The texts and tasks are those
that quantised bundles are judged by.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from calibration.evidence import Outcome
from calibration.looks import LOOKS
from calibration.quality import SetVectors
from export.checkpoint.reader import Checkpoint, open_checkpoint
from export.checkpoint.source import SAMPLE
from export.console.progress import progress_bar
from export.gate.compare import row_cosines
from export.gate.quality_texts import OWNERS
from export.gate.reference import reference_model
from runtimes.arrays import Ids, Vectors
from runtimes.choices import BASE_TASK
from runtimes.executors.torch_reference import FlashReference
from runtimes.outputs import truncate
from runtimes.text.tokens import TextTokenizer
from tests.bench.control_table import Figures, table_of
from tests.bench.operating import lengths, mapped, outcome_of, side_texts
from tests.bench.summary import machine
from tests.support import DEEP

TOKENS, ROPE_BASE = 8192, 10000.0
MODELS = {"sample": SAMPLE, "deep": DEEP}
Pool = Callable[[nn.Module, Tensor], Tensor]  # [batch, sequence, hidden] -> [batch, hidden]


def _mean(_: nn.Module, tokens: Tensor) -> Tensor:
    return normalize(tokens.mean(1), dim=1)


@dataclass(frozen=True)
class Control:
    """How one text's vector is made: the model of a task, the pooling, and the cut to a width."""

    model: Callable[[Checkpoint, str], Any] = reference_model
    pool: Pool = _mean
    cut: Callable[[Vectors, int], Vectors] = truncate


def _wrong_adapter(checkpoint: Checkpoint, task: str) -> Any:
    """That of the task behind it in the checkpoint."""
    tasks = checkpoint.tasks
    return reference_model(checkpoint, tasks[(tasks.index(task) + 1) % len(tasks)])


def _exchanged(checkpoint: Checkpoint, task: str) -> Any:
    """A and B change places where the shapes allow it: in the square matrices."""
    model = reference_model(checkpoint, task)
    for module in model.modules():
        for name in getattr(module, "lora_A", {}):
            down, up = module.lora_A[name].weight, module.lora_B[name].weight  # type: ignore[union-attr,index]
            if down.shape == up.T.shape:
                down.data, up.data = up.data.T.clone(), down.data.T.clone()
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
        table = torch.cat([angles.sin(), angles.cos()], 1)
        return (x + table * x.square().mean().sqrt(),)

    model.embeddings.LayerNorm.register_forward_pre_hook(add)
    return model


def _pooler(model: Any, tokens: Tensor) -> Tensor:
    return normalize(model.pooler(tokens), dim=1)


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
    "no adapter": Control(lambda checkpoint, _: reference_model(checkpoint, BASE_TASK)),
    "A and B exchanged": Control(_exchanged),
    "RoPE's base 10000": Control(_rotated(lambda exponents: ROPE_BASE**-exponents)),
    "no positions": Control(_no_positions),
    "absolute positions": Control(_absolute),
    "pooler's output": Control(pool=_pooler),
    "mean not scaled to length 1": Control(
        pool=lambda _, tokens: tokens.mean(1), cut=lambda rows, width: rows[:, :width]
    ),
    "cut, not scaled to length 1 again": Control(cut=lambda rows, width: rows[:, :width]),
    "every second text of half the dimensions": Control(cut=_halved),
    "dimensions in another order": Control(cut=_reordered),
}


def control_vectors(
    checkpoint: Checkpoint, control: Control, asked: int, graded: int
) -> SetVectors:
    """A look's vectors in full width, each side by the task made for it."""
    path = checkpoint.folder / "tokenizer.json"
    tokenizer = TextTokenizer(path, max_tokens=TOKENS, pad_id=checkpoint.config.pad_id)
    texts, counts = side_texts(), lengths(asked, graded)
    found: dict[str, Vectors] = {}
    for task in dict.fromkeys(OWNERS.values()):
        sides = [side for side in OWNERS if OWNERS[side] == task]
        named = [text for side in sides for text in texts[side][: counts[side]]]
        ids = tokenizer.encode(named, checkpoint.config.prefix(task))
        rows = _embedded(control.model(checkpoint, task), control.pool, ids)
        edges = np.cumsum([counts[side] for side in sides])[:-1]
        found |= dict(zip(sides, np.split(rows, edges), strict=True))
    return SetVectors(**found)


def _embedded(model: Any, pool: Pool, texts: Sequence[Ids]) -> Vectors:
    """Rows in the texts' order; texts of one length run together, without padding."""
    reference = FlashReference(model)
    by_length: dict[int, list[int]] = {}
    for row, ids in enumerate(texts):
        by_length.setdefault(len(ids), []).append(row)
    vectors: dict[int, Any] = {}
    for rows in by_length.values():
        tokens = reference.token_vectors(np.stack([texts[row] for row in rows]))
        with torch.inference_mode():
            vectors |= dict(zip(rows, pool(model, tokens).numpy(), strict=True))
    return np.stack([vectors[row] for row in range(len(texts))])


def judged(
    exact: Callable[[tuple[int, int]], SetVectors],
    ours: Callable[[tuple[int, int]], SetVectors],
    cut: Callable[[Vectors, int], Vectors],
    widths: Sequence[int],
) -> Figures:
    """How the verdict ends, at how many queries, and the cosines with FP32 at the first width.

    More texts are looked at while nothing is decided.
    """
    for look in LOOKS:
        before, after = exact(look), ours(look)
        pairs = [(_at(before, truncate, width), _at(after, cut, width)) for width in widths]
        outcome = outcome_of(pairs, look)
        if outcome != Outcome.UNDECIDED:
            break
    sides = [[getattr(vectors, side) for vectors in pairs[0]] for side in OWNERS]
    cosines = np.concatenate([row_cosines(*rows) for rows in sides])
    figures = {"least": float(cosines.min()), "mean": float(cosines.mean())}
    return {"outcome": str(outcome), "queries": look[0], **figures}


def _at(vectors: SetVectors, cut: Callable[[Vectors, int], Vectors], width: int) -> SetVectors:
    return mapped(vectors, lambda _, rows: cut(rows, width))


def report_of(model: Path) -> dict[str, Any]:
    """What is committed of one checkpoint."""
    checkpoint = open_checkpoint(model)
    dimensions = checkpoint.config.dimensions
    widths = tuple(dict.fromkeys((dimensions[-1], dimensions[0])))
    exact = cache(lambda look: control_vectors(checkpoint, FP32, *look))
    controls = {
        name: judged(exact, partial(_of_look, checkpoint, control), control.cut, widths)
        for name, control in progress_bar(CONTROLS.items(), model.name, "control")
    }
    where = {"command": "make verdicts", "machine": machine(), "date": date.today().isoformat()}
    return {**where, "widths": widths, "controls": controls}


def _of_look(checkpoint: Checkpoint, control: Control, look: tuple[int, int]) -> SetVectors:
    return control_vectors(checkpoint, control, *look)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, model in MODELS.items():
        path = arguments.out / f"{name}.json"
        path.write_text(json.dumps(report_of(model), indent=2) + "\n", encoding="utf-8")
        print(table_of(path))


if __name__ == "__main__":
    main()
