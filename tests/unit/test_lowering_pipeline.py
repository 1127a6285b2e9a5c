"""The encoder's own graph, lowered for every executor: legal, readable, and the same function."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tensorrt_rtx_bindings as trt

from export.checkpoint.reader import Checkpoint
from export.graph.trace import trace
from export.lowering.pipelines import lower
from runtimes.choices import GraphKind
from runtimes.executors.tensorrt.library import make_logger
from tests.support import (
    Array,
    cosines,
    first_output,
    graph_path,
    op_types,
    padded,
    write_graphs,
)

STANDARD = ("Attention", "RotaryEmbedding", "LayerNormalization", "Gelu")
DTYPES = ("float32", "float16", "bfloat16")


@pytest.fixture(scope="module")
def graphs(small: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with all graphs of the small checkpoint, one per element type."""
    root = tmp_path_factory.mktemp("graphs")
    return {d: write_graphs(root / d, small, "classification", d) for d in DTYPES}


def vectors(path: Path, inputs: dict[str, Array]) -> Array:
    return first_output(str(path), inputs)


@pytest.mark.parametrize("op", STANDARD)
def test_portable_graph_keeps_single_standard_nodes(small: Checkpoint, op: str) -> None:
    model = trace(small.config, "float16", 32, 8192).model()
    per_layer = {"Attention": 1, "RotaryEmbedding": 2, "LayerNormalization": 2, "Gelu": 1}[op]
    expected = per_layer * small.config.layers + (op == "LayerNormalization")
    assert op_types(model).count(op) == expected
    assert set(model.graph.opset_imports) == {""}
    assert "Softmax" not in op_types(model)


@pytest.mark.parametrize("dtype", DTYPES)
def test_primitive_graph_is_legal_opset_20(graphs: dict[str, Path], dtype: str) -> None:
    path = graph_path(graphs[dtype], GraphKind.PRIMITIVE)
    onnx.checker.check_model(str(path), full_check=True)
    proto = onnx.load(str(path), load_external_data=False)
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", 20)]
    for node in proto.graph.node:
        schema = onnx.defs.get_schema(node.op_type, 20, node.domain)  # raises for a newer one
        assert schema.since_version <= 20


@pytest.mark.parametrize("kind", [GraphKind.PORTABLE, GraphKind.PRIMITIVE])
def test_checker_passes(graphs: dict[str, Path], kind: GraphKind) -> None:
    onnx.checker.check_model(str(graph_path(graphs["float16"], kind)), full_check=True)


@pytest.mark.parametrize("lengths", [[1], [9], [9, 9, 9], [12, 3, 1, 7]], ids=str)
@pytest.mark.parametrize(
    "kind", [GraphKind.ONNXRUNTIME, GraphKind.ONNXRUNTIME_CUDA, GraphKind.PRIMITIVE]
)
def test_lowered_graph_is_the_portable_one(
    graphs: dict[str, Path], kind: GraphKind, lengths: list[int]
) -> None:
    inputs = padded(lengths)
    portable = vectors(graph_path(graphs["float32"], GraphKind.PORTABLE), inputs)
    lowered = vectors(graph_path(graphs["float32"], kind), inputs)
    np.testing.assert_allclose(lowered, portable, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(lowered, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "kind", "least"),
    [
        ("float16", GraphKind.PORTABLE, 0.9999),
        ("float16", GraphKind.PRIMITIVE, 0.9999),
        ("float16", GraphKind.ONNXRUNTIME, 0.99999),
        ("float16", GraphKind.ONNXRUNTIME_CUDA, 0.9999),
        ("bfloat16", GraphKind.ONNXRUNTIME, 0.999),
    ],
)
def test_half_precision_graph_is_near_fp32(
    graphs: dict[str, Path], dtype: str, kind: GraphKind, least: float
) -> None:
    inputs = padded([30, 5, 1, 17])
    exact = vectors(graph_path(graphs["float32"], GraphKind.PORTABLE), inputs)
    assert cosines(vectors(graph_path(graphs[dtype], kind), inputs), exact).min() >= least


def test_onnx_runtime_copy_is_fused_down_to_contrib_nodes(small: Checkpoint) -> None:
    model = lower(trace(small.config, "float16", 32, 8192).model(), GraphKind.ONNXRUNTIME)
    ops = op_types(model)
    layers = small.config.layers
    assert ops.count("com.microsoft::SkipLayerNormalization") == 2 * layers
    assert ops.count("com.microsoft::BiasGelu") == layers
    assert ops.count("com.microsoft::RotaryEmbedding") == 2 * layers
    assert ops.count("If") == layers
    assert not {"Attention", "Gelu", "RotaryEmbedding"} & set(ops)
    assert ops.count("LayerNormalization") == 1  # the embeddings' own has no residual


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [GraphKind.TENSORRT, GraphKind.PRIMITIVE])
def test_real_tensorrt_rtx_parser_reads_it(
    graphs: dict[str, Path], dtype: str, kind: GraphKind
) -> None:
    logger = make_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(graph_path(graphs[dtype], kind))), logger.errors
    named = {network.get_input(i).name: network.get_input(i) for i in range(network.num_inputs)}
    assert named.keys() == {"input_ids", "attention_mask"}
    assert all(v.dtype == trt.int64 and tuple(v.shape) == (-1, -1) for v in named.values())
    assert network.num_outputs == 1
    assert network.get_output(0).name == "sentence_embedding"
    assert network.get_output(0).dtype == trt.float32


def test_real_tensorrt_rtx_parser_refuses_contrib_operators(graphs: dict[str, Path]) -> None:
    """Guards the test above: the parser does say no."""
    logger = make_logger(trt)
    network = trt.Builder(logger).create_network()
    parser = trt.OnnxParser(network, logger)
    assert not parser.parse_from_file(str(graph_path(graphs["float32"], GraphKind.ONNXRUNTIME)))


def test_lowering_does_not_change_the_cached_trace(small: Checkpoint) -> None:
    graph = trace(small.config, "float32", 32, 8192)
    before = graph.proto
    for kind in GraphKind:
        lower(graph.model(), kind)
    assert graph.proto == before
    assert op_types(graph.model()).count("Attention") == small.config.layers
