"""The range of each task's vectors at each length, for 8-bit output (:mod:`runtimes.outputs`).

They are those of the bundle's own CPU graph on the calibration corpus: 128 texts, spread evenly
over it, of which 32 tokens each are run behind the task's instruction. That is about 4,000 tokens
a task: 13 s at the real model's size on two cores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from calibration.corpus import Text
from export.gate.compare import embed
from export.gate.texts import ParityText, task_number, verified_tasks
from runtimes.arrays import Vectors
from runtimes.errors import GateError
from runtimes.executors.base import Runtime
from runtimes.manifest import Manifest
from runtimes.open import cpu_executor, open_runtime
from runtimes.outputs import truncate
from runtimes.text.tokens import TextTokenizer, shorten

# Of the whole corpus, 888 texts in full, at most 1 value in 3,000 lies beyond the sample's ranges.
TEXTS, TOKENS = 128, 32
_CHARACTERS = 1024  # of a text, which hold that many tokens; a user's may have a million


def output_ranges(
    folder: Path, manifest: Manifest, tokenizer: TextTokenizer, corpus: Sequence[Text]
) -> dict[str, dict[str, float]]:
    """By task and length in digits, the greatest magnitude, rounded up to four digits."""
    with open_runtime(folder, manifest, cpu_executor(manifest)) as runtime:
        return measured(runtime, manifest, tokenizer, corpus)


def measured(
    runtime: Runtime, manifest: Manifest, tokenizer: TextTokenizer, corpus: Sequence[Text]
) -> dict[str, dict[str, float]]:
    """The same of any runtime. Raises :class:`GateError` for a vector that is not finite."""
    ranges = {}
    for task in verified_tasks(manifest):
        vectors = embed(runtime, samples(manifest, tokenizer, corpus, task), tokenizer)
        if not np.isfinite(vectors).all():
            raise GateError(f"{task}: a calibration text's vector is not finite; check the weights")
        ranges[task] = {
            str(width): _rounded_up(truncate(vectors, width)) for width in manifest.dimensions
        }
    return ranges


def samples(
    manifest: Manifest, tokenizer: TextTokenizer, corpus: Sequence[Text], task: str
) -> list[ParityText]:
    """The texts that are run, tokenised.

    A corpus has its languages one after the other, so even steps have some of each.
    """
    prefix = manifest.prefixes[task]
    chosen = np.linspace(0, len(corpus) - 1, min(TEXTS, len(corpus))).astype(int)
    instruction, *rows = tokenizer.tokenize(
        [prefix, *(prefix + corpus[i].text[:_CHARACTERS] for i in chosen)]
    )
    most = min(len(instruction) + TOKENS, tokenizer.max_tokens)
    number = task_number(manifest, task)
    return [ParityText(task, shorten(ids, most), task, number) for ids in rows]


def _rounded_up(vectors: Vectors) -> float:
    """Four digits, so that two machines whose sums differ in the last bit agree."""
    greatest = float(np.abs(vectors).max())
    steps = 10.0 ** (3 - math.floor(math.log10(greatest)))
    return math.ceil(greatest * steps) / steps
