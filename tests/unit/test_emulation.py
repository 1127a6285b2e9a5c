"""What a compiled engine computes: literal kernels, exact sums, factors, overflow, accumulators."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

import export.emulation.products
from export.checkpoint.reader import Checkpoint
from export.emulation.attention import attention
from export.emulation.engine import EmulatedEngine
from export.emulation.facts import QuantisedProduct, numerics_of
from export.emulation.operators import OPERATORS, quantise
from export.emulation.products import (
    Overflow,
    Quantised,
    exact_sums,
    quantised_product,
    scale_left,
    split_sums,
)
from export.engines.plan import Kernel, KernelKind, Plan, PlanTensor
from export.gate.emulated import AS_THE_GRAPH, UNTOLD, emulated_labels, emulations
from export.graph.encoder import load_encoder
from export.graph.trace import trace
from export.lowering.pipelines import lower
from export.spec import GraphForm
from runtimes.choices import AdapterMode, GraphKind, HeadName, Interface
from runtimes.executors.torch_reference import TorchModule
from tests.support import Array, cosines, graph_path, op_types, padded, parse_graph, write_graphs

MATMUL = "product"


def tensor(kind: str, *shape: int) -> PlanTensor:
    return PlanTensor(name="t", shape=shape, type=kind)


def product(
    operands: str = "Int8",
    output: str = "Half",
    alpha: float | None = 1.0,
    *,
    nodes: tuple[str, ...] = (MATMUL,),
    kind: KernelKind = KernelKind.GEMM,
) -> Kernel:
    return Kernel(
        name=f"{nodes[0]}_myl0_1",
        kind=kind,
        inputs=(tensor(operands, -1, 64),),
        constants=(tensor(operands, 64, 32), tensor("Float", 1)),
        outputs=(tensor(output, -1, 32),),
        nodes=nodes,
        alpha=alpha,
    )


def fused(accumulator: str | None, node: str = "Attention.0") -> Kernel:
    return Kernel(
        name="_gemm_mha_v2_myl0_2",
        kind=KernelKind.GENERATED,
        inputs=(tensor("Half", -1, -1, 32),),
        outputs=(tensor("Half", -1, -1, 32),),
        nodes=(node,),
        accumulator=accumulator,
    )


def plan(*kernels: Kernel, gpu: str = "sm89") -> Plan:
    return Plan(builder="none", gpu=gpu, kernels=kernels)


def integers(rows: int, columns: int, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(-128, 128, (rows, columns), np.int8))


def test_merged_product_gives_its_numerics_to_every_node() -> None:
    names = tuple(f"encoder.layers.0.mixer.{letter}.MatMul" for letter in "qkv")
    later = product(output="Float", alpha=3.0, nodes=names)
    found = numerics_of(plan(product(alpha=0.5, nodes=names), later)).products
    assert [(found[name].alpha, found[name].output) for name in names] == [(0.5, "Half")] * 3


def test_product_behind_a_dequantised_weight_is_the_graphs() -> None:
    dequantised = replace(
        product(kind=KernelKind.FUSION),
        inputs=(tensor("Int8", -1, 64), tensor("Half", 1, 64, 32)),
        constants=(),
    )
    assert not numerics_of(plan(dequantised)).departs
    assert not numerics_of(plan(product("Half"))).departs
    assert numerics_of(plan(product("FP8"))).departs


@pytest.mark.parametrize(("accumulator", "departs"), [("Half", True), ("Float", False)])
def test_attention_departs_by_its_accumulator(accumulator: str, departs: bool) -> None:
    assert numerics_of(plan(fused(accumulator))).departs is departs


def test_same_numerics_are_emulated_once() -> None:
    sound, other = product(alpha=0.5), product(alpha=0.25)
    both = {"a": (plan(sound),), "b": (plan(sound, gpu="sm120"),)}
    assert [(e.label, e.engines) for e in emulations(both)] == [("emulated engine", ("a", "b"))]
    unlike = {"a": (plan(sound), plan(other)), "b": (plan(other),), "c": (plan(fused("Float")),)}
    assert [(e.label, e.engines) for e in emulations(unlike)] == [
        ("emulated engine 1", ("a",)),
        ("emulated engine 2", ("a", "b")),
    ]
    assert emulated_labels(unlike | {"none": ()}) == {
        "a": ("emulated engine 1", "emulated engine 2"),
        "b": ("emulated engine 2",),
        "c": (AS_THE_GRAPH,),
    }


def test_plan_that_tells_no_factor_is_not_emulated() -> None:
    """Full TensorRT's may not; taking 1 for all would fail engines that are sound."""
    silent = product(alpha=None)
    assert emulations({"a": (plan(silent),)}) == ()
    assert emulated_labels({"a": (plan(silent),)}) == {"a": (UNTOLD,)}
    some = plan(silent, product(alpha=0.5, nodes=("other",)))
    assert [e.label for e in emulations({"a": (some,)})] == ["emulated engine"]


