"""LoRA arithmetic: literal values, swapped roles of embeddings, fusing Q, K and V, both formats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from safetensors.numpy import load_file

from export.checkpoint.families import JINA_TASKS
from export.checkpoint.lora import LoraPair, fuse_columns, merge
from export.checkpoint.names import adaptable_modules
from export.checkpoint.reader import Checkpoint
from export.checkpoint.source import SAMPLE
from tests.support import Array, merged_tensor

DOWN = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
UP = np.array([[1, 0, -1], [2, 1, 0]], np.float32)
# 0.25 · DOWN @ UP, by hand
DELTA = np.array([[1.25, 0.5, -0.25], [2.75, 1.0, -0.75], [4.25, 1.5, -1.25]], np.float32)


def test_delta_is_scaling_times_down_times_up() -> None:
    np.testing.assert_array_equal(LoraPair(DOWN, UP, 0.25).delta(), DELTA)


def test_delta_of_some_rows_is_those_rows() -> None:
    np.testing.assert_array_equal(LoraPair(DOWN, UP, 0.25).delta(slice(1, 3)), DELTA[1:3])


def test_merge_adds_in_fp32_and_leaves_the_weight_alone() -> None:
    weight = np.full((3, 3), 2.0**-20, np.float32)
    merged = merge(weight, LoraPair(DOWN, UP, 0.25))
    assert merged.dtype == np.float32
    np.testing.assert_array_equal(merged, DELTA + np.float32(2.0**-20))
    assert (weight == 2.0**-20).all()


def test_merge_of_no_adapter_is_the_weight() -> None:
    np.testing.assert_array_equal(merge(DELTA, None), DELTA)


def stored(module: str, task: str) -> tuple[Array, Array, Array]:
    """Weight, A and B of one module as the original file stores them, in FP64."""
    tensors = load_file(SAMPLE / "model.safetensors")
    stem = f"roberta.{module}.parametrizations.weight."
    index = JINA_TASKS.index(task)
    a, b = tensors[stem + "0.lora_A"][index], tensors[stem + "0.lora_B"][index]
    return tensors[stem + "original"].astype(np.float64), a.astype(np.float64), b.astype(np.float64)


@pytest.mark.parametrize("task", JINA_TASKS)
@pytest.mark.parametrize("module", ["encoder.layers.3.mixer.Wqkv", "encoder.layers.0.mlp.fc2"])
def test_linear_layers_merge_b_times_a(original: Checkpoint, module: str, task: str) -> None:
    weight, a, b = stored(module, task)
    merged = merged_tensor(original, original.adapter(task), f"{module}.weight")
    np.testing.assert_allclose(merged, (weight + 0.25 * b @ a).T, atol=1e-6)


@pytest.mark.parametrize("task", JINA_TASKS)
@pytest.mark.parametrize("module", ["word_embeddings", "token_type_embeddings"])
def test_embeddings_merge_a_times_b(original: Checkpoint, module: str, task: str) -> None:
    weight, a, b = stored(f"embeddings.{module}", task)
    merged = merged_tensor(original, original.adapter(task), f"embeddings.{module}.weight")
    np.testing.assert_allclose(merged, weight + 0.25 * a @ b, atol=1e-6)


@pytest.mark.parametrize("task", JINA_TASKS)
def test_both_formats_merge_to_the_same_bits(
    original: Checkpoint, native: Checkpoint, task: str
) -> None:
    ours, theirs = original.adapter(task), native.adapter(task)
    modules = adaptable_modules(original.config)
    assert ours.modules.keys() == theirs.modules.keys() == modules.keys()
    for module in modules:
        first = merged_tensor(original, ours, f"{module}.weight")
        second = merged_tensor(native, theirs, f"{module}.weight")
        assert first.dtype == np.float32
        assert first.tobytes() == second.tobytes(), module


@pytest.mark.parametrize("module", ["encoder.layers.2.mlp.fc1", "embeddings.word_embeddings"])
def test_every_task_merges_to_another_matrix(original: Checkpoint, module: str) -> None:
    name = f"{module}.weight"
    seen = {
        merged_tensor(original, original.adapter(task), name).tobytes()
        for task in (*JINA_TASKS, "base")
    }
    assert len(seen) == len(JINA_TASKS) + 1


def test_base_merges_nothing(original: Checkpoint) -> None:
    name = "encoder.layers.0.mixer.Wqkv.weight"
    merged = merged_tensor(original, original.adapter("base"), name)
    np.testing.assert_array_equal(merged, original.read(name).T)


def pair(rank: int, columns: int, seed: int, scaling: float = 0.5) -> LoraPair:
    rng = np.random.default_rng(seed)
    return LoraPair(
        rng.standard_normal((6, rank), np.float32),
        rng.standard_normal((rank, columns), np.float32),
        scaling,
    )


def dense(pairs: Sequence[LoraPair | None], widths: Sequence[int]) -> Array:
    """The column blocks' updates side by side."""
    zeros = [np.zeros((6, w), np.float32) for w in widths]
    return np.concatenate(
        [z if p is None else p.delta() for p, z in zip(pairs, zeros, strict=True)], 1
    )


