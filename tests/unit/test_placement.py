"""No heavy node may run on the CPU where a GPU was asked for: ONNX Runtime says nothing of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from export.checkpoint.reader import Checkpoint
from export.graph.trace import trace
from export.lowering.pipelines import lower
from runtimes.choices import Device, GraphKind
from runtimes.errors import MissingError
from runtimes.executors.ort import OrtRuntime
from runtimes.executors.placement import HEAVY, RECORDED, require_placed
from tests.support import graph_path, op_types, parse_graph, write_graphs

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# Operators of the graphs that may run anywhere: shapes, masks, pooling's sums, ids and weights'
# types. What is cast or added element by element follows the heavy nodes around it.
LIGHT = {
    *("Add", "Cast", "Clip", "Concat", "Div", "Equal", "Expand", "Gather", "If", "Mul", "Range"),
    *("ReduceL2", "ReduceMin", "ReduceSum", "Reshape", "Shape", "Split", "Squeeze", "Unsqueeze"),
}


def assignments(graph: bytes | Path) -> Any:
    options = ort.SessionOptions()
    options.add_session_config_entry(RECORDED, "1")
    session = ort.InferenceSession(graph, sess_options=options, providers=[CPU])
    return session.get_provider_graph_assignment_info()


def branched() -> bytes:
    """A product inside an If, and light nodes around it."""
    model = parse_graph(
        """
        <ir_version: 10, opset_import: ["" : 23]>
        g (float[N,4] x, bool c) => (float[N,4] y) {
            y = If (c) <
                then_branch = t () => (float[N,4] p) { p = MatMul (x, w) },
                else_branch = e () => (float[N,4] q) { q = Identity (x) }>
        }
        """,
        w=np.eye(4, dtype=np.float32),
    )
    return bytes(ir.to_proto(model).SerializeToString())


def test_heavy_node_elsewhere_is_refused_also_inside_a_branch() -> None:
    """What the provider here says of itself, with another one asked for."""
    with pytest.raises(MissingError, match=f"{CUDA} has no kernel .*: 1 MatMul on {CPU}; build"):
        require_placed(assignments(branched()), CUDA)


def test_own_nodes_and_light_ones_elsewhere_are_accepted() -> None:
    require_placed(assignments(branched()), CPU)
    model = parse_graph(
        """
        <ir_version: 10, opset_import: ["" : 23]>
        g (int64[N,4] x) => (int64[2] y) { y = Shape (x) }
        """
    )
    require_placed(assignments(bytes(ir.to_proto(model).SerializeToString())), CUDA)


def test_every_node_of_the_gpus_graph_is_known_as_heavy_or_light(small: Checkpoint) -> None:
    """A new operator has to be put on one of the lists."""
    model = lower(trace(small.config, "float16", 32, 8192).model(), GraphKind.ONNXRUNTIME_CUDA)
    found = {op.rpartition("::")[2] for op in op_types(model)} | {"Attention"}
    assert found - HEAVY - LIGHT == set()
    assert {"MatMul", "LayerNormalization", "Gelu", "RotaryEmbedding", "Attention"} <= found


def test_all_attentions_of_the_gpus_graph_are_seen(small: Checkpoint, tmp_path: Path) -> None:
    """With and without lengths, in each layer; so a provider without the kernel is refused."""
    folder = write_graphs(tmp_path, small, "separation", "float32", 64)
    path = graph_path(folder, GraphKind.ONNXRUNTIME_CUDA)
    with pytest.raises(MissingError, match=f"{2 * small.config.layers} Attention on {CPU}"):
        require_placed(assignments(path), CUDA)


class Session:
    """ONNX Runtime's session where a GPU is, as far as one is opened here."""

    calls: list[str]

    def __init__(self, graph: Any, *, sess_options: Any, providers: list[str]) -> None:
        assert sess_options.get_session_config_entry(RECORDED) == "1"
        self.calls.append("session")
        self._real = ort_session(graph, sess_options=sess_options, providers=[CPU])

    def get_providers(self) -> list[str]:
        return [CUDA, CPU]

    def get_provider_graph_assignment_info(self) -> Any:
        return self._real.get_provider_graph_assignment_info()


ort_session = ort.InferenceSession


def test_cuda_session_loads_pips_libraries_first_and_is_refused_with_a_product_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """CUDA and cuDNN from pip were not found; what is said of it stays off standard output."""
    calls: list[str] = []

    def preload() -> None:
        print("Failed to load libcudnn.so.9", file=sys.stdout)
        calls.append("preload")

    monkeypatch.setattr(Session, "calls", calls, raising=False)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(ort, "preload_dlls", preload)
    monkeypatch.setattr(ort, "InferenceSession", Session)
    with pytest.raises(MissingError, match=f"1 MatMul on {CPU}"):
        OrtRuntime(branched(), device=Device.CUDA)
    assert calls == ["preload", "session"]
    assert capsys.readouterr() == ("", "Failed to load libcudnn.so.9\n")


def test_cpu_session_records_nothing_and_preloads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("CUDA's libraries are for CUDA")

    monkeypatch.setattr(ort, "preload_dlls", refuse)
    with OrtRuntime(branched()) as runtime:
        outputs = runtime.run({"x": np.ones((1, 4), np.float32), "c": np.array(True)})
    assert outputs["y"].tolist() == [[1, 1, 1, 1]]
