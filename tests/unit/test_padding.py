"""Shapes that repeat: the grid, what is in the padding, and what is cut off again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.executors.tensorrt.padding import (
    cut_outputs,
    grid_shape,
    grid_sizes,
    pad_inputs,
    step_up,
)
from runtimes.heads import CHUNK_EMBEDDING, CHUNK_WEIGHTS, CHUNKS, TEXT_EMBEDS
from runtimes.profiles import Profile
from runtimes.tensors import ATTENTION_MASK, BATCH, INPUT_IDS, SEQUENCE, TASK_ID, Tensor

WIDE = Profile(name="wide", min=(1, 1), opt=(8, 256), max=(32, 8192))
SCALAR_TASK = Tensor(name="task_id", dtype="int64", axes=())
rows, tokens = st.integers(1, 32), st.integers(1, 8192)


@pytest.mark.parametrize(
    ("size", "steps", "least", "grid"),
    [
        (1, 2, 1, 1),
        (2, 2, 1, 2),
        (3, 2, 1, 3),
        (5, 2, 1, 6),
        (7, 2, 1, 8),
        (17, 2, 1, 24),
        (32, 2, 1, 32),
        (1, 8, 8, 8),
        (8, 8, 8, 8),
        (65, 8, 8, 72),
        (129, 8, 8, 144),
        (513, 8, 8, 576),
        (4097, 8, 8, 4608),
        (8192, 8, 8, 8192),
    ],
)
def test_grid(size: int, steps: int, least: int, grid: int) -> None:
    assert step_up(size, steps, least) == grid


@pytest.mark.parametrize(
    ("shape", "full", "rtx"),
    [
        ((1, 5), (1, 8), (1, 8)),
        ((3, 20), (3, 24), (3, 24)),
        ((5, 30), (6, 32), (6, 32)),
        ((17, 33), (17, 40), (17, 40)),  # 24 × 40 would be 399 tokens more
        ((17, 500), (17, 512), (17, 512)),
        ((17, 513), (17, 513), (17, 576)),
        ((1, 5000), (1, 5120), (1, 5120)),
        ((1, 4100), (1, 4100), (1, 4608)),
        ((32, 8192), (32, 8192), (32, 8192)),
    ],
)
def test_padding_costs_at_most_what_a_call_does(
    shape: tuple[int, int], full: tuple[int, int], rtx: tuple[int, int]
) -> None:
    assert grid_shape(shape, WIDE, compiles=False) == full
    assert grid_shape(shape, WIDE, compiles=True) == rtx


@given(rows, tokens, st.integers(1, 40), st.integers(1, 9000), st.booleans())
def test_padded_shapes_stay_in_the_profile_and_within_bounds(
    rows: int, tokens: int, most_rows: int, most_tokens: int, compiles: bool
) -> None:
    rows, tokens = min(rows, most_rows), min(tokens, most_tokens)
    profile = Profile(name="p", min=(1, 1), opt=(1, 1), max=(most_rows, most_tokens))
    wide, long = grid_shape((rows, tokens), profile, compiles=compiles)
    assert rows <= wide <= most_rows
    assert tokens <= long <= most_tokens
    if not compiles or wide > rows:
        assert wide * long - rows * tokens <= 256
    if wide == rows:
        assert long - tokens <= max(7, tokens / 8)


def test_compiled_lengths_are_few() -> None:
    shapes = {grid_shape((1, n), WIDE, compiles=True) for n in range(1, 8193)}
    assert len(shapes) == 64


def test_padding_and_its_way_back() -> None:
    """Tokens are zeros everywhere; rows and chunks are the last one again."""
    arrays = {
        "input_ids": np.arange(10, 25).reshape(5, 3),
        "attention_mask": np.ones((5, 3), np.int64),
        "task_id": np.array([0, 1, 2, 3, 4]),
        "chunk_weights": np.ones((5, 5, 3), np.float32),
    }
    tensors = (INPUT_IDS, ATTENTION_MASK, TASK_ID, CHUNK_WEIGHTS)
    sizes = {BATCH: 5, SEQUENCE: 3, CHUNKS: 5}
    limits = {BATCH: 32, SEQUENCE: 8192, CHUNKS: 1024}
    grid = grid_sizes(sizes, limits, WIDE, compiles=False)
    assert grid == {BATCH: 6, SEQUENCE: 8, CHUNKS: 6}
    padded = pad_inputs(tensors, arrays, grid)
    assert {n: a.shape for n, a in padded.items()} == {
        "input_ids": (6, 8),
        "attention_mask": (6, 8),
        "task_id": (6,),
        "chunk_weights": (6, 6, 8),
    }
    for name in ("input_ids", "attention_mask", "chunk_weights"):
        assert not padded[name][..., 3:].any()
        assert padded[name].dtype == arrays[name].dtype
    for array in padded.values():
        np.testing.assert_array_equal(array[5], array[4])
    np.testing.assert_array_equal(padded["chunk_weights"][:, 5], padded["chunk_weights"][:, 4])
    assert padded["chunk_weights"].any(axis=2).all()  # no mean of nothing
    cut = cut_outputs(
        (CHUNK_EMBEDDING, TEXT_EMBEDS),
        {"chunk_embedding": np.ones((6, 6, 4)), "text_embeds": np.ones((6, 8, 4))},
        sizes,
    )
    assert cut["chunk_embedding"].shape == (5, 5, 4)
    assert cut["text_embeds"].shape == (5, 3, 4)


def test_what_fits_is_not_copied_and_a_scalar_stays() -> None:
    ids, task = np.ones((2, 8), np.int64), np.array(3)
    padded = pad_inputs(
        (INPUT_IDS, SCALAR_TASK), {"input_ids": ids, "task_id": task}, {BATCH: 2, SEQUENCE: 8}
    )
    assert padded["input_ids"] is ids
    assert padded["task_id"] is task


def test_limit_of_chunks_is_the_engines() -> None:
    sizes = {BATCH: 1, SEQUENCE: 8, CHUNKS: 900}
    grid = grid_sizes(sizes, {**sizes, CHUNKS: 1000}, WIDE, compiles=False)
    assert grid[CHUNKS] == 1000