@pytest.mark.parametrize(
    "form",
    [
        GraphForm(),
        GraphForm(AdapterMode.SWITCHABLE, Interface.SENTENCE, 32, 32, HeadName.CHUNKS),
    ],
    ids=["merged", "switchable-chunks"],
)
def test_every_operator_of_an_engines_graph_is_known(small: Checkpoint, form: GraphForm) -> None:
    model = lower(trace(small.config, "float16", 32, 64, form).model(), GraphKind.TENSORRT)
    assert set(op_types(model)) - {"Attention"} <= OPERATORS.keys()


def test_sums_are_exact() -> None:
    """4096 products of the largest bytes are 2^26, which FP32 steps over in fours."""
    a, b = integers(3, 4096, 0), integers(4096, 16, 1)
    a[0] = -128
    b[:, 0] = -127
    expected = a.numpy().astype(np.int64) @ b.numpy().astype(np.int64)
    assert expected.max() > 2**24
    np.testing.assert_array_equal(split_sums(a, b).numpy(), expected)
    np.testing.assert_array_equal(exact_sums(a, b).numpy(), expected.astype(np.float32))


def test_sums_without_vnni_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = integers(6, 3000, 2).reshape(2, 3, 3000), integers(3000, 8, 3)
    expected = exact_sums(a, b)
    monkeypatch.setattr(export.emulation.products, "has_vnni", lambda: None)
    assert torch.equal(exact_sums(a, b), expected)


def per_channel(seed: int = 0) -> tuple[Quantised, Quantised, np.ndarray]:
    """INT8 operands with Half scales, one per output channel, and their exact product."""
    x, w = integers(64, 1024, seed), integers(1024, 32, seed + 1)
    w_scale = torch.linspace(1e-3, 4e-3, 32).half()
    a, b = Quantised(values=x, scale=torch.tensor(0.01).half()), Quantised(values=w, scale=w_scale)
    sums = x.numpy().astype(np.float64) @ w.numpy().astype(np.float64)
    return a, b, sums * float(a.scale) * w_scale.double().numpy()


def facts(alpha: float, output: str | None = "Half") -> QuantisedProduct:
    return QuantisedProduct(alpha=alpha, output=output, kernel="k")


def test_bare_sums_overflow_half_and_are_counted() -> None:
    a, b, exact = per_channel()
    overflow = Overflow()
    found = quantised_product(a, b, facts(1.0), torch.float16, overflow)
    sums = np.abs(exact / (float(a.scale) * b.scale.double().numpy()))
    assert int(found.isinf().sum()) == overflow.count == int((sums >= 65520).sum()) > 0
    assert overflow.total == found.numel()
    assert overflow.largest == pytest.approx(sums.max())
    assert "are beyond what Half holds" in str(overflow)


def test_bare_sums_in_float_are_exact_but_for_half() -> None:
    a, b, exact = per_channel()
    wide = Quantised(values=b.values, scale=b.scale.float())
    overflow = Overflow()
    found = quantised_product(a, wide, facts(1.0, "Float"), torch.float32, overflow)
    assert overflow.count == 0
    np.testing.assert_allclose(found.numpy(), exact, rtol=2e-6)


def test_factor_keeps_the_sums_in_half_and_ignoring_it_does_not() -> None:
    a, b, _ = per_channel()
    b = Quantised(values=b.values, scale=b.scale.max())
    exact = (a.values.double() @ b.values.double()) * a.scale.double() * b.scale.double()
    alpha = float(a.scale.float() * b.scale.float())
    found = quantised_product(a, b, facts(alpha), torch.float16, Overflow())
    np.testing.assert_allclose(found.numpy(), exact.numpy(), rtol=2**-11, atol=1e-7)
    ignored = Overflow()
    quantised_product(a, b, facts(1.0), torch.float16, ignored)
    assert ignored.count > 0


def test_scales_are_what_alpha_leaves_of_them() -> None:
    x, one, many = torch.tensor(0.5), torch.tensor(0.25), torch.tensor([0.25, 0.125])
    assert scale_left(x, one, facts(0.125)) is None
    for alpha, w, left in ((1.0, many, [0.125, 0.0625]), (0.5, many, [0.25, 0.125])):
        remaining = scale_left(x, w, facts(alpha))
        assert remaining is not None
        assert remaining.tolist() == left
    # A folded Half constant below 6e-5 has few bits left: that is what is multiplied in.
    folded = scale_left(torch.tensor(2e-3).half(), torch.tensor([1e-3, 2e-3]).half(), facts(1.0))
    assert folded is not None
    assert folded.dtype is torch.float16
    assert folded.tolist() != pytest.approx([2e-6, 4e-6], rel=1e-3)
    with pytest.raises(ValueError, match=r"alpha is 0\.3, which is none of the graph's scales"):
        scale_left(x, many, facts(0.3))


def test_quantise_saturates_and_keeps_fp8_in_its_range() -> None:
    values = torch.tensor([0.5, 1.5, 1e4, -1e4, math.inf, math.nan])
    assert quantise(values, torch.tensor(1.0), torch.int8).tolist() == [0, 2, 127, -128, 127, 127]
    eight = quantise(values, torch.tensor(1.0), torch.float8_e4m3fn).float().tolist()
    assert eight == [0.5, 1.5, 448, -448, 448, 448]


