"""Batches of ids for GPUs; what is compared at every length."""

from __future__ import annotations

from typing import Any

import numpy as np

Inputs = dict[str, np.ndarray[Any, Any]]
LENGTHS = (2, 16, 128, 512, 1024, 2048, 4096, 8192)
PADDED = (512, 300, 17, 2)  # the lengths of one padded batch
_VOCAB, _PAD = 16000, 1  # the sample tokenizer's


def full(rows: int, tokens: int) -> Inputs:
    """Random ids without padding; the same at every call."""
    ids = np.random.default_rng(rows * 10_000 + tokens).integers(5, _VOCAB, (rows, tokens))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def padded() -> Inputs:
    """One batch of different lengths."""
    inputs = full(len(PADDED), max(PADDED))
    for row, length in enumerate(PADDED):
        inputs["input_ids"][row, length:] = _PAD
        inputs["attention_mask"][row, length:] = 0
    return inputs


def compared(longest: int = max(LENGTHS)) -> dict[str, Inputs]:
    """By name: one text of each length, and the padded batch."""
    texts = {f"1x{n}": full(1, n) for n in LENGTHS if n <= longest}
    return texts | ({"padded": padded()} if longest >= max(PADDED) else {})
