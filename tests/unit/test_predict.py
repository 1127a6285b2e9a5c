"""Predicted times: the formula, what a GPU can multiply, and how far off the fit is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from export.engines.gpus import GPUS
from export.engines.plan import Kernel, Plan
from export.engines.predict import (
    EFFICIENCY,
    Efficiency,
    TypeUnsupportedError,
    gain,
    nearest,
    predict,
    rank,
    worthwhile,
)
from export.engines.traffic import Workload
from tests.bench import prediction
from tests.bench.prediction import FITTED, HELD_BACK, Design, bert_plan, fit, left_out, points
from tests.unit.test_traffic import GEMM, GENERATED, kernel

LOAD = Workload(batch=8, tokens=512, heads=16)
LONG = Workload(batch=1, tokens=8192, heads=16)
IDEAL = Efficiency(compute=1, memory=1, launch_cycles=0, version="", source="")
LOADS = [Workload(batch=1, tokens=t, heads=16) for t in (16, 64, 128, 256, 512, 1024, 4096)]


def plan(*kernels: Kernel) -> Plan:
    return Plan(builder="a compiler", gpu=None, kernels=kernels)


def milliseconds(
    gpu: str, *kernels: Kernel, efficiency: Efficiency = IDEAL, load: Workload = LOAD
) -> float:
    return predict(plan(*kernels), load, GPUS[gpu], efficiency).milliseconds


def product(kind: str, weight: str | None = None) -> Kernel:
    weight = weight or kind
    return kernel(
        "product", GEMM, f"x -1,4096 {kind}", f"y -1,4096 {kind}", f"w 4096,4096 {weight}"
    )


def attention(accumulator: str | None) -> Kernel:
    operands = "; ".join(f"{name} -1,-1,64 Half" for name in "qkv")
    fused = kernel("_gemm_mha_v2", GENERATED, operands, "a -1,-1,64 Half")
    return replace(fused, accumulator=accumulator)


def test_a_kernel_takes_the_longer_of_arithmetic_and_memory_and_a_launch() -> None:
    flops, weight = 2 * 4096 * 4096 * 4096, 2 * 4096 * 4096
    assert milliseconds("A100 40GB", product("Half")) == pytest.approx(flops / 312e12 * 1e3)
    move = kernel("move", GENERATED, "x -1,4096 Half", "y -1,4096 Half")
    assert milliseconds("A100 40GB", move) == pytest.approx(2 * weight / 1555e9 * 1e3)
    launches = replace(IDEAL, launch_cycles=1410)
    slower = milliseconds("A100 40GB", move, move, efficiency=launches)
    assert slower == pytest.approx(2 * (2 * weight / 1555e9 * 1e3 + 1e-3))


def test_what_the_host_does_is_no_launch() -> None:
    waits = replace(product("Half"), kind=type(GEMM).WAIT)
    assert milliseconds("L4", waits, efficiency=EFFICIENCY) == 0


@pytest.mark.parametrize("kinds", [("Int8", "Half"), ("Half", "Int8"), ("Half", "Int4")])
def test_a_product_of_two_types_takes_the_wider_ones_time(kinds: tuple[str, str]) -> None:
    assert milliseconds("L4", product(*kinds)) == milliseconds("L4", product("Half"))


def test_int8_products_that_are_half_are_predicted_slower() -> None:
    int8 = [product("Int8") for _ in range(4)]
    broken = [product("Int8", "Half"), *int8[1:]]  # one is dequantised in every call
    for gpu in GPUS:
        assert milliseconds(gpu, *broken) > 1.2 * milliseconds(gpu, *int8)


def test_geforce_adds_up_in_fp32_at_half_rate_and_the_others_do_not() -> None:
    for name, ratio in {"RTX 4090": 2, "RTX 5090": 2, "L4": 1, "A100 40GB": 1}.items():
        full, half, unsaid = (
            milliseconds(name, attention(kind), load=LONG) for kind in ("Float", "Half", None)
        )
        assert full / half == pytest.approx(ratio, rel=0.01)
        assert unsaid == full  # the slower one


def test_a_gpu_that_cannot_multiply_a_type_says_so() -> None:
    with pytest.raises(
        TypeUnsupportedError, match=r"A10 \(sm86\) has no FP8 products, but product is one"
    ):
        milliseconds("A10", product("FP8"))
    with pytest.raises(ValueError, match="expected one of Float, Half"):
        milliseconds("L4", product("Int9"))
    assert milliseconds("L4", product("FP8")) == milliseconds("L4", product("Int8"))


def test_engines_are_ranked_and_those_that_cannot_run_left_out() -> None:
    plans = {kind: plan(product(kind)) for kind in ("Half", "FP8", "Int8", "Float")}
    assert [name for name, _ in rank(plans, LOAD, GPUS["A10"])] == ["Int8", "Half", "Float"]
    assert {name for name, _ in rank(plans, LOAD, GPUS["L4"])[:2]} == {"Int8", "FP8"}


def test_nearest_plan_is_the_gpus_own_or_the_next_older() -> None:
    plans = {sm: replace(plan(), gpu=sm) for sm in ("sm86", "sm89", "sm120")}
    found = {name: nearest(gpu, plans)[0] for name, gpu in GPUS.items()}
    assert found["A10"] == found["AGX Orin 64GB"] == found["A100 40GB"] == "sm86"  # sm80: the first
    assert found["L4"] == found["H100 SXM"] == "sm89"
    assert found["RTX 5090"] == "sm120"


def test_int8_is_worth_it_for_some_lengths_only() -> None:
    """Short texts wait for launches, of which a quantised plan has more; attention stays Half."""
    half, int8 = bert_plan(FITTED, "Half"), bert_plan(FITTED, "Int8")
    attentions = iter(half.attentions)
    extra = tuple(kernel(f"q{i}", GENERATED, "x 8 Half", "y 8 Int8") for i in range(120))
    own = tuple(next(attentions) if k.is_attention else k for k in int8.kernels)
    after, gpu = replace(int8, kernels=(*own, *extra)), GPUS["H100 SXM"]
    lengths = [load.tokens for load in worthwhile(half, after, LOADS, gpu)]
    assert lengths
    assert LOADS[0].tokens not in lengths
    for load in LOADS:
        assert (gain(half, after, load, gpu) >= 0.05) == (load.tokens in lengths)
    assert worthwhile(half, half, LOADS, gpu) == ()
    assert worthwhile(half, int8, LOADS, GPUS["L4"]) == tuple(LOADS)


def test_efficiency_is_the_fit() -> None:
    fitted = np.exp(fit(Design.of(p for p in points() if p.model == FITTED)))
    kept = (EFFICIENCY.compute, EFFICIENCY.memory, EFFICIENCY.launch_cycles)
    np.testing.assert_allclose(kept, fitted, rtol=2e-3)


def test_int8_and_fp16_fitted_apart_reach_the_same_share() -> None:
    """So that one share serves, and FP8, of which nothing is published."""
    design = Design.of(p for p in points() if p.model == FITTED)
    shares = [
        np.exp(fit(design.only(np.array([p.precision == kind for p in design.points]))))[0]
        for kind in ("Half", "Int8")
    ]
    np.testing.assert_allclose(shares, EFFICIENCY.compute, rtol=0.06)


def test_fit_holds_for_a_gpu_and_for_a_model_it_has_not_seen() -> None:
    known = points()
    design = Design.of(p for p in known if p.model == FITTED)
    gpus = [p.gpu for p in design.points]
    assert _typical(left_out(design, gpus)) < 1.25
    assert _typical(left_out(design, design.points)) < 1.2
    other = Design.of(p for p in known if p.model == HELD_BACK)
    assert _typical(other.errors(fit(design))) < 1.2


def test_launches_are_what_short_texts_wait_for() -> None:
    """The control of the fit: without launches a text of 128 tokens is predicted at half."""
    design = Design.of(p for p in points() if (p.model, p.batch, p.tokens) == (FITTED, 1, 128))
    shares = np.log([EFFICIENCY.compute, EFFICIENCY.memory, 1])
    assert np.exp(design.errors(shares).mean()) < 0.55


def test_left_out_points_are_not_in_their_fit() -> None:
    """A GPU whose times are all tripled is off by about three, and the others' fit is not hers."""
    design = Design.of(p for p in points() if p.model == FITTED)
    slow = np.array([p.gpu == "A30" for p in design.points])
    tripled = replace(design, logs=design.logs + np.log(3) * slow)
    errors = left_out(tripled, [p.gpu for p in design.points])
    assert np.exp(errors[slow].mean()) == pytest.approx(0.96 / 3, rel=0.02)


def test_table_of_errors_has_every_gpu_of_the_fit() -> None:
    shown = prediction.table()
    for gpu in {p.gpu for p in points()}:
        assert f"on {gpu}, left out" in shown


def _typical(errors: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    return float(np.exp(np.sqrt((errors**2).mean())))
