"""SplitHeadsFirst and WidenAttention on the encoder's own graph, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from export.checkpoint.reader import Checkpoint
from export.graph.trace import trace
from export.lowering.pipelines import lower
from export.lowering.split_heads_first import SplitHeadsFirst
from export.lowering.widen_attention import WidenAttention
from runtimes.choices import Accumulation, GraphKind
from tests.support import (
    Array,
    cosines,
    first_output,
    graph_path,
    op_types,
    padded,
    parse_graph,
    present,
    write_graphs,
)

Lowered = Callable[..., tuple[Array, Array]]


@pytest.fixture(scope="module")
def lowered(small: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    """Vectors of the portable graph and of the same after some passes."""
    root = tmp_path_factory.mktemp("heads")

    def run(dtype: str, lengths: list[int], *passes: type) -> tuple[Array, Array]:
        folder = root / dtype
        if not folder.is_dir():
            write_graphs(folder, small, "classification", dtype)
        portable = graph_path(folder, GraphKind.PORTABLE)
        model = ir.load(portable)
        for make_pass in passes:
            assert make_pass()(model).modified
        changed: Path = folder / "changed.onnx"
        ir.save(model, changed)
        inputs = padded(lengths)
        return first_output(str(portable), inputs), first_output(str(changed), inputs)

    return run


@pytest.mark.parametrize("lengths", [[1], [9], [9, 9, 9], [12, 3, 1, 7]], ids=str)
def test_heads_split_first_are_the_same_function(lowered: Lowered, lengths: list[int]) -> None:
    portable, changed = lowered("float32", lengths, SplitHeadsFirst)
    np.testing.assert_allclose(changed, portable, atol=2e-6)


def test_wide_attention_is_as_close_to_fp32_as_the_half_one(lowered: Lowered) -> None:
    lengths = [40, 5, 1, 17]
    exact, _ = lowered("float32", lengths, SplitHeadsFirst)
    half, wide = lowered("float16", lengths, SplitHeadsFirst, WidenAttention)
    assert cosines(wide, exact).min() >= cosines(half, exact).min() - 1e-6
    assert not np.array_equal(wide, half)  # it is another arithmetic


def test_one_rotation_and_one_split_of_heads_a_layer(small: Checkpoint) -> None:
    model = trace(small.config, "float16", 32, 8192).model()
    SplitHeadsFirst()(model)
    attentions = [n for n in model.graph if n.op_type == "Attention"]
    assert len(attentions) == small.config.layers
    assert op_types(model).count("RotaryEmbedding") == small.config.layers
    assert all("q_num_heads" not in n.attributes for n in attentions)  # four dimensions say it


@pytest.mark.parametrize(("dtype", "widened"), [("float16", 1), ("bfloat16", 0), ("float32", 0)])
def test_only_fp16_attention_is_widened(small: Checkpoint, dtype: str, widened: int) -> None:
    model = trace(small.config, dtype, 32, 8192).model()
    assert WidenAttention()(model).modified == bool(widened)
    for attention in (n for n in model.graph if n.op_type == "Attention"):
        producers = [present(v).producer() for v in attention.inputs[:3]]
        casts = sum(p is not None and p.op_type == "Cast" for p in producers)
        assert casts == 3 * widened


def test_attention_of_another_shape_is_refused() -> None:
    model = parse_graph(
        """
        <ir_version: 10, opset_import: ["" : 23]>
        g (float[b,s,16] q, float[b,s,16] k, float[b,s,16] v) => (float[b,s,16] y)
        { [lonely] y = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v) }
        """
    )
    with pytest.raises(ValueError, match=r"lonely: its operands are not those of one Split"):
        SplitHeadsFirst()(model)


def test_attention_accumulates_in_fp32_unless_asked(small: Checkpoint) -> None:
    def casts(*accumulation: Accumulation) -> int:
        model = trace(small.config, "float16", 32, 8192).model()
        return op_types(lower(model, GraphKind.TENSORRT, *accumulation)).count("Cast")

    assert casts() == casts(Accumulation.FP32)
    assert casts() == casts(Accumulation.FP16) + 4 * small.config.layers
