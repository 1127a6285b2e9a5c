"""Weights that alone are quantised: literal numbers, and how they are packed into bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx.reference
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.quantise import quantise, weight_scale
from calibration.rounding import (
    learned_steps,
    rounded_weight,
    stored_steps,
    weight_scales,
    wide_scales,
)
from export.graph.weights import Slot, packed, unpacked
from runtimes.schemes import FP8, INT4W, INT8, INT8W, Storage
from tests.support import Array

PLAIN = replace(INT4W, clips=(1.0,))


@pytest.fixture
def weight() -> Array:
    return np.random.default_rng(0).standard_normal((256, 24)).astype(np.float32)


def test_each_block_of_a_column_has_a_scale() -> None:
    """Two columns of 64: in the second block of the second one stands 14, a scale of 2."""
    weight = np.zeros((64, 2), np.float32)
    weight[:, 0], weight[1, 1], weight[40, 1], weight[41, 1] = 7, -3.5, 14, 5.1
    scales = weight_scales(weight, "float32", PLAIN)
    assert scales.tolist() == [[1, 1], [0.5, 2]]
    steps = stored_steps(weight, scales, PLAIN)
    assert (steps.shape, str(steps.dtype)) == ((2, 64), "int4")
    assert steps.astype(int)[1, [1, 40, 41]].tolist() == [-7, 7, 3]  # 2.55 steps
    assert rounded_weight(weight, "float32", PLAIN)[[1, 40, 41], 1].tolist() == [-3.5, 14, 6]


def test_int8_has_a_scale_for_each_column(weight: Array) -> None:
    scales = weight_scales(weight, "float16", INT8W)
    assert (scales.shape, str(scales.dtype)) == ((24,), "float16")
    largest = np.abs(weight).max(axis=0)
    assert np.allclose(scales, largest / 127, rtol=1e-3)
    error = np.abs(rounded_weight(weight, "float16", INT8W) - weight)
    assert (error <= largest * (0.51 / 127)).all()


def test_clipping_takes_the_share_with_the_least_error(weight: Array) -> None:
    """Never more than without, and what the best of the shares gives, block by block."""

    def errors(storage: Storage) -> Array:
        difference = rounded_weight(weight, "float32", storage) - weight
        found: Array = np.square(difference).reshape(-1, 32, 24).sum(axis=1)
        return found

    by_share = [errors(replace(INT4W, clips=(share,))) for share in INT4W.clips]
    assert np.allclose(errors(INT4W), np.min(by_share, axis=0), rtol=1e-5)
    assert errors(INT4W).sum() < 0.9 * errors(PLAIN).sum()


def test_smaller_blocks_lose_less(weight: Array) -> None:
    lost = [
        float(np.square(rounded_weight(weight, "float32", replace(INT4W, block=b)) - weight).sum())
        for b in (32, 64, 128)
    ]
    assert lost == sorted(lost)


def test_a_dead_block_is_zero_and_has_a_scale() -> None:
    dead = np.zeros((32, 1), np.float32)
    assert weight_scales(dead, "float16", INT4W).item() > 0
    assert not rounded_weight(dead, "float16", INT4W).any()


def test_block_that_does_not_divide_is_no_block(weight: Array) -> None:
    with pytest.raises(ValueError, match="256 rows cannot be cut into blocks of 96"):
        weight_scales(weight, "float32", replace(INT4W, block=96))


def test_bytes_are_those_that_onnx_packs(weight: Array) -> None:
    """ONNX's own reference reads the file's bytes and dequantises them to the same numbers."""
    scales = weight_scales(weight, "float32", INT4W)
    steps = stored_steps(weight, scales, INT4W)
    raw = packed(steps)
    assert (str(raw.dtype), raw.size) == ("uint8", steps.size // 2)
    stored = TensorProto(
        name="w", data_type=TensorProto.INT4, dims=steps.shape, raw_data=raw.tobytes()
    )
    node = helper.make_node("DequantizeLinear", ["w", "s"], ["y"], axis=1, block_size=32)
    graph = helper.make_graph(
        [node],
        "graph",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, steps.shape)],
        [stored, numpy_helper.from_array(scales, "s")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])
    (restored,) = onnx.reference.ReferenceEvaluator(model).run(None, {})
    assert np.array_equal(np.asarray(restored).T, rounded_weight(weight, "float32", INT4W))
    slot = Slot("w", "int4", tuple(steps.shape), 0, "file")
    assert (slot.nbytes, slot.is_packed) == (raw.size, True)
    assert np.array_equal(unpacked(raw, slot), steps.astype(np.int8))


def test_other_types_lie_as_they_are() -> None:
    values = np.arange(6, dtype=np.float16).reshape(2, 3)
    slot = Slot("w", "float16", (2, 3), 0, "file")
    assert (slot.nbytes, slot.is_packed) == (12, False)
    assert packed(values.T).tobytes() == values.T.tobytes()


def read(rows: int = 512, size: int = 256) -> Array:
    """Inputs whose channels hang together and differ in size, as those of a layer do."""
    rng = np.random.default_rng(1)
    mixed = rng.standard_normal((rows, 40)) @ rng.standard_normal((40, size))
    return ((mixed + rng.standard_normal((rows, size))) * rng.uniform(0.1, 4, size)).astype("f4")


def by_the_paper(weight: Array, moment: Array, scales: Array, storage: Storage) -> Array:
    """GPTQ as its paper writes it: by the inverse, row after row in descending order, in FP64."""
    order = np.argsort(moment.diagonal(), kind="stable")[::-1]
    damped = moment + 0.01 * moment.diagonal().mean() * np.eye(len(moment))
    upper = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(order, order)])).T
    left = weight[order].astype(np.float64)
    wide = np.broadcast_to(scales, weight.shape)[order]
    steps = np.zeros(weight.shape)
    for row in range(len(left)):
        found = quantise(left[row].astype("f4"), wide[row], storage).astype(np.float64)
        error = (left[row] - found * wide[row]) / upper[row, row]
        left[row + 1 :] -= upper[row, row + 1 :, None] * error
        steps[order[row]] = found
    return steps


def scales_of(weight: Array, storage: Storage) -> Array:
    if storage.weight_only:
        return wide_scales(weight_scales(weight, "float32", storage), len(weight))
    return weight_scale(weight, "float32", storage)


@pytest.mark.parametrize("storage", [INT8, FP8, INT8W, INT4W], ids=lambda s: f"{s.name}")
def test_learned_steps_are_those_of_the_paper(weight: Array, storage: Storage) -> None:
    x = read()
    moment = (x.T @ x).astype(np.float64) / len(x)
    scales = scales_of(weight, storage)
    steps = learned_steps(weight, moment, scales, storage)
    assert str(steps.dtype) == storage.dtype
    found = steps.astype(np.float32)
    expected = by_the_paper(weight, moment, scales, storage)
    # A number in the middle between two steps may go either way in FP32, and others follow it.
    assert (found == expected).mean() > 0.99
    nearest = quantise(weight, scales, storage).astype(np.float32)
    learned, plain = (np.square(x @ (s * scales - weight)).sum() for s in (found, nearest))
    assert learned < 0.5 * plain
    assert (found != nearest).mean() > 0.1


def test_what_is_never_read_is_rounded_to_the_nearest(weight: Array) -> None:
    scales = scales_of(weight, INT4W)
    steps = learned_steps(weight, np.zeros((256, 256)), scales, INT4W)
    assert np.array_equal(steps, quantise(weight, scales, INT4W))


def test_inputs_that_do_not_hang_together_leave_the_nearest(weight: Array) -> None:
    scales = scales_of(weight, INT8)
    steps = learned_steps(weight, np.diag(np.arange(1.0, 257)), scales, INT8)
    assert np.array_equal(steps, quantise(weight, scales, INT8))
