"""The texts that both sides are given: of each length one that fills it, and a shorter one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.gate.texts import parity_lines, task_number
from runtimes.arrays import Arrays, Ids, Vectors
from runtimes.choices import HeadName
from runtimes.errors import InputError
from runtimes.heads import CHUNK_WEIGHTS
from runtimes.manifest import Manifest
from runtimes.tensors import TASK_ID
from runtimes.text.tokens import TextTokenizer, Tokens, check_text, shorten

LENGTHS = (8, 32, 128, 512)
LEAST = 4  # tokens: begin, end, and two to tell apart
_SHORTER = 5 / 8  # of a length, so that its row is padded


def batches(
    tokenizer: TextTokenizer, prefix: str, texts: Sequence[str], lengths: Sequence[int]
) -> Mapping[int, Tokens]:
    """By length in tokens a batch of two rows, the second of them padded.

    ``texts`` are joined, over and over, and cut; without any the gate's own are taken. Where the
    bundle does not hold every token, texts are cut into those it has. Raises
    :class:`InputError` for a length that the bundle does not take.
    """
    for length in lengths:
        if not LEAST <= length <= tokenizer.max_tokens:
            raise InputError(
                f"--lengths: got {length}, expected {LEAST} to {tokenizer.max_tokens}, what the "
                "bundle takes"
            )
    for number, text in enumerate(texts):
        check_text(text, f"text {number}", tokenizer.max_bytes)
    chosen = list(texts) or [line["text"] for line in parity_lines()]
    half = len(chosen) // 2
    rows = [
        _long_row(tokenizer, prefix, order, max(lengths))
        for order in (chosen, chosen[half:] + chosen[:half])
    ]
    return {
        length: tokenizer.pad(
            [shorten(rows[0], length), shorten(rows[1], max(LEAST - 1, int(_SHORTER * length)))]
        )
        for length in sorted(set(lengths))
    }


def _long_row(tokenizer: TextTokenizer, prefix: str, texts: Sequence[str], most: int) -> Ids:
    """Ids of the texts one after the other, at least ``most`` of them."""
    known = tokenizer.restricted
    frame = known.tokenize([prefix + texts[0]])[0]
    if (inner := sum(len(ids) - 2 for ids in known.tokenize(list(texts)))) <= 0:
        raise InputError("the texts give no token; give others")
    times = -(-most // inner)
    rows = known.tokenize(list(texts))
    body = [ids[1:-1] for ids in rows] * times
    return np.concatenate([frame[:-1], *body, frame[-1:]])


def graph_inputs(manifest: Manifest, tokens: Tokens, task: str) -> Arrays:
    """What the graph takes for a batch; of a chunk head two chunks, the halves of each text."""
    inputs: dict[str, NDArray[Any]] = {**tokens.inputs()}
    if (number := task_number(manifest, task)) is not None:
        inputs[TASK_ID.name] = np.full(len(tokens.input_ids), number, np.int64)
    if manifest.head is HeadName.CHUNKS:
        inputs[CHUNK_WEIGHTS.name] = _halves(tokens)
    return inputs


def _halves(tokens: Tokens) -> Vectors:
    mask = tokens.attention_mask
    weights = np.zeros((len(mask), 2, mask.shape[1]), np.float32)
    for row, count in enumerate(mask.sum(1)):
        middle = count // 2
        weights[row, 0, :middle] = 1 / middle
        weights[row, 1, middle:count] = 1 / (count - middle)
    return weights
