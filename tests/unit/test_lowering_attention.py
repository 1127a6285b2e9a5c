"""The three ways attention is lowered, each against the standard operator in ONNX Runtime."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from export.lowering.adapt_attention import AdaptAttention
from export.lowering.expand_attention import ExpandAttention
from export.lowering.use_contrib_attention import UseContribAttention
from export.lowering.use_key_lengths import UseKeyLengths
from tests.support import Array, op_types, parse_graph, present, run_model

HIDDEN, HEADS = 16, 2


def attention_graph(kind: str = "float") -> ir.Model:
    """Two attentions over one expanded mask, as the encoder has them."""
    return parse_graph(
        f"""
        <ir_version: 10, opset_import: ["" : 23]>
        encoder ({kind}[batch,sequence,{HIDDEN}] q, {kind}[batch,sequence,{HIDDEN}] k,
                 {kind}[batch,sequence,{HIDDEN}] v, int64[batch,sequence] attention_mask)
             => ({kind}[batch,sequence,{HIDDEN}] y)
        {{
            seen = Cast <to = 9> (attention_mask)
            keys = Unsqueeze (seen, axes)
            b = Shape <start = 0, end = 1> (attention_mask)
            s = Shape <start = 1> (attention_mask)
            size = Concat <axis = 0> (b, one, s, s)
            mask = Expand (keys, size)
            [first] x = Attention <q_num_heads = {HEADS}, kv_num_heads = {HEADS}> (q, k, v, mask)
            [second] y = Attention <q_num_heads = {HEADS}, kv_num_heads = {HEADS}> (x, k, v, mask)
        }}
        """,
        axes=np.array([1, 2]),
        one=np.array([1]),
    )


def inputs(lengths: list[int], dtype: Any = np.float32) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    shape = (len(lengths), max(lengths), HIDDEN)
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    rows = {name: rng.standard_normal(shape, np.float32).astype(dtype) * 2 for name in "qkv"}
    return rows | {"attention_mask": mask.astype(np.int64)}


LENGTHS = [[5], [1], [5, 5], [5, 3], [1, 7, 4], [2, 1]]


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("make_pass", [UseContribAttention, ExpandAttention, UseKeyLengths])
def test_result_is_the_standard_operators(make_pass: Any, lengths: list[int]) -> None:
    model, batch = attention_graph(), inputs(lengths)
    before = run_model(model, batch)
    assert make_pass()(model).modified
    assert "Attention" not in op_types(model)
    np.testing.assert_allclose(run_model(model, batch), before, atol=2e-6)


@pytest.mark.parametrize("make_pass", [UseContribAttention, ExpandAttention, UseKeyLengths])
def test_padding_never_reaches_a_real_token(make_pass: Any) -> None:
    model = attention_graph()
    make_pass()(model)
    batch = inputs([6, 4])
    changed = {name: value.copy() for name, value in batch.items()}
    for name in "kv":
        changed[name][1, 4:] += 100
    first, second = run_model(model, batch), run_model(model, changed)
    np.testing.assert_array_equal(first[1, :4], second[1, :4])
    changed["k"][1, 3] += 1  # a real token does
    assert np.abs(run_model(model, changed)[1, :4] - first[1, :4]).max() > 1e-3


@pytest.mark.parametrize("make_pass", [UseContribAttention, ExpandAttention])
def test_mask_with_a_hole_hides_just_that_token(make_pass: Any) -> None:
    model, batch = attention_graph(), inputs([6, 6])
    batch["attention_mask"][0, 2] = batch["attention_mask"][1, 0] = 0
    before = run_model(model, batch)
    make_pass()(model)
    np.testing.assert_allclose(run_model(model, batch), before, atol=2e-6)


def test_unpadded_branch_has_no_mask_so_that_the_flash_kernel_can_run() -> None:
    model = attention_graph()
    UseContribAttention()(model)
    choices = [n for n in model.graph if n.op_type == "If"]
    assert len(choices) == 2
    for choice in choices:
        (flash,) = choice.attributes["then_branch"].as_graph()
        (masked,) = choice.attributes["else_branch"].as_graph()
        assert flash.op_type == masked.op_type == "MultiHeadAttention"
        assert len(flash.inputs) == 3
        assert len(masked.inputs) == 5
        padding = present(present(masked.inputs[4]).producer())
        assert padding.attributes["to"].as_int() == ir.DataType.INT32
    assert "Expand" not in op_types(model)  # nothing of size batch x sequence^2 is left
    assert op_types(model).count("ReduceMin") == 1


def test_primitive_graph_holds_only_old_operators_and_no_expanded_mask() -> None:
    model = attention_graph()
    ExpandAttention()(model)
    assert set(op_types(model)) <= {
        "Cast",
        "Unsqueeze",
        "Reshape",
        "Transpose",
        "Mul",
        "MatMul",
        "Where",
        "Softmax",
    }
    assert op_types(model).count("Softmax") == 2


@pytest.mark.parametrize("make_pass", [UseContribAttention, ExpandAttention])
def test_half_precision_with_padding_stays_finite_and_close(make_pass: Any) -> None:
    model, batch = attention_graph("float16"), inputs([6, 1, 4], np.float16)
    make_pass()(model)
    wide = {n: v.astype(np.float32) if v.dtype == np.float16 else v for n, v in batch.items()}
    expected = run_model(attention_graph(), wide)
    got = run_model(model, batch)
    assert got.dtype == np.float16
    np.testing.assert_allclose(got, expected, atol=0.02)


@pytest.mark.parametrize(
    ("kind", "lowest"),
    [
        ("float", np.finfo(np.float32).min),
        ("float16", -65504.0),
        ("bfloat16", float(ml_dtypes.finfo(ml_dtypes.bfloat16).min)),
    ],
)
def test_masked_scores_are_the_types_lowest_finite_number(kind: str, lowest: float) -> None:
    model = attention_graph(kind)
    ExpandAttention()(model)
    value = model.graph.initializers["attention.lowest"].const_value
    assert value is not None
    assert np.isfinite(float(value.numpy()))
    assert float(value.numpy()) == lowest


def test_attention_of_unknown_type_is_refused_by_name() -> None:
    model = attention_graph()
    next(n for n in model.graph if n.name == "first").outputs[0].shape = None
    with pytest.raises(ValueError, match="first: the type of its output is unknown"):
        ExpandAttention()(model)


@pytest.mark.parametrize(
    ("kind", "decomposable"), [("float", True), ("float16", False), ("bfloat16", False)]
)
def test_tensorrt_copy_gets_the_narrow_mask_and_only_fp32_may_decompose(
    kind: str, decomposable: bool
) -> None:
    model = attention_graph(kind)
    assert AdaptAttention()(model).modified
    found = [n for n in model.graph if n.op_type == "Attention"]
    assert len(found) == 2
    for attention in found:
        assert present(attention.inputs[3]).name == "keys"
        assert ("TRT_decomposable" in attention.attributes) == decomposable
    assert "Expand" not in op_types(model)


def test_onnx_runtime_refuses_the_tensorrt_copy() -> None:
    """Guards the claim that the copy must not be the graph we run."""
    model = attention_graph()
    AdaptAttention()(model)
    failures = (
        ort.capi.onnxruntime_pybind11_state.Fail,
        ort.capi.onnxruntime_pybind11_state.InvalidGraph,
    )
    with pytest.raises(failures, match="TRT_decomposable"):
        run_model(model, inputs([3]))


@pytest.mark.parametrize("kind", ["float", "float16"])
def test_cuda_copy_has_key_lengths_instead_of_a_mask(kind: str) -> None:
    """What ONNX Runtime's CUDA provider asks of its flash kernel: no mask, opset 24."""
    model = attention_graph(kind)
    UseKeyLengths()(model)
    assert model.graph.opset_imports[""] == 24
    for attention in attentions(model, "else_branch"):
        *_, mask, past_key, past_value, lengths = attention.inputs
        assert (mask, past_key, past_value) == (None, None, None)
        assert present(present(lengths).producer()).op_type == "ReduceSum"
        assert set(attention.attributes) == {"q_num_heads", "kv_num_heads"}
    assert "Expand" not in op_types(model)
    assert op_types(model).count("ReduceSum") == 1


