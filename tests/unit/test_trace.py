"""The traced graph: names, types, dynamic shapes, nothing of this machine, one trace for all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from export.checkpoint.names import POOLER
from export.checkpoint.reader import Checkpoint
from export.graph.trace import PortableGraph, trace
from export.graph.weights import layout
from runtimes.choices import GraphKind
from tests.support import (
    Array,
    first_output,
    graph_path,
    op_types,
    padded,
    present,
    write_graphs,
)

MAX_TOKENS = 8192


@pytest.fixture(scope="module")
def graph(small: Checkpoint) -> PortableGraph:
    return trace(small.config, "float16", 32, MAX_TOKENS)


def test_two_traces_give_the_same_bytes(small: Checkpoint, graph: PortableGraph) -> None:
    again = trace.__wrapped__(small.config, "float16", 32, MAX_TOKENS)
    assert again.proto == graph.proto
    assert again.slots == graph.slots


def test_graph_holds_nothing_of_this_machine(graph: PortableGraph) -> None:
    places = [
        "site-packages",
        "dist-packages",
        str(Path.home()),
        str(Path.cwd()),
        str(Path(__file__).parents[2]),
        str(Path(torch.__file__).parent),
        ".py",
        "stack_trace",
        "pytorch",
    ]
    found = [place for place in places if place.encode() in graph.proto]
    assert found == []


def test_inputs_and_output_are_named_typed_and_dynamic(graph: PortableGraph) -> None:
    proto = onnx.ModelProto.FromString(graph.proto)

    def described(value: onnx.ValueInfoProto) -> tuple[str, int, list[str | int]]:
        tensor = value.type.tensor_type
        return value.name, tensor.elem_type, [d.dim_param or d.dim_value for d in tensor.shape.dim]

    int64, float32 = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
    assert [described(v) for v in proto.graph.input] == [
        ("input_ids", int64, ["batch", "sequence"]),
        ("attention_mask", int64, ["batch", "sequence"]),
    ]
    assert [described(v) for v in proto.graph.output] == [
        ("sentence_embedding", float32, ["batch", 64])
    ]


def test_graph_carries_no_weights_only_where_they_will_lie(graph: PortableGraph) -> None:
    proto = onnx.ModelProto.FromString(graph.proto)
    outside = {
        t.name: {e.key: e.value for e in t.external_data}
        for t in proto.graph.initializer
        if t.data_location == onnx.TensorProto.EXTERNAL
    }
    assert outside.keys() == {slot.name for slot in graph.slots}
    for slot in graph.slots:
        place = outside[slot.name]
        assert place["location"] == "model.onnx_data"
        assert (int(place["offset"]), int(place["length"])) == (slot.offset, slot.nbytes)
    assert len(graph.proto) < 50_000


def test_slots_are_the_checkpoints_tensors_without_the_pooler(
    small: Checkpoint, graph: PortableGraph
) -> None:
    slots = {slot.name: slot for slot in graph.slots}
    assert graph.slots == layout({n: (s.dtype, s.shape) for n, s in slots.items()})
    assert not any(name.startswith(POOLER) for name in slots)
    assert slots["rope.cos"].shape == (MAX_TOKENS, small.config.head_dim // 2)
    stored = {name for name in slots if not name.startswith("rope.")}
    assert {small.read(name).size for name in stored} >= {16000 * 64, 64}
    for name in stored:
        assert small.read(name).size == np.prod(slots[name].shape), name


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_products_are_in_the_chosen_type_and_norms_in_fp32(small: Checkpoint, dtype: str) -> None:
    types = {slot.name: slot.dtype for slot in trace(small.config, dtype, 32, MAX_TOKENS).slots}
    assert types["encoder.layers.0.mixer.Wqkv.weight"] == dtype
    assert types["embeddings.word_embeddings.weight"] == dtype
    assert types["encoder.layers.1.norm2.weight"] == types["emb_ln.bias"] == "float32"


def test_masks_are_boolean(graph: PortableGraph) -> None:
    model = graph.model()
    masks = {present(n.inputs[3]).dtype for n in model.graph if n.op_type == "Attention"}
    assert masks == {ir.DataType.BOOL}


def test_nodes_are_named_by_their_weights_and_uniquely(graph: PortableGraph) -> None:
    names = [node.name for node in graph.model().graph]
    assert len(names) == len(set(names))
    assert "encoder.layers.1.mlp.fc2.MatMul" in names


def test_tasks_share_one_trace(small: Checkpoint) -> None:
    first = trace(small.config, "float16", 32, MAX_TOKENS)
    before = trace.cache_info().misses
    other = replace(small.config, tasks=("x",), prefixes={"x": "y"}, lora_rank=9, dimensions=(64,))
    assert trace(other, "float16", 32, MAX_TOKENS) is first
    assert trace.cache_info().misses == before


def test_smallest_limits_trace_too(small: Checkpoint) -> None:
    graph = trace(small.config, "float32", 1, 16)
    assert "Attention" in op_types(graph.model())


@pytest.fixture(scope="module")
def fp32(small: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_graphs(tmp_path_factory.mktemp("fp32"), small, "separation", "float32", MAX_TOKENS)


def run(folder: Path, inputs: dict[str, Array]) -> Array:
    return first_output(str(graph_path(folder, GraphKind.PORTABLE)), inputs)


@pytest.mark.parametrize("lengths", [[1], [7], [2, 7], [1, 1, 1], [512], [64, 3, 511]], ids=str)
def test_any_batch_gives_each_text_its_own_vector(fp32: Path, lengths: list[int]) -> None:
    inputs = padded(lengths)
    together = run(fp32, inputs)
    assert together.shape == (len(lengths), 64)
    assert together.dtype == np.float32
    for row, length in enumerate(lengths):
        alone = {name: value[row : row + 1, :length] for name, value in inputs.items()}
        np.testing.assert_allclose(run(fp32, alone)[0], together[row], atol=1e-6)
    assert len({vector.tobytes() for vector in together}) == len(lengths)


def test_order_of_the_tokens_matters(fp32: Path) -> None:
    """Without positions, mean pooling could not tell two orders apart."""
    inputs = padded([12])
    swapped = {n: v.copy() for n, v in inputs.items()}
    swapped["input_ids"][0, [2, 9]] = swapped["input_ids"][0, [9, 2]]
    assert np.abs(run(fp32, inputs) - run(fp32, swapped)).max() > 1e-4
