"""Gelu in older operators."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from export.lowering.expand_gelu import ExpandGelu
from tests.support import op_types, parse_graph, run_model

GRAPH = """
<ir_version: 10, opset_import: ["" : 20]>
encoder ({dtype}[rows, 8] x) => ({dtype}[rows, 8] z) {{
  y = Gelu{form} (x)
  z = Gelu (y)
}}
"""


def graph(dtype: str, form: str = "") -> ir.Model:
    return parse_graph(GRAPH.format(dtype=dtype, form=form))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float", 1e-6), ("float16", 4e-3)])
def test_same_function_in_older_operators(dtype: str, tolerance: float) -> None:
    real = {"float": np.float32, "float16": np.float16}[dtype]
    x = {"x": np.linspace(-8, 8, 64, dtype=real).reshape(8, 8)}
    expected = run_model(graph(dtype), x)
    model = graph(dtype)
    assert ExpandGelu()(model).modified
    assert op_types(model) == ["Div", "Erf", "Add", "Mul", "Mul"] * 2
    got = run_model(model, x)
    assert got.dtype == real
    np.testing.assert_allclose(got, expected, atol=tolerance)


def test_tanh_form_is_not_taken_for_the_exact_one() -> None:
    with pytest.raises(ValueError, match="only the exact Gelu"):
        ExpandGelu()(graph("float", '<approximate = "tanh">'))


def test_graph_without_it_is_left_alone() -> None:
    model = parse_graph(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[2] x) => (float[2] y) { y = Erf (x) }'
    )
    assert not ExpandGelu()(model).modified