def attentions(model: ir.Model, branch: str) -> list[ir.Node]:
    """The one node of that branch of every If."""
    branches = [n.attributes[branch].as_graph() for n in model.graph if n.op_type == "If"]
    assert [[n.op_type for n in graph] for graph in branches] == [["Attention"]] * 2
    return [node for graph in branches for node in graph]


def test_cuda_copy_has_no_lengths_where_no_row_is_padded() -> None:
    """Lengths choose the kernel for decoding, which is tuned for few queries."""
    model = attention_graph()
    UseKeyLengths()(model)
    assert [len(attention.inputs) for attention in attentions(model, "then_branch")] == [3, 3]
    assert op_types(model).count("ReduceMin") == 1  # asked once per call


@pytest.mark.parametrize("kind", ["float", "float16"])
def test_cuda_copy_gives_the_same_with_and_without_lengths(kind: str) -> None:
    """The same rows alone, and beside a longer one that pads them."""
    model = attention_graph(kind)
    UseKeyLengths()(model)
    padded = inputs([4, 4, 6], np.float16 if kind == "float16" else np.float32)
    equal = {name: value[:2, :4] for name, value in padded.items()}
    assert equal["attention_mask"].all()
    np.testing.assert_allclose(
        run_model(model, equal), run_model(model, padded)[:2, :4], atol=2e-6, rtol=1e-3
    )


OTHERS = {
    "no attention": "y = Mul (q, q)",
    "another domain's attention": "y = com.example.Attention (q)",
}


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize(
    "make_pass", [UseContribAttention, ExpandAttention, AdaptAttention, UseKeyLengths]
)
def test_graph_without_the_pattern_is_left_alone(make_pass: Any, case: str) -> None:
    model = parse_graph(
        f"""
        <ir_version: 10, opset_import: ["" : 23, "com.example" : 1]>
        g (float[batch,sequence,4] q, int64[batch,sequence] attention_mask)
          => (float[batch,sequence,4] y) {{ {OTHERS[case]} }}
        """
    )
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert not make_pass()(model).modified
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
