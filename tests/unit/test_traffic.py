"""Bytes and operations of a plan's kernels, against closed forms and by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from export.engines.plan import Kernel, KernelKind, Plan, PlanTensor
from export.engines.traffic import KernelTraffic, Workload, traffic

HIDDEN, HEADS, WIDTH = 64, 4, 16  # WIDTH is a head's
LOADS = [Workload(batch=1, tokens=1, heads=HEADS), Workload(batch=3, tokens=7, heads=HEADS)]


def tensors(text: str) -> tuple[PlanTensor, ...]:
    """``"x -1,64 Half; y -1 Int64"`` as operands."""
    return tuple(
        PlanTensor(name=name, shape=tuple(int(d) for d in shape.split(",")), type=kind)
        for name, shape, kind in (part.split() for part in text.split(";") if part.strip())
    )


def kernel(
    name: str, kind: KernelKind, inputs: str, outputs: str, constants: str = "", layer: int = 0
) -> Kernel:
    return Kernel(
        name=name,
        kind=kind,
        inputs=tensors(inputs),
        outputs=tensors(outputs),
        constants=tensors(constants),
        nodes=(f"encoder.layers.{layer}.node",),
    )


GEMM, FUSION, GENERATED = KernelKind.GEMM, KernelKind.FUSION, KernelKind.GENERATED
# One FP16 layer as the compiler makes it, with the kernels before and after it.
KERNELS = (
    kernel("shapes", KernelKind.SHAPE, "", ""),
    kernel("mask", GENERATED, "attention_mask -1,-1 Int64", "m -1,1,1,-1 Half"),
    kernel(
        "CastGathCast", GENERATED, "input_ids -1,-1 Int64", "x -1,-1,64 Half", "table 1000,64 Half"
    ),
    kernel("qkv", GEMM, "x -1,64 Half", "qkv 1,-1,192 Half", "w 1,64,192 Half; alpha 1 Float"),
    kernel("value", GENERATED, "qkv 1,-1,64 Half", "v -1,-1,16 Half", "bias 1,1,64 Half"),
    kernel(
        "rope",
        GENERATED,
        "cos -1,1,-1,8 Half; cos -1,1,-1,8 Half; qkv 1,-1,64 Half; qkv 1,-1,64 Half",
        "q -1,-1,16 Half; k -1,16,-1 Half",
    ),
    kernel(
        "_gemm_mha_v2",
        GENERATED,
        "q -1,-1,16 Half; k -1,16,-1 Half; m -1,1,1,-1 Half; v -1,-1,16 Half",
        "a -1,-1,16 Half",
    ),
    kernel("move", GENERATED, "a -1,-1,16 Half", "o -1,-1,4,16 Half"),
    kernel("out", FUSION, "o -1,64 Half", "p -1,64 Half", "bias 1,64 Half; w 64,64 Half"),
    kernel("fc1", FUSION, "p -1,64 Half", "f -1,256 Half", "w 64,256 Half"),
    kernel("fc2", GEMM, "f -1,256 Half", "y -1,64 Half", "w 256,64 Half"),
    kernel("sums", GENERATED, "y -1,64 Half; x -1,-1,64 Half", "mean -1,1 Float"),
    kernel("pool", GENERATED, "mean -1,1 Float; y -1,64 Half", "s -1,1,64 Float"),
    kernel("norm", GENERATED, "s -1,1,64 Float", "sentence_embedding -1,64 Float"),
)
PLAN = Plan(builder="a compiler", gpu="sm89", kernels=KERNELS)


def named(load: Workload, *kernels: Kernel) -> dict[str, KernelTraffic]:
    plan = replace(PLAN, kernels=(*KERNELS, *kernels))
    return {work.kernel.name: work for work in traffic(plan, load)}


@pytest.mark.parametrize("load", LOADS, ids=["1x1", "3x7"])
def test_operations_are_the_closed_forms(load: Workload) -> None:
    work = traffic(PLAN, load)
    weights = HIDDEN * (3 * HIDDEN + HIDDEN + 4 * HIDDEN + 4 * HIDDEN)
    attention = [w.flops for w in work if w.kernel.is_attention]
    assert sum(w.flops for w in work if w.kernel.is_product) == 2 * load.rows * weights
    assert attention == [4 * load.batch * load.tokens**2 * HIDDEN]
    assert {w.operands for w in work if w.flops} == {("Half", "Half")}


def test_bytes_of_a_layer_by_hand() -> None:
    batch, tokens = 3, 7
    rows = batch * tokens
    work = named(LOADS[1])
    assert "shapes" not in work  # nothing is launched
    assert work["mask"].read == 8 * rows
    assert work["mask"].written == 2 * rows
    assert work["CastGathCast"].constants == 2 * 64 * rows  # a row of the table per token
    assert (work["qkv"].read, work["qkv"].written) == (2 * 64 * rows, 2 * 192 * rows)
    assert work["qkv"].constants == 2 * 64 * 192 + 4
    assert (work["value"].read, work["value"].constants) == (2 * 64 * rows, 2 * 64)
    assert work["value"].written == 2 * 64 * rows  # four heads of 16
    assert work["rope"].read == 2 * (8 * rows + 2 * 64 * rows)  # cos once, Q and K apart
    assert work["_gemm_mha_v2"].read == 3 * 2 * 64 * rows + 2 * rows
    assert work["move"].bytes == 2 * 2 * 64 * rows
    assert work["out"].bytes == 2 * 2 * 64 * rows + 2 * (64 + 64 * 64)
    assert work["sums"].written == 4 * rows  # a mean per token
    assert (work["pool"].written, work["norm"].written) == (4 * 64 * batch, 4 * 64 * batch)


def test_what_is_read_twice_counts_once_and_slices_count_each() -> None:
    double = kernel("double", GENERATED, "o -1,64 Half; o -1,-1,4,16 Half", "d -1,64 Half")
    three = ";".join(3 * ["qkv 1,-1,64 Half"])
    work = named(LOADS[1], double, kernel("three", GENERATED, three, "d -1,64 Half"))
    assert work["double"].read == 2 * 64 * 21
    assert work["three"].read == 2 * 192 * 21


def test_a_narrow_row_as_wide_as_a_head_is_no_head() -> None:
    """A bank's rank may be a head's width: heads are told by what attention reads."""
    product = kernel("down", GEMM, "x -1,64 Half", "r -1,-1,16 Half", "a 64,16 Half")
    work = named(LOADS[1], product)
    assert work["down"].written == 2 * 16 * 21
    assert work["move"].read == 2 * 64 * 21


def test_rows_per_text_are_told_by_another_view_or_by_the_operands() -> None:
    choose = kernel("choose", GENERATED, "task_id -1 Int64", "t -1,1,16 Float")
    product = kernel("task", GEMM, "t -1,16 Float", "u -1,64 Float", "b 16,64 Float")
    work = named(LOADS[1], choose, product)
    assert (work["choose"].read, work["choose"].written) == (8 * 3, 4 * 16 * 3)
    assert work["task"].flops == 2 * 3 * 16 * 64
    assert work["task"].written == 4 * 64 * 3


def test_weight_that_is_converted_in_every_call_is_read_whole() -> None:
    convert = kernel("convert", GENERATED, "", "h 1,64,192 Half", "s 1,192 Half; w 64,192 Int8")
    product = kernel("mixed", FUSION, "i -1,64 Int8; h 1,64,192 Half", "z 1,-1,192 Half")
    work = named(LOADS[0], convert, product)
    assert work["convert"].constants == 64 * 192 + 2 * 192
    assert work["mixed"].operands == ("Int8", "Half")
    assert work["mixed"].flops == 2 * 64 * 192


def test_attention_that_is_no_single_kernel_is_two_products_and_their_scores() -> None:
    """FP32 has no fused kernel: heads are folded into the batch, in the softmax's sums too."""
    work = named(
        LOADS[1],
        kernel("qk", GEMM, "Q -1,-1,16 Float; K -1,16,-1 Float", "S -1,-1,-1 Float"),
        kernel("softmax", GENERATED, "S -1,-1,-1 Float", "e -1,-1,-1 Float; d -1,-1,1 Float"),
        kernel("pv", GEMM, "e -1,-1,-1 Float; V -1,-1,16 Float", "O -1,-1,16 Float"),
        kernel("back", GENERATED, "O -1,4,-1,16 Float", "P -1,-1,64 Float"),
        kernel("whole", GENERATED, "c -1,4,-1,-1 Float", "g -1,4,-1,-1 Float"),
    )
    scores = 3 * 4 * 7 * 7
    assert work["qk"].flops + work["pv"].flops == 4 * 3 * 7 * 7 * HIDDEN
    assert (work["softmax"].read, work["softmax"].written) == (4 * scores, 4 * (scores + 3 * 4 * 7))
    assert work["back"].bytes == 2 * 4 * 21 * 64
    assert work["whole"].bytes == 2 * 4 * scores


