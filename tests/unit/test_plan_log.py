"""The compiled plan out of the builder's log: lines, profiles, layers, and what is refused."""

from __future__ import annotations

import pytest

from export.engines.plan import Kernel, KernelKind, PlanTensor
from export.engines.plan_layers import with_layers
from export.engines.plan_log import EngineFacts, plan_lines, read_log

ENGINE = b'fully_connected={ name="encoder.layers.0.mlp.fc2.MatMul" beta=0 alpha=3F000000 }'


def operand(name: str, dimensions: str, kind: str) -> str:
    """As TensorRT-RTX 1.7.1 writes it."""
    return (
        f"{{ Name: {name}, Dimensions: [{dimensions}], Strides: [1024,1], StrideOrder: [1,0], "
        f"Datatype: {kind}, Format: (Linear) Row major linear format }}"
    )


def line(name: str, kind: str = "gemm", nodes: str = "", stream: str = "0") -> str:
    constants = f"{operand('w', '1024,256', 'Int8')}, {operand('s', '1', 'Float')}"
    return (
        f"Name: {name}, LayerType: {kind}, Inputs: [ {operand('x', '-1,1024', 'Int8')}], "
        f"Constants: [ {constants}], Outputs: [ {operand('y', '-1,256', 'Half')}], "
        f"TacticName: __myelin_CASK_STUB, StreamId: {stream}, Metadata: {nodes}"
    )


FC2 = "encoder.layers.0.mlp.fc2.MatMul"
PRODUCT = line(f"{FC2}_myl0_23", nodes=f"[ONNX Layer: {FC2}]")


def read(*lines: str, profiles: int = 1) -> tuple[tuple[Kernel, ...], ...]:
    plans = read_log(lines, ENGINE, builder="tensorrt_rtx 1.7.1", gpu="sm89", profiles=profiles)
    return tuple(plan.kernels for plan in plans)


def test_line_becomes_a_kernel_with_the_factor_that_the_engine_holds() -> None:
    ((kernel,),) = read(PRODUCT)
    weight = PlanTensor(name="w", shape=(1024, 256), type="Int8")
    assert kernel == Kernel(
        name=f"{FC2}_myl0_23",
        kind=KernelKind.GEMM,
        inputs=(PlanTensor(name="x", shape=(-1, 1024), type="Int8"),),
        constants=(weight, PlanTensor(name="s", shape=(1,), type="Float")),
        outputs=(PlanTensor(name="y", shape=(-1, 256), type="Half"),),
        tactic="__myelin_CASK_STUB",
        nodes=(FC2,),
        alpha=0.5,
        layer=0,
    )
    assert kernel.weight == weight


def test_only_the_plans_lines_of_a_message_count() -> None:
    message = f"Layers:\n{PRODUCT}\n\nI/O Tensors:\n Name: input_ids, IOMode: Input\n"
    assert plan_lines(message) == [PRODUCT]


def test_events_are_no_launches() -> None:
    ((signal, product),) = read(line("e_myl0_0", "signal", stream="1, EventId: 4"), PRODUCT)
    assert (signal.launched, signal.stream, product.launched) == (False, 1, True)


def test_word_that_is_not_known_is_a_launch() -> None:
    ((kernel,),) = read(PRODUCT.replace("gemm", "conv"))
    assert (kernel.kind, kernel.launched, kernel.is_product) == (KernelKind.OTHER, True, False)


def test_each_profile_has_its_own_plan() -> None:
    short, long = read(PRODUCT, line("a_myl1_0"), line("b_myl1_1"), profiles=2)
    assert [kernel.name for kernel in short] == [f"{FC2}_myl0_23"]
    assert [kernel.name for kernel in long] == ["a_myl1_0", "b_myl1_1"]


@pytest.mark.parametrize(
    ("lines", "profiles", "message"),
    [
        ([], 1, "no kernel of a compiled plan"),
        (["Name: x, Kind: gemm"], 1, "cannot be read: Name: x, Kind: gemm"),
        ([PRODUCT], 2, "1 compiled graphs for 2 profiles"),
        ([PRODUCT, line("copy"), line("a_myl1_0")], 2, "3 compiled graphs for 2 profiles"),
    ],
    ids=["empty", "form", "too_few_graphs", "kernel_of_no_graph"],
)
def test_log_of_another_form_is_refused(lines: list[str], profiles: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(*lines, profiles=profiles)


def kernel(nodes: str, takes: str, gives: str) -> Kernel:
    return Kernel(
        name=gives,
        kind=KernelKind.GENERATED,
        inputs=tuple(PlanTensor(name=name, shape=(1,), type="Half") for name in takes.split()),
        outputs=tuple(PlanTensor(name=name, shape=(1,), type="Half") for name in gives.split()),
        nodes=tuple(nodes.split()),
    )


def test_kernels_without_a_layers_name_take_it_from_those_around_them() -> None:
    """Attention and the bank's scaling are named by their kind and a running number."""
    kernels = [
        (None, kernel("Attention.0", "attention_mask", "mask")),
        (None, kernel("embeddings.word.Gather encoder.layers.0.mixer.quantise", "ids", "x")),
        (0, kernel("encoder.layers.0.mixer.Wqkv.MatMul", "x", "qkv")),
        (0, kernel("Attention.7", "qkv mask", "mixed")),
        (0, kernel("", "mixed", "moved")),
        (0, kernel("encoder.layers.0.mlp.fc2.MatMul", "moved", "fc2")),
        (0, kernel("encoder.layers.0.norm2.LN encoder.layers.1.mixer.quantise", "fc2 x", "y")),
        (0, kernel("Mul.3", "y", "scaled")),
        (1, kernel("encoder.layers.1.mixer.Wqkv.MatMul", "scaled", "z")),
        (None, kernel("ReduceSum.1", "attention_mask", "count")),
        (1, kernel("encoder.layers.1.norm2.LN", "z count", "pooled")),
        (None, kernel("ReduceL2.0", "pooled", "sentence_embedding")),
    ]
    assert [k.layer for k in with_layers([k for _, k in kernels])] == [n for n, _ in kernels]


def test_attentions_accumulator_is_that_of_the_traits_behind_its_tactic() -> None:
    """Half wins: a kernel that adds up scores in half precision is no FP32 kernel."""
    words = (
        b"fmha::Lost_fp16_traits _gemm_mha_v2_0x1a { fmha::Ampere_hmma_fp32_traits } "
        b"_gemm_mha_v2_0x2b { fmha::Ampere_hmma_fp16_traits fmha::Ampere_hmma_fp32_traits }"
    )
    accumulators = EngineFacts.of(words).accumulators
    assert accumulators["_gemm_mha_v2_0x1a"] == "Float"
    assert accumulators["_gemm_mha_v2_0x2b"] == "Half"
