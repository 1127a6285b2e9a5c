"""The parity gate's negative controls, judged by quality: a part of ``make verdicts``.

Each is a row of :mod:`export.proof.controls`. The texts and tasks are those that quantised bundles
are judged by.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from datetime import date
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from calibration.evidence import Outcome
from calibration.looks import LOOKS
from calibration.quality import SetVectors
from export.checkpoint.reader import Checkpoint, open_checkpoint
from export.checkpoint.source import SAMPLE
from export.console.progress import progress_bar
from export.gate.compare import row_cosines
from export.gate.quality_texts import OWNERS
from export.proof.controls import CONTROLS, FP32, Control, ControlModel
from runtimes.arrays import Vectors
from runtimes.outputs import truncate
from runtimes.text.tokens import TextTokenizer
from tests.bench.control_table import Figures, table_of
from tests.bench.operating import lengths, mapped, outcome_of, side_texts
from tests.bench.summary import machine
from tests.support import DEEP

TOKENS = 8192
MODELS = {"sample": SAMPLE, "deep": DEEP}


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
        with ControlModel(control, checkpoint, task) as model:
            rows = model.embed(ids)
        edges = np.cumsum([counts[side] for side in sides])[:-1]
        found |= dict(zip(sides, np.split(rows, edges), strict=True))
    return SetVectors(**found)


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