def test_a_chunk_heads_pooling_has_a_row_per_chunk() -> None:
    pooling = (
        kernel("pad", GENERATED, "chunk_weights -1,-1,-1 Float", "c -1,-1,-1 Float"),
        kernel("pool", GEMM, "c -1,-1,-1 Float; t -1,-1,64 Float", "u -1,-1,64 Float"),
        kernel("norm", GENERATED, "u -1,-1,64 Float", "chunk_embedding -1,-1,64 Float"),
    )
    work = named(replace(LOADS[1], chunks=5), *pooling)
    assert work["pad"].read == 4 * 3 * 5 * 7
    assert work["pool"].flops == 2 * 3 * 5 * 7 * 64
    assert work["pool"].read == 4 * (3 * 5 * 7 + 21 * 64)
    assert work["norm"].bytes == 2 * 4 * 3 * 5 * 64


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (kernel("k", GENERATED, "x -1,64 Int7", "y -1,64 Half"), "of type 'Int7', expected one of"),
        (kernel("k", GENERATED, "x -1,-1,-1 Half", "y 1 Half"), "a shape .* cannot be explained"),
        (kernel("k", GEMM, "x -1,64 Half", "y -1,9 Half"), "a product without a matrix"),
        (kernel("k", GEMM, "x -1,60 Half", "y -1,9 Half", "w 64,9 Half"), "no operand of 64"),
        (kernel("_mha", GENERATED, "q -1,-1,16 Half", "a -1,-1,16 Half"), "queries, keys and"),
    ],
    ids=["type", "shape", "matrix", "columns", "attention"],
)
def test_what_cannot_be_explained_is_an_error_and_no_zero(broken: Kernel, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        traffic(replace(PLAN, kernels=(broken,)), LOADS[1])


def test_workload_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Workload(batch=0, tokens=7, heads=4)
