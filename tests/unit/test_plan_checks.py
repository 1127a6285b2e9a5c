"""The rules of the plan as a gate: what is said, what may be waived, what is data and no waiver."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from export.engines.plan import Kernel, KernelKind, Plan, PlanTensor
from export.engines.plan_rules import PlanSubject, check_plans, shortfalls
from runtimes.choices import AdapterMode, HeadName, PlanRule, Precision
from runtimes.errors import GateError
from runtimes.manifest import Architecture
from runtimes.schemes import SCHEMES
from tests.support import ARCHITECTURE

FP16 = PlanSubject(
    scheme=SCHEMES[Precision.FP16],
    adapter=AdapterMode.MERGED,
    head=HeadName.SENTENCE,
    architecture=Architecture(**ARCHITECTURE),
)
INT8 = replace(
    FP16,
    scheme=SCHEMES[Precision.INT8],
    quantised={SCHEMES[Precision.INT8].operands: 1},
)
INT4W = replace(
    FP16,
    scheme=SCHEMES[Precision.INT4W],
    quantised={SCHEMES[Precision.INT4W].operands: 1, SCHEMES[Precision.INT8W].operands: 1},
)
NONE: frozenset[PlanRule] = frozenset()


def tensor(kind: str, *shape: int) -> PlanTensor:
    return PlanTensor(name="t", shape=shape, type=kind)


def product(
    name: str = "encoder.layers.0.mlp.fc2.MatMul",
    x: str = "Half",
    w: str = "Half",
    y: str = "Half",
    *,
    rows: int = 64,
    columns: int = 64,
    **more: Any,
) -> Kernel:
    return Kernel(
        name=f"{name}_myl0_1",
        kind=KernelKind.GEMM,
        inputs=(tensor(x, -1, rows),),
        constants=(tensor(w, rows, columns),),
        outputs=(tensor(y, -1, columns),),
        nodes=(name,),
        **{"layer": 0} | more,
    )


ATTENTION = Kernel(
    name="_gemm_mha_v2_myl0_2",
    kind=KernelKind.GENERATED,
    inputs=(tensor("Half", -1, -1, 32), tensor("Int32", -1)),
    layer=0,
    accumulator="Float",
)


def plan(*kernels: Kernel, builder: str = "tensorrt_rtx 1.7.1") -> Plan:
    return Plan(builder=builder, gpu="sm89", kernels=(ATTENTION, *kernels))


def broken(subject: PlanSubject, *kernels: Kernel, **more: str) -> set[PlanRule]:
    return set(shortfalls(plan(*kernels, **more), subject))


def test_plan_that_keeps_every_rule_has_no_shortfall() -> None:
    assert broken(FP16, product()) == set()
    assert broken(INT8, product(x="Int8", w="Int8", y="Float")) == set()


def test_refusal_says_engine_rule_kernel_and_what_was_expected() -> None:
    bad = product("encoder.layers.0.mlp.fc1.MatMul", "Float", "Float")
    with pytest.raises(GateError) as refused:
        check_plans({"encoder.sm89.engine": (plan(bad),)}, FP16, NONE)
    assert str(refused.value) == (
        "encoder.sm89.engine: the compiled plan breaks the rule fp32-product: "
        "encoder.layers.0.mlp.fc1.MatMul_myl0_1: Float×Float, expected no product in Float but the "
        "token types' and the chunk head's; nothing was published; --allow-plan fp32-product "
        "publishes it all the same"
    )


def test_every_profile_of_every_engine_is_checked() -> None:
    bad = plan(product(x="Float"))
    with pytest.raises(GateError, match=r"two\.engine: the compiled plan breaks"):
        check_plans({"one.engine": (plan(),), "two.engine": (plan(), bad)}, FP16, NONE)


def test_waived_rules_that_are_broken_are_told() -> None:
    bad = {"a.engine": (plan(product(x="Float")),)}
    allowed = frozenset({PlanRule.FP32_PRODUCT, PlanRule.LAUNCHES})
    assert check_plans(bad, FP16, allowed) == {PlanRule.FP32_PRODUCT}


def test_waiver_of_one_rule_is_none_of_another() -> None:
    bare = replace(plan(product(x="Float")), kernels=(product(x="Float"),))
    with pytest.raises(GateError, match="rule fused-attention: the plan: 0 fused kernels"):
        check_plans({"a.engine": (bare,)}, FP16, frozenset({PlanRule.FP32_PRODUCT}))


def test_fp32_engine_has_no_fused_attention_and_products_in_float() -> None:
    fp32 = replace(FP16, scheme=SCHEMES[Precision.FP32])
    bare = replace(plan(), kernels=(product(x="Float", w="Float", y="Float"),))
    assert set(shortfalls(bare, fp32)) == set()


def test_products_in_float_by_design() -> None:
    types = product("embeddings.token_type_embeddings.MatMul", "Float", "Float", layer=None)
    both = (tensor("Float", -1, -1, -1), tensor("Float", -1, -1, 64))
    pooling = replace(types, constants=(), nodes=("MatMul.0",), inputs=both)
    chunks = replace(FP16, head=HeadName.CHUNKS)
    assert broken(FP16, types) == set()
    assert broken(chunks, pooling) == set()
    assert broken(FP16, pooling) == {PlanRule.FP32_PRODUCT}
    assert broken(chunks, replace(pooling, layer=0)) == {PlanRule.FP32_PRODUCT}


def test_what_a_fused_kernel_adds_is_no_operand() -> None:
    """Embeddings beside a bank: FP16 low-rank columns, and the FP32 rows that they are added to."""
    low = product("embeddings.word_embeddings.MatMul", rows=16, columns=256, layer=None)
    for residual in (tensor("Float", -1, -1, 256), tensor("Float", -1, 16)):
        fused = replace(low, kind=KernelKind.FUSION, inputs=(residual, *low.inputs))
        assert broken(FP16, fused) == set()


def test_attention_adds_up_in_what_was_asked_for() -> None:
    """An option that was not heard is as wrong as half precision that nobody asked for."""
    half = replace(plan(), kernels=(replace(ATTENTION, accumulator="Half"),))
    asked = replace(FP16, accumulator="Half")
    assert set(shortfalls(half, FP16)) == {PlanRule.ATTENTION_ACCUMULATOR}
    assert set(shortfalls(half, asked)) == set()
    assert broken(asked) == {PlanRule.ATTENTION_ACCUMULATOR}


def test_models_own_widths_are_what_they_are() -> None:
    odd = replace(FP16, architecture=replace(FP16.architecture, hidden=100))
    assert broken(odd, product(rows=100, columns=300)) == set()
    assert broken(odd, product(rows=100, columns=102)) == {PlanRule.PRODUCT_WIDTH}


def test_int8_result_in_half_is_bounded_by_factor_and_weights() -> None:
    """127 · 127 · 64 is 1.03 million; a column's own weights may sum to less."""
    wide = product(x="Int8", w="Int8")
    assert broken(INT8, wide) == {PlanRule.INT8_OVERFLOW}
    assert broken(INT8, replace(wide, alpha=0.06)) == set()
    assert broken(INT8, replace(wide, alpha=0.07)) == {PlanRule.INT8_OVERFLOW}
    light = replace(INT8, column_sums={"encoder.layers.0.mlp.fc2": 1000.0})
    assert broken(light, replace(wide, alpha=0.5)) == set()
    assert broken(light, replace(wide, alpha=0.6)) == {PlanRule.INT8_OVERFLOW}
    other = replace(INT8, column_sums={"encoder.layers.0.mlp.fc": 1.0})
    assert broken(other, wide) == {PlanRule.INT8_OVERFLOW}


