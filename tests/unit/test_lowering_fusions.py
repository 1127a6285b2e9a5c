"""Fusions for ONNX Runtime's CPU: the result stays, and a pattern that does not fit is left."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from export.lowering.fuse_bias_gelu import FuseBiasGelu
from export.lowering.fuse_skip_layer_norm import FuseSkipLayerNorm
from tests.support import Array, op_types, parse_graph, session

RNG = np.random.default_rng(2)
WEIGHTS = {
    "bias": RNG.standard_normal(8, np.float32),
    "gamma": RNG.standard_normal(8, np.float32),
    "beta": RNG.standard_normal(8, np.float32),
    "table": RNG.standard_normal((3, 8), np.float32),
}
INPUTS = {name: RNG.standard_normal((2, 3, 8), np.float32) for name in "xr"}


def graph(body: str) -> ir.Model:
    used = {name: value for name, value in WEIGHTS.items() if name in body}
    return parse_graph(
        f"""<ir_version: 10, opset_import: ["" : 23]>
        g (float[batch,sequence,8] x, float[batch,sequence,8] r)
          => (float[batch,sequence,8] y, float[batch,sequence,8] z) {{ {body} }}""",
        **used,
    )


def outputs(model: ir.Model) -> Array:
    """Both outputs, joined."""
    proto = ir.to_proto(model)
    names = [o.name for o in proto.graph.output]
    assert names == ["y", "z"]
    return np.stack(session(proto.SerializeToString()).run(None, INPUTS))


GELU_FUSED = {
    "erf by default": "s = Add (x, bias) y = Gelu (s) z = Identity (r)",
    "erf by name": 's = Add (x, bias) y = Gelu <approximate = "none"> (s) z = Identity (r)',
    "two of them": "s = Add (x, bias) [a] y = Gelu (s) t = Add (r, beta) [b] z = Gelu (t)",
}
GELU_LEFT = {
    "tanh form": 's = Add (x, bias) y = Gelu <approximate = "tanh"> (s) z = Identity (r)',
    "sum used twice": "s = Add (x, bias) y = Gelu (s) z = Mul (s, r)",
    "sum is an output": "z = Add (x, bias) y = Gelu (z)",
    "no sum": "y = Gelu (x) z = Identity (r)",
    "sum of two activations": "s = Add (x, r) y = Gelu (s) z = Identity (r)",
    "bias of more than one row": "s = Add (x, table) y = Gelu (s) z = Identity (r)",
}
NORM = "LayerNormalization <axis = -1, epsilon = 0.00001>"
SKIP_FUSED = {
    "residual + (product + bias)": f"b = Add (x, bias) s = Add (r, b) y = {NORM} (s, gamma, beta)",
}
SKIP_LEFT = {
    "no bias": f"s = Add (r, x) y = {NORM} (s, gamma, beta)",
    "inner sum used twice": f"b = Add (x, bias) s = Add (r, b) y = {NORM} (s, gamma, beta) "
    "z = Mul (b, r)",
    "outer sum used twice": f"b = Add (x, bias) s = Add (r, b) y = {NORM} (s, gamma, beta) "
    "z = Mul (s, r)",
    "outer sum is an output": f"b = Add (x, bias) z = Add (r, b) y = {NORM} (z, gamma, beta)",
    "three activations": f"q = Mul (x, x) b = Add (x, q) s = Add (r, b) "
    f"y = {NORM} (s, gamma, beta)",
    "no sum": f"y = {NORM} (x, gamma, beta)",
    "norm over two axes": "b = Add (x, bias) s = Add (r, b) "
    "y = LayerNormalization <axis = -2, epsilon = 0.00001> (s, table, table)",
    "norm without shift": f"b = Add (x, bias) s = Add (r, b) y = {NORM} (s, gamma)",
    "bias of more than one row": f"b = Add (x, table) s = Add (r, b) y = {NORM} (s, gamma, beta)",
}


def complete(body: str) -> str:
    return body if "z =" in body else body + " z = Identity (r)"


@pytest.mark.parametrize(
    ("make_pass", "body", "fused"),
    [(FuseBiasGelu, body, "BiasGelu") for body in GELU_FUSED.values()]
    + [(FuseSkipLayerNorm, body, "SkipLayerNormalization") for body in SKIP_FUSED.values()],
    ids=[*GELU_FUSED, *SKIP_FUSED],
)
def test_pattern_becomes_one_node_with_the_same_result(
    make_pass: Any, body: str, fused: str
) -> None:
    model = graph(complete(body))
    before = outputs(model)
    assert make_pass()(model).modified
    left = op_types(model)
    assert f"com.microsoft::{fused}" in left
    assert not {"Add", "Gelu", "LayerNormalization"} & set(left)
    np.testing.assert_allclose(outputs(model), before, atol=2e-6)


@pytest.mark.parametrize(
    ("make_pass", "body"),
    [(FuseBiasGelu, body) for body in GELU_LEFT.values()]
    + [(FuseSkipLayerNorm, body) for body in SKIP_LEFT.values()],
    ids=[f"gelu: {name}" for name in GELU_LEFT] + [f"norm: {name}" for name in SKIP_LEFT],
)
def test_what_does_not_fit_is_left_as_it_was(make_pass: Any, body: str) -> None:
    model = graph(complete(body))
    before = outputs(model)
    assert not make_pass()(model).modified
    assert not any(op.startswith("com.microsoft") for op in op_types(model))
    np.testing.assert_array_equal(outputs(model), before)


@pytest.mark.parametrize(
    ("make_pass", "body"),
    [
        (FuseBiasGelu, "s = Add (bias, x) y = Gelu (s)"),
        (FuseSkipLayerNorm, f"b = Add (bias, x) s = Add (r, b) y = {NORM} (s, gamma, beta)"),
        (FuseSkipLayerNorm, f"b = Add (x, bias) s = Add (b, r) y = {NORM} (s, gamma, beta)"),
        (
            FuseSkipLayerNorm,
            "b = Add (x, bias) s = Add (r, b) y = LayerNormalization <axis = -1> (s, gamma, beta)",
        ),
    ],
    ids=["gelu: bias first", "norm: bias first", "norm: residual last", "norm: epsilon by default"],
)
def test_other_spellings_give_the_same_result_fused_or_not(make_pass: Any, body: str) -> None:
    model = graph(complete(body))
    before = outputs(model)
    make_pass()(model)
    np.testing.assert_allclose(outputs(model), before, atol=2e-6)


def test_epsilon_is_carried_over() -> None:
    body = (
        "b = Add (x, bias) s = Add (r, b) y = LayerNormalization <epsilon = 0.5> (s, gamma, beta)"
    )
    model = graph(complete(body))
    before = outputs(model)
    FuseSkipLayerNorm()(model)
    assert "com.microsoft::SkipLayerNormalization" in op_types(model)
    np.testing.assert_allclose(outputs(model), before, atol=2e-6)
