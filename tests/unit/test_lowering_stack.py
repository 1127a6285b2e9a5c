"""StackLowRank against the two products it replaces."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from export.lowering.stack_low_rank import StackLowRank
from tests.support import Array, op_types, parse_graph, run_model

RANK = 3


def bank_graph(inputs: int, outputs: int, kind: str = "float", lora: str = "B") -> ir.Model:
    """``x·W + low·B`` in one layer; ``lora`` names what stands for B."""
    rng = np.random.default_rng(0)
    dtype = {"float": np.float32, "float16": np.float16}[kind]
    weights = {
        "W": rng.standard_normal((inputs, outputs)).astype(dtype),
        "B": rng.standard_normal((RANK, outputs)).astype(dtype),
    }
    return parse_graph(
        f"""
        <ir_version: 10, opset_import: ["" : 23]>
        g (float[batch,sequence,{inputs}] x, float[batch,sequence,{RANK}] low,
           float[{RANK},{outputs}] late) => (float[batch,sequence,{outputs}] y)
        {{
            w = Cast <to = 1> (W)
            b = Cast <to = 1> (B)
            first = MatMul (x, w)
            second = MatMul (low, {lora})
            [sum] y = Add (first, second)
        }}
        """,
        **weights,
    )


def batch(inputs: int, outputs: int) -> dict[str, Array]:
    rng = np.random.default_rng(1)
    shapes = {"x": (2, 5, inputs), "low": (2, 5, RANK), "late": (RANK, outputs)}
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}


@pytest.mark.parametrize("kind", ["float", "float16"])
def test_one_product_instead_of_two_and_a_sum(kind: str) -> None:
    model = bank_graph(8, 12, kind, "b")
    before = run_model(model, batch(8, 12))
    assert StackLowRank(saved=3, paid=2)(model).modified
    assert op_types(model).count("MatMul") == 1
    assert "Add" not in op_types(model)
    np.testing.assert_allclose(run_model(model, batch(8, 12)), before, rtol=1e-5, atol=1e-6)


def test_an_unselected_adapter_still_adds_exactly_zero() -> None:
    model, rows = bank_graph(8, 12, lora="b"), batch(8, 12)
    rows["low"][:] = 0
    before = run_model(model, rows)
    StackLowRank(saved=3, paid=2)(model)
    np.testing.assert_array_equal(run_model(model, rows), before)


@pytest.mark.parametrize(("inputs", "outputs", "stacked"), [(8, 8, True), (12, 8, False)])
def test_only_where_copying_the_input_is_cheaper(inputs: int, outputs: int, stacked: bool) -> None:
    assert StackLowRank(saved=3, paid=2)(bank_graph(inputs, outputs, lora="b")).modified == stacked


@pytest.mark.parametrize(("inputs", "outputs", "stacked"), [(8, 13, True), (8, 12, False)])
def test_the_executor_says_what_passes_cost(inputs: int, outputs: int, stacked: bool) -> None:
    """TensorRT: two passes over the output against three over the input."""
    model = bank_graph(inputs, outputs, lora="b")
    assert StackLowRank(saved=2, paid=3)(model).modified == stacked


def test_a_slot_that_runs_can_fill_is_left_alone() -> None:
    model = bank_graph(8, 12, lora="late")
    before = run_model(model, batch(8, 12))
    assert not StackLowRank(saved=3, paid=2)(model).modified
    np.testing.assert_array_equal(run_model(model, batch(8, 12)), before)


def test_a_product_with_another_use_is_left_alone() -> None:
    model = bank_graph(8, 12, lora="b")
    product = next(n for n in model.graph if n.op_type == "MatMul")
    model.graph.outputs.append(product.outputs[0])
    assert not StackLowRank(saved=3, paid=2)(model).modified