@pytest.mark.parametrize(
    "pairs",
    [
        [pair(4, 3, 0), pair(4, 3, 1), pair(4, 3, 2)],
        [pair(4, 3, 0), None, pair(2, 3, 2)],
        [None, None, pair(7, 3, 2)],
        [pair(1, 3, 0), None, None],
        [pair(4, 3, 0, 0.5), pair(4, 3, 1, 2.0), None],
        [pair(2, 3, 0, 0.5), pair(2, 3, 1, 0.25), pair(2, 3, 2, 1.0)],
    ],
    ids=["all differ", "no k", "only v", "only q", "other scaling", "three scalings"],
)
def test_fused_update_is_the_blocks_side_by_side(pairs: list[LoraPair | None]) -> None:
    fused = fuse_columns(pairs, [3, 3, 3])
    assert fused is not None
    np.testing.assert_allclose(fused.delta(), dense(pairs, [3, 3, 3]), atol=1e-6)


def test_fused_update_with_one_shared_down_keeps_its_rank_and_bits() -> None:
    whole = pair(4, 9, 0)
    parts = [LoraPair(whole.down, np.ascontiguousarray(u), 0.5) for u in np.split(whole.up, 3, 1)]
    fused = fuse_columns(parts, [3, 3, 3])
    assert fused is not None
    assert fused.rank == 4
    assert fused.delta().tobytes() == whole.delta().tobytes()


def test_shared_down_with_a_part_missing_leaves_that_part_alone() -> None:
    whole = pair(4, 3, 0)
    fused = fuse_columns([whole, None, LoraPair(whole.down, whole.up * 2, 0.5)], [3, 3, 3])
    assert fused is not None
    assert not fused.delta()[:, 3:6].any()
    np.testing.assert_allclose(fused.delta()[:, 6:], 2 * whole.delta(), rtol=1e-6)


def whole_numbers(rows: int, columns: int, seed: int) -> Array:
    """Factors whose products and sums FP32 holds exactly, in whatever order they are added."""
    rng = np.random.default_rng(seed)
    return rng.integers(-8, 9, (rows, columns)).astype(np.float32)


A, B = whole_numbers(64, 7, 0), whole_numbers(64, 7, 1)
SHARED: dict[str, tuple[list[Array | None], int]] = {
    "all three": ([A, A, A], 7),
    "q and k": ([A, A, B], 14),
    "k and v": ([B, A, A], 14),
    "q and v": ([A, B, A], 14),
    "only q and v": ([A, None, A], 7),
    "only k and v": ([None, A, A], 7),
    "other rank": ([A, A[:, :3].copy(), A], 10),
    "none": ([A, B, A + 1], 21),
}


@pytest.mark.parametrize("case", SHARED)
def test_equal_downs_are_fused_and_merge_to_the_bits_of_the_unfused(case: str) -> None:
    downs, rank = SHARED[case]
    pairs = [
        None if down is None else LoraPair(down, whole_numbers(down.shape[1], 64, part), 0.25)
        for part, down in enumerate(downs)
    ]
    fused = fuse_columns(pairs, [64] * 3)
    assert fused is not None
    assert fused.rank == rank
    weight = np.random.default_rng(2).standard_normal((64, 192), np.float32)
    columns = np.split(weight, 3, 1)
    apart = np.concatenate([merge(w, p) for w, p in zip(columns, pairs, strict=True)], 1)
    np.testing.assert_array_equal(merge(weight, fused), apart)


@pytest.mark.parametrize("rank", [1, 4, 8, 32])
def test_fused_factors_are_the_stored_ones_and_products_differ_by_rounding_alone(rank: int) -> None:
    """A BLAS adds the products of another shape in another order: a few units in the last place."""
    first, other = pair(rank, 3, 0), pair(rank, 3, 1)
    third = LoraPair(first.down, other.up * 3, first.scaling)
    fused = fuse_columns([first, other, third], [3, 3, 3])
    assert fused is not None
    np.testing.assert_array_equal(fused.down, np.concatenate([first.down, other.down], 1))
    np.testing.assert_array_equal(
        fused.up[:rank], np.concatenate([first.up, np.zeros_like(first.up), third.up], 1)
    )
    blocks = [first, other, third]
    bound = np.concatenate([np.abs(p.down) @ np.abs(p.up) for p in blocks], 1) * 0.5
    error = np.abs(fused.delta() - dense(blocks, [3, 3, 3]))
    assert (error <= 2 * rank * np.finfo(np.float32).eps * bound).all()


def test_equal_downs_of_other_scaling_share_columns_too() -> None:
    first = pair(4, 3, 0, 0.3)
    second = LoraPair(first.down, first.up * 2, 0.7)
    fused = fuse_columns([first, None, second], [3, 3, 3])
    assert fused is not None
    assert fused.rank == 4
    np.testing.assert_allclose(fused.delta(), dense([first, None, second], [3, 3, 3]), atol=1e-6)


def test_nothing_fuses_to_nothing() -> None:
    assert fuse_columns([None, None, None], [3, 3, 3]) is None
