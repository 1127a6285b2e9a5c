"""Half-precision weights with FP32 arithmetic, and the opset that JetPack's TensorRT reads."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from export.lowering.set_opset import SetOpset
from export.lowering.widen_to_float32 import WidenToFloat32
from tests.support import Array, op_types, parse_graph, run_model

RNG = np.random.default_rng(3)
TABLE = RNG.standard_normal((20, 8), np.float32)
WEIGHT = RNG.standard_normal((8, 4), np.float32)
IDS = {"ids": np.array([[1, 19, 0], [7, 7, 3]])}
ONNX_NAME = {np.float16: "float16", ml_dtypes.bfloat16: "bfloat16", np.float32: "float"}
ONNX_TYPE = {np.float16: 10, ml_dtypes.bfloat16: 16, np.float32: 1}


def embedding_graph(dtype: Any) -> ir.Model:
    """Gathered rows, a product that is used twice, casts in both directions, an integer cast."""
    return parse_graph(
        f"""
        <ir_version: 10, opset_import: ["" : 23]>
        g (int64[batch,sequence] ids) => (float[batch,sequence,4] y, float[batch,sequence] count)
        {{
            rows = Gather (table, ids)
            wide = Cast <to = 1> (rows)
            narrow = Cast <to = {ONNX_TYPE[dtype]}> (wide)
            product = MatMul (narrow, weight)
            again = Mul (product, product)
            last = Cast <to = 1> (again)
            y = Mul (last, last)
            count = Cast <to = 1> (ids)
        }}
        """,
        table=TABLE.astype(dtype),
        weight=WEIGHT.astype(dtype),
    )


def by_hand(dtype: Any) -> Array:
    rows = TABLE.astype(dtype).astype(np.float32)[IDS["ids"]]
    outputs: Array = (rows @ WEIGHT.astype(dtype).astype(np.float32)) ** 4
    return outputs


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_widened_graph_computes_in_fp32_from_the_half_weights(dtype: Any) -> None:
    model = embedding_graph(dtype)
    assert WidenToFloat32()(model).modified
    np.testing.assert_allclose(run_model(model, IDS), by_hand(dtype), rtol=1e-4)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_weights_stay_half_and_every_activation_is_fp32(dtype: Any) -> None:
    model = embedding_graph(dtype)
    WidenToFloat32()(model)
    half = ir.DataType.from_numpy(np.dtype(dtype))
    assert {v.dtype for v in model.graph.initializers.values()} == {half}
    for node in model.graph:
        if node.op_type == "Gather":  # only the rows that are looked up are widened
            assert node.outputs[0].dtype == half
            continue
        assert node.outputs[0].dtype == ir.DataType.FLOAT, node.name
    casts = [n for n in model.graph if n.op_type == "Cast"]
    assert all(cast.attributes["to"].as_int() == ir.DataType.FLOAT for cast in casts)
    assert len(casts) == 3  # the weight, the rows, the integers


def test_fp32_graph_is_left_alone() -> None:
    model = embedding_graph(np.float32)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert not WidenToFloat32()(model).modified
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_cast_that_is_the_graphs_output_is_dropped_too() -> None:
    model = parse_graph(
        """<ir_version: 10, opset_import: ["" : 23]>
        g (int64[n] ids) => (float[n,8] y)
        { rows = Gather (table, ids) y = Cast <to = 1> (rows) }""",
        table=TABLE.astype(np.float16),
    )
    WidenToFloat32()(model)
    got = run_model(model, {"ids": np.array([3, 5])})
    np.testing.assert_array_equal(got, TABLE.astype(np.float16).astype(np.float32)[[3, 5]])


@pytest.mark.parametrize("op", ["Attention", "RotaryEmbedding", "RMSNormalization"])
def test_operator_newer_than_opset_20_is_refused_by_name(op: str) -> None:
    bodies = {
        "Attention": "y = Attention <q_num_heads = 1, kv_num_heads = 1> (x, x, x)",
        "RotaryEmbedding": "y = RotaryEmbedding <num_heads = 1> (x, t, t, p)",
        "RMSNormalization": "y = RMSNormalization (x, w)",
    }
    model = parse_graph(
        f"""<ir_version: 10, opset_import: ["" : 23]>
        g (float[b,s,8] x, int64[b,s] p) => (float[b,s,8] y) {{ {bodies[op]} }}""",
        t=np.ones((9, 4), np.float32),
        w=np.ones(8, np.float32),
    )
    with pytest.raises(ValueError, match=f"{op} is newer than opset 20"):
        SetOpset(20)(model)
    assert model.graph.opset_imports[""] == 23


def test_opset_20_is_declared_and_the_result_stays() -> None:
    model = embedding_graph(np.float32)
    before = run_model(model, IDS)
    SetOpset(20)(model)
    assert model.graph.opset_imports[""] == 20
    assert model.ir_version == 9
    assert "Gather" in op_types(model)
    np.testing.assert_array_equal(run_model(model, IDS), before)
