"""Each rule of the plan against a graph, built for sm89, that breaks it, and one that keeps it.

The graphs are small and are compiled by the real TensorRT-RTX; none was run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tensorrt_rtx_bindings as rtx
from onnx import TensorProto, helper, numpy_helper

from export.checkpoint.reader import Checkpoint
from export.engines.builder import EngineSpec, build_engine
from export.engines.plan import Plan, PlanTensor
from export.engines.plan_rules import RULES, PlanSubject, shortfalls
from export.spec import Limits
from runtimes.choices import AdapterMode, GraphKind, HeadName, PlanRule, Precision
from runtimes.manifest import Architecture
from runtimes.schemes import SCHEMES
from runtimes.tensors import Axis, Tensor
from tests.support import ARCHITECTURE, graph_path, write_graphs

WIDTH, LAYERS = 64, 3
X = Tensor(
    name="x",
    dtype="float16",
    axes=(
        Axis(name="batch", example=2, profile_side=0),
        Axis(name="sequence", example=7, profile_side=1),
        Axis(name="width", example=WIDTH, sizes=(WIDTH, WIDTH, WIDTH)),
    ),
)
SPEC = EngineSpec(
    limits=Limits(max_batch=4, max_tokens=64), gpu="sm89", workspace=1 << 30, inputs=(X,)
)
SUBJECT = PlanSubject(
    scheme=SCHEMES[Precision.FP16],
    adapter=AdapterMode.MERGED,
    head=HeadName.SENTENCE,
    architecture=Architecture(
        **ARCHITECTURE | {"hidden": WIDTH, "layers": LAYERS, "heads": 4, "intermediate": 128}
    ),
)
INT8 = replace(
    SUBJECT,
    scheme=SCHEMES[Precision.INT8],
    quantised={SCHEMES[Precision.INT8].operands: 1},
)


class Graph:
    """A graph of ``x [batch, sequence, 64]`` in FP16, node by node."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)

    def op(self, op_type: str, inputs: list[str], name: str, outputs: int = 1, **more: Any) -> str:
        made = [name] if outputs == 1 else [f"{name}.{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, made, name=name, **more))
        return name

    def weight(self, name: str, value: np.ndarray[Any, Any]) -> str:
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def random(self, name: str, *shape: int, dtype: str = "float16") -> str:
        return self.weight(name, (self.rng.standard_normal(shape) / 8).astype(dtype))

    def product(self, x: str, name: str, rows: int, columns: int, dtype: str = "float16") -> str:
        return self.op("MatMul", [x, self.random(f"{name}.w", rows, columns, dtype=dtype)], name)

    def quantised(self, x: str, name: str, rows: int, columns: int) -> str:
        """A Q/DQ product in the words of an FP16 graph, a scale per channel of the weight."""
        scale = self.weight(f"{name}.s", np.array(0.05, np.float16))
        scales = self.weight(f"{name}.ws", np.full(columns, 0.01, np.float16))
        zero = self.weight(f"{name}.z", np.array(0, np.int8))
        values = self.rng.integers(-127, 128, (rows, columns), np.int8)
        steps = self.op("QuantizeLinear", [x, scale, zero], f"{name}.quantise")
        left = self.op("DequantizeLinear", [steps, scale], f"{name}.dequantise")
        stored = self.weight(f"{name}.weight", values)
        right = self.op("DequantizeLinear", [stored, scales], f"{name}.wdq", axis=1)
        return self.op("MatMul", [left, right], f"{name}.MatMul")

    def weight_only(self, x: str, name: str, rows: int, columns: int, kind: int, step: int) -> str:
        """A product with a weight of INT4 or INT8, a scale for every ``step`` of its rows."""
        values = self.rng.integers(-7, 8, (columns, rows))
        self.weights.append(
            helper.make_tensor(f"{name}.weight", kind, values.shape, values.flatten())
        )
        sizes = (columns, rows // step) if step < rows else (columns,)
        scales = self.weight(f"{name}.ws", np.full(sizes, 0.01, np.float16))
        along = {"axis": 1, "block_size": step} if step < rows else {"axis": 0}
        wide = self.op("DequantizeLinear", [f"{name}.weight", scales], f"{name}.dq", **along)
        turned = self.op("Transpose", [wide], f"{name}.t", perm=[1, 0])
        return self.op("MatMul", [x, turned], f"{name}.MatMul")

    def save(self, folder: Path, output: str) -> Path:
        kind = TensorProto.FLOAT16
        shape: list[str | int | None] = ["batch", "sequence", WIDTH]
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [helper.make_tensor_value_info("x", kind, shape)],
            [helper.make_tensor_value_info(output, kind, None)],
            self.weights,
        )
        path = folder / "graph.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)]), path)
        return path


def narrow(g: Graph) -> str:
    return g.product("x", "encoder.layers.0.fc1.MatMul", WIDTH, 20)


def single_float(g: Graph) -> str:
    """Between two Casts alone the compiler takes Half operands: the product needs Float ones."""
    wide = g.op("Cast", ["x"], "wide", to=TensorProto.FLOAT)
    shares = g.op("Softmax", [wide], "shares", axis=-1)
    y = g.product(shares, "encoder.layers.0.fc1.MatMul", WIDTH, WIDTH, dtype="float32")
    y = g.op("Softmax", [y], "softmax", axis=-1)
    return g.op("Cast", [y], "half", to=TensorProto.FLOAT16)


def half_sums(g: Graph) -> str:
    return g.quantised("x", "encoder.layers.0.mlp.fc1", WIDTH, WIDTH)


def split_heads(g: Graph) -> str:
    """One quantised product for q, k and v, cut behind it, as graphs were before."""
    joined = g.quantised("x", "encoder.layers.0.mixer.Wqkv", WIDTH, 3 * WIDTH)
    g.op("Split", [joined], "split", outputs=3, axis=-1, num_outputs=3)
    shape = g.weight("heads", np.array([0, 0, 4, 16], np.int64))
    parts = []
    for i in range(3):
        part = g.op("Reshape", [f"split.{i}", shape], f"part{i}")
        parts.append(g.op("Transpose", [part], f"heads{i}", perm=[0, 2, 1, 3]))
    mixed = g.op("Attention", parts, "Attention.0")
    back = g.op("Transpose", [mixed], "back", perm=[0, 2, 1, 3])
    return g.op("Reshape", [back, g.weight("flat", np.array([0, 0, WIDTH], np.int64))], "y")


def many_steps(g: Graph) -> str:
    """Products that need each other's results, 12 in the middle layer, one in the others."""
    y = "x"
    for layer, steps in ((0, 1), (1, 12), (2, 1)):
        for step in range(steps):
            y = g.product(y, f"encoder.layers.{layer}.p{step}.MatMul", WIDTH, WIDTH)
            y = g.op("Softmax", [y], f"encoder.layers.{layer}.s{step}", axis=-1)
    return y


def int4_blocks(g: Graph) -> str:
    return g.weight_only("x", "encoder.layers.0.mlp.fc1", WIDTH, WIDTH, TensorProto.INT4, 32)


def int8_columns(g: Graph) -> str:
    return g.weight_only("x", "encoder.layers.0.mlp.fc1", WIDTH, WIDTH, TensorProto.INT8, WIDTH)


def int8_blocks(g: Graph) -> str:
    """What the compiler makes FP16 again in every call."""
    return g.weight_only("x", "encoder.layers.0.mlp.fc1", WIDTH, WIDTH, TensorProto.INT8, 32)


def half_table(g: Graph) -> str:
    """Rows of a table that is not stored quantised."""
    largest = g.op("ReduceMax", ["x"], "largest", keepdims=0)
    # The axis is an input.
    g.nodes[-1].input.append(g.weight("last", np.array([-1], np.int64)))
    ids = g.op("Cast", [largest], "ids", to=TensorProto.INT64)
    rows = g.op("Gather", [g.random("table", 96, WIDTH), ids], "rows")
    return g.op("Add", [rows, "x"], "y")


def softmax_by_hand(g: Graph) -> str:
    """Attention whose weights leave it: nothing that a fused kernel could give."""
    turned = g.op("Transpose", ["x"], "turned", perm=[0, 2, 1])
    scores = g.op("MatMul", ["x", turned], "Attention.0.scores")
    weights = g.op("Softmax", [scores], "Attention.0.softmax", axis=-1)
    mixed = g.op("MatMul", [weights, "x"], "Attention.0.sum")
    total = g.op("ReduceSum", [weights], "total", keepdims=0)
    return g.op("Add", [mixed, total], "y")


BROKEN: Mapping[PlanRule, tuple[Callable[[Graph], str], PlanSubject, str]] = {
    PlanRule.FUSED_ATTENTION: (softmax_by_hand, SUBJECT, "0 fused kernels for 3 layers"),
    PlanRule.PRODUCT_WIDTH: (narrow, SUBJECT, "N = 20 in Half"),
    PlanRule.FP32_PRODUCT: (single_float, SUBJECT, "Float×Float"),
    PlanRule.INT8_OVERFLOW: (half_sums, INT8, "a result in Half of up to 1032256"),
    PlanRule.QUANTISED_PRODUCTS: (split_heads, INT8, "Int8×Half"),
    PlanRule.DEQUANTISED_WEIGHT: (split_heads, INT8, "Int8 [64, 192] → Half"),
    PlanRule.QUANTISED_TABLE: (
        half_table,
        replace(SUBJECT, table=PlanTensor(name="table", shape=(96, WIDTH), type="Int8")),
        "the table in Half",
    ),
    PlanRule.MASK: (split_heads, INT8, "reads neither mask nor lengths"),
    PlanRule.LAUNCHES: (many_steps, SUBJECT, "launches, at most 10"),
}


def compiled(make: Callable[[Graph], str], folder: Path, gpu: str = "sm89") -> Plan:
    graph, spec = Graph(), replace(SPEC, gpu=gpu)
    (plan,) = build_engine(rtx, graph.save(folder, make(graph)), folder / "engine", spec).plans
    return plan


def weight_only(precision: Precision) -> PlanSubject:
    """One product and no layer, so no attention."""
    scheme, alone = SCHEMES[precision], replace(SUBJECT.architecture, layers=0)
    return replace(SUBJECT, scheme=scheme, quantised={scheme.operands: 1}, architecture=alone)


@pytest.mark.parametrize("rule", BROKEN)
def test_graph_that_breaks_a_rule_is_found(rule: PlanRule, tmp_path: Path) -> None:
    make, subject, message = BROKEN[rule]
    places = shortfalls(compiled(make, tmp_path), subject)[rule]
    assert any(message in place.got for place in places), places


@pytest.mark.parametrize("gpu", ["sm86", "sm89", "sm120"])
@pytest.mark.parametrize(
    ("make", "precision"), [(int4_blocks, Precision.INT4W), (int8_columns, Precision.INT8W)]
)
def test_weight_alone_is_multiplied_as_it_is_stored(
    make: Callable[[Graph], str], precision: Precision, gpu: str, tmp_path: Path
) -> None:
    plan = compiled(make, tmp_path, gpu)
    assert shortfalls(plan, weight_only(precision)) == {}
    (product,) = plan.products
    assert product.weight is not None
    assert product.weight.type == {Precision.INT4W: "Int4", Precision.INT8W: "Int8"}[precision]
    other = Precision.INT8W if precision is Precision.INT4W else Precision.INT4W
    found = shortfalls(plan, weight_only(other))
    assert set(found) == {PlanRule.QUANTISED_PRODUCTS}


def test_int8_weight_in_blocks_breaks_two_rules(tmp_path: Path) -> None:
    """Why INT8W has a scale per column: with blocks nothing would be gained."""
    found = shortfalls(compiled(int8_blocks, tmp_path), weight_only(Precision.INT8W))
    assert set(found) == {PlanRule.DEQUANTISED_WEIGHT, PlanRule.QUANTISED_PRODUCTS}
    (place,) = found[PlanRule.DEQUANTISED_WEIGHT]
    assert place.got == "Int8 [64, 64] → Half [64, 64] in every call"
    (place,) = found[PlanRule.QUANTISED_PRODUCTS]
    assert place.got == "0 products Half×Int8 for 1 quantised GEMMs"


@pytest.fixture(scope="module")
def portable(small: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """The portable graph, not lowered: attention as ONNX has it, with a mask."""
    folder = write_graphs(tmp_path_factory.mktemp("half"), small, "separation", "float16", 64)
    spec = EngineSpec(limits=SPEC.limits, gpu="sm89", workspace=1 << 30)
    graph = graph_path(folder, GraphKind.PORTABLE)
    (plan,) = build_engine(rtx, graph, folder / "engine", spec).plans
    return plan


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (PlanRule.ATTENTION_ACCUMULATOR, "sums in Half"),
        (PlanRule.MASK, "reads Half [?, 1, ?, ?]"),
    ],
)
def test_attention_as_onnx_has_it_breaks_a_rule(
    portable: Plan, rule: PlanRule, message: str
) -> None:
    places = shortfalls(portable, SUBJECT)[rule]
    assert any(place.got == message for place in places), places
    assert {place.kernel for place in places} == {k.name for k in portable.attentions}


def test_every_rule_has_a_graph_that_breaks_it() -> None:
    assert {*BROKEN, PlanRule.ATTENTION_ACCUMULATOR} == set(RULES) == set(PlanRule)