def test_quantised_products_are_counted_by_type() -> None:
    """A fallback of one GEMM leaves one product less, and a half product is none."""
    one = product(x="Int8", w="Int8", y="Float")
    assert broken(INT8, one, product()) == set()
    assert broken(INT8) == {PlanRule.QUANTISED_PRODUCTS}
    assert broken(INT8, one, one) == {PlanRule.QUANTISED_PRODUCTS}
    assert broken(INT8, one, product(w="Int8")) == {PlanRule.QUANTISED_PRODUCTS}
    assert broken(FP16, product(x="Int8", w="Int8", y="Float")) == {PlanRule.QUANTISED_PRODUCTS}


def test_weights_alone_are_counted_by_what_they_are_stored_as() -> None:
    """One GEMM of two eased to INT8: each is one product of Half and its own type."""
    four, eight = product(w="Int4"), product(w="Int8")
    assert broken(INT4W, four, eight) == set()
    assert broken(INT4W, four) == {PlanRule.QUANTISED_PRODUCTS}
    assert broken(INT4W, four, four) == {PlanRule.QUANTISED_PRODUCTS}
    assert broken(INT4W, four, eight, eight) == {PlanRule.QUANTISED_PRODUCTS}
    both = product(x="Int8", w="Int8", y="Float")
    assert broken(INT4W, four, both) == {PlanRule.QUANTISED_PRODUCTS}
    assert broken(INT8, four) == {PlanRule.QUANTISED_PRODUCTS}