def heads(keys: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(2, 2, keys, 32, generator=generator).half() for _ in range(3))
    return q, k, v


def test_attention_in_float_is_pytorchs() -> None:
    q, k, v = heads(90)
    mask = torch.ones(2, 1, 1, 90, dtype=torch.bool)
    mask[1, ..., 40:] = False
    expected = torch.nn.functional.scaled_dot_product_attention(
        q.float(), k.float(), v.float(), mask
    )
    found = attention(q, k, v, mask, torch.float16)
    np.testing.assert_allclose(found.float().numpy(), expected.numpy(), atol=2e-3)
    # A mask with a row per query, in parts: the same.
    wide = attention(q, k, v, mask.expand(2, 1, 90, 90), torch.float16)
    assert torch.equal(found, wide)


def test_half_accumulators_are_rounded_every_sixteen_keys() -> None:
    """Values of one sign add up to 2048, where Half steps over ones."""
    q, k, _ = heads(4096)
    q, k = q[:1, :1, :1] * 0, k[:1, :1]
    v = torch.full((1, 1, 4096, 32), 1.0).half()
    v[..., 1] = 0.999
    narrow = attention(q, k, v, None, torch.float16, Overflow()).float()
    wide = attention(q, k, v, None, torch.float16).float()
    assert wide[0, 0, 0, 0] == 1.0
    total = np.float16(0)
    for _ in range(4096 // 16):
        total = np.float16(np.float32(total) + np.float32(16) * np.float32(v[0, 0, 0, 1]))
    assert float(narrow[0, 0, 0, 1]) == float(np.float16(np.float32(total) / 4096))
    assert abs(float(narrow[0, 0, 0, 1]) - 0.999) > 4 * abs(float(wide[0, 0, 0, 1]) - 0.999)


def test_scores_that_overflow_half_are_counted() -> None:
    q, k, v = heads(32)
    overflow = Overflow()
    found = attention(q * 600, k * 600, v, None, torch.float16, overflow)
    assert overflow.count > 0
    assert found.isnan().any()
    assert not attention(q * 600, k * 600, v, None, torch.float16).isnan().any()


GRAPH = """<ir_version: 10, opset_import: ["" : 23]>
encoder (float16[n, 64] x) => (float16[n, 32] y)
{
  q = QuantizeLinear(x, xs, zero)
  d = DequantizeLinear(q, xs)
  m = DequantizeLinear<axis: int = 1>(w, ws)
  [product] y = MatMul(d, m)
}"""


@pytest.fixture
def quantised_graph(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    weights: dict[str, Array] = {
        "w": rng.integers(-127, 128, (64, 32), np.int8),
        "xs": np.array(0.02, np.float16),
        "zero": np.array(0, np.int8),
        "ws": np.linspace(1e-3, 2e-3, 32).astype(np.float16),
    }
    ir.save(parse_graph(GRAPH, **weights), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def emulated(graph: Path, *kernels: Kernel) -> tuple[np.ndarray, EmulatedEngine]:
    rows = np.random.default_rng(1).standard_normal((512, 64)).astype(np.float16)
    engine = EmulatedEngine(graph, plan(*kernels))
    return next(iter(engine.run({"x": rows}).values())), engine


def test_engine_multiplies_as_its_plan_says(quantised_graph: Path) -> None:
    as_the_graph, _ = emulated(quantised_graph)
    dequantised, _ = emulated(quantised_graph, product("Half"))
    assert np.array_equal(as_the_graph, dequantised)
    bare, engine = emulated(quantised_graph, product())
    assert engine.overflows[MATMUL].count == np.isinf(bare).sum() > 0
    finite = np.isfinite(bare)
    np.testing.assert_allclose(bare[finite], as_the_graph[finite], rtol=0.05, atol=1e-3)


def test_plan_of_another_graph_is_refused(quantised_graph: Path) -> None:
    with pytest.raises(ValueError, match="the plan belongs to another graph"):
        emulated(quantised_graph, product(alpha=0.3))


def test_unknown_operator_is_named(tmp_path: Path) -> None:
    text = GRAPH.split("encoder")[0] + "encoder (float[n] x) => (float[n] y) { y = Tan(x) }"
    ir.save(parse_graph(text), tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="knows no operator Tan"):
        EmulatedEngine(tmp_path / "model.onnx", plan()).run({"x": np.zeros(2, np.float32)})


@pytest.mark.parametrize(("dtype", "distance"), [("float32", 1e-12), ("float16", 1e-6)])
def test_without_departures_it_is_the_traced_module(
    small: Checkpoint, tmp_path: Path, dtype: str, distance: float
) -> None:
    write_graphs(tmp_path, small, "separation", dtype, tokens=64)
    slots = trace(small.config, dtype, 32, 64).slots
    module = TorchModule(load_encoder(small.config, dtype, 64, tmp_path, slots))
    batch = padded([40, 7, 23])
    engine = EmulatedEngine(graph_path(tmp_path, GraphKind.TENSORRT), plan())
    expected, found = (r.run(batch)["sentence_embedding"] for r in (module, engine))
    assert (1 - cosines(expected, found)).max() < distance
    assert engine.overflows == {}
