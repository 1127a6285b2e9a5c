"""RoPE lowered for ONNX Runtime and for old TensorRT, against the standard operator."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from export.lowering.expand_rotary import ExpandRotary
from export.lowering.use_contrib_rotary import UseContribRotary
from tests.support import Array, op_types, parse_graph, run_model

HEADS, WIDTH, POSITIONS = 2, 8, 64  # 16 wide in all


def rotary_graph(kind: str = "float") -> ir.Model:
    angles = np.arange(POSITIONS)[:, None] * 20000.0 ** (-np.arange(0, WIDTH, 2) / WIDTH)
    dtype = {"float": np.float32, "float16": np.float16}[kind]
    return parse_graph(
        f"""
        <ir_version: 10, opset_import: ["" : 23]>
        g ({kind}[batch,sequence,{HEADS * WIDTH}] q, {kind}[batch,sequence,{HEADS * WIDTH}] k,
           int64[batch,sequence] positions) => ({kind}[batch,sequence,{2 * HEADS * WIDTH}] y)
        {{
            [rope] a = RotaryEmbedding <num_heads = {HEADS}> (q, cos, sin, positions)
            [rope_1] b = RotaryEmbedding <num_heads = {HEADS}> (k, cos, sin, positions)
            y = Concat <axis = -1> (a, b)
        }}
        """,
        cos=np.cos(angles).astype(dtype),
        sin=np.sin(angles).astype(dtype),
    )


def inputs(positions: list[list[int]], dtype: Any = np.float32) -> dict[str, Array]:
    rng = np.random.default_rng(1)
    at = np.array(positions, np.int64)
    shape = (*at.shape, HEADS * WIDTH)
    rows = {name: rng.standard_normal(shape, np.float32).astype(dtype) for name in "qk"}
    return rows | {"positions": at}


CASES = [[[0]], [[0, 1, 2, 3]], [[0, 1, 2], [0, 1, 2]], [[5, 9, 63], [63, 0, 7]]]
PASSES = [UseContribRotary, ExpandRotary]


@pytest.mark.parametrize("positions", CASES, ids=str)
@pytest.mark.parametrize("make_pass", PASSES)
def test_rotation_is_the_standard_operators(make_pass: Any, positions: list[list[int]]) -> None:
    model, batch = rotary_graph(), inputs(positions)
    before = run_model(model, batch)
    assert make_pass()(model).modified
    assert "RotaryEmbedding" not in op_types(model)
    np.testing.assert_allclose(run_model(model, batch), before, atol=1e-6)


@pytest.mark.parametrize("make_pass", PASSES)
def test_rotation_is_rotate_half_by_hand(make_pass: Any) -> None:
    model = rotary_graph()
    make_pass()(model)
    batch = inputs([[3]])
    x = batch["q"][0, 0].reshape(HEADS, WIDTH)
    angle = 3 * 20000.0 ** (-np.arange(0, WIDTH, 2) / WIDTH)
    low, high = x[:, : WIDTH // 2], x[:, WIDTH // 2 :]
    by_hand = np.concatenate(
        [low * np.cos(angle) - high * np.sin(angle), high * np.cos(angle) + low * np.sin(angle)], 1
    )
    got = run_model(model, batch)[0, 0, : HEADS * WIDTH]
    np.testing.assert_allclose(got, by_hand.reshape(-1), atol=1e-6)


@pytest.mark.parametrize("make_pass", PASSES)
def test_position_zero_turns_nothing(make_pass: Any) -> None:
    model = rotary_graph()
    make_pass()(model)
    batch = inputs([[0, 0]])
    np.testing.assert_array_equal(run_model(model, batch)[..., : HEADS * WIDTH], batch["q"])


def test_primitive_form_gathers_the_tables_once_for_all_layers() -> None:
    model = rotary_graph()
    ExpandRotary()(model)
    assert op_types(model).count("Gather") == 2
    assert op_types(model).count("Concat") == 3  # two rotations and the graph's own


def test_primitive_form_keeps_half_precision() -> None:
    model, batch = rotary_graph("float16"), inputs([[0, 7, 33]], np.float16)
    before = run_model(rotary_graph(), inputs([[0, 7, 33]]))
    ExpandRotary()(model)
    got = run_model(model, batch)
    assert got.dtype == np.float16
    np.testing.assert_allclose(got, before, atol=0.01)


def test_input_of_unknown_width_is_refused_by_name() -> None:
    model = rotary_graph()
    model.graph.inputs[0].shape = None
    with pytest.raises(ValueError, match="rope: the width of its input is unknown"):
        ExpandRotary()(model)


@pytest.mark.parametrize("make_pass", PASSES)
def test_graph_without_rotary_is_left_alone(make_pass: Any) -> None:
    model = parse_graph(
        """<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]>
        g (float[b,s,8] x, int64[b,s] p) => (float[b,s,8] y)
        { y = com.microsoft.RotaryEmbedding <num_heads = 1> (x, p, cos, sin) }""",
        cos=np.ones((4, 4), np.float32),
        sin=np.zeros((4, 4), np.float32),
    )
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert not make_pass()(model).modified
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