def test_int4_matrices_are_aligned_to_rows_of_16_bytes() -> None:
    eight = product(w="Int8")
    assert broken(INT4W, product(w="Int4", rows=96), eight) == set()
    assert broken(INT4W, product(w="Int4", rows=48), eight) == {PlanRule.PRODUCT_WIDTH}


def test_layers_between_the_first_and_the_last_count_their_launches() -> None:
    step = replace(ATTENTION, name="step", kind=KernelKind.COPY, inputs=())
    signal = replace(step, kind=KernelKind.SIGNAL)
    layers = [replace(step, layer=layer) for layer in (0, *[1] * 10, *[2] * 20)]
    assert broken(FP16, *layers, replace(signal, layer=1)) == set()
    assert broken(FP16, *layers, replace(step, layer=1)) == {PlanRule.LAUNCHES}
    assert broken(FP16, *[step] * 9) == set()
    assert broken(FP16, *[step] * 10) == {PlanRule.LAUNCHES}


def test_full_tensorrt_is_not_held_to_what_rtx_was_measured_to_do() -> None:
    many = [replace(ATTENTION, name="step")] * 20
    assert broken(FP16, *many, builder="tensorrt 11.4") == set()
    assert broken(FP16, product(x="Float"), builder="tensorrt 11.4") == {PlanRule.FP32_PRODUCT}


STORED = tensor("Int8", 1000, 64)


def gathers(kind: str, *shape: int) -> Kernel:
    """The kernel that reads the table of embeddings."""
    table = tensor(kind, *shape)
    return Kernel(
        name="__myl_CastMulGath_myl0_9", kind=KernelKind.GENERATED, constants=(table,), layer=None
    )


@pytest.mark.parametrize(
    ("kernels", "got"),
    [
        ([gathers("Int8", 1000, 64)], None),
        ([gathers("Half", 1000, 64)], "the table in Half"),
        ([gathers("Int8", 1000, 64), gathers("Half", 1000, 64)], "the table in Half"),
        ([gathers("Int8", 1000, 16)], "no kernel that holds Int8 [1000, 64]"),
        ([], "no kernel that holds Int8 [1000, 64]"),
    ],
)
def test_quantised_table_is_held_as_it_is_stored(kernels: list[Kernel], got: str | None) -> None:
    found = shortfalls(plan(product(), *kernels), replace(FP16, table=STORED))
    assert (PlanRule.QUANTISED_TABLE in found) is (got is not None)
    if got is not None:
        assert found[PlanRule.QUANTISED_TABLE][0].got == got
    assert broken(FP16, product(), *kernels) == set()  # nothing was said of the table
