"""Real TensorRT-RTX builds, ahead of time for a GPU that is not here."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import tensorrt_rtx_bindings as trt
from onnx import TensorProto, helper, numpy_helper
from tqdm import tqdm

import export.engines.builder
from export.checkpoint.reader import Checkpoint
from export.engines.builder import EngineSpec, build_engine, check_gpus
from export.engines.profiles import engine_profiles
from export.spec import Limits
from runtimes.choices import GraphKind, Target
from runtimes.errors import AdaptrtError, InputError
from runtimes.executors.tensorrt.library import load_tensorrt
from tests.support import graph_path, write_graphs

SPEC = EngineSpec(limits=Limits(), gpu="sm89", workspace=4 << 30)
TINY = EngineSpec(limits=Limits(max_batch=2, max_tokens=16), gpu="sm89", workspace=1 << 28)


@pytest.fixture(scope="module")
def fp32_graphs(original: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_graphs(tmp_path_factory.mktemp("fp32"), original, "classification", "float32")


def weights_size(folder: Path) -> int:
    (weights,) = folder.rglob("model.onnx_data")
    return weights.stat().st_size


def build(
    folder: Path, out: Path, spec: EngineSpec = SPEC, kind: GraphKind = GraphKind.TENSORRT
) -> bytes:
    build_engine(trt, graph_path(folder, kind), out / "engine", spec)
    return (out / "engine").read_bytes()


def test_fp16_bundle_holds_an_engine_with_its_weights(fp16_bundle: Path) -> None:
    engine = fp16_bundle / "encoder.sm89.engine"
    assert engine.stat().st_size > weights_size(fp16_bundle) / 2


def test_fp32_engine_builds_at_the_full_limits(fp32_graphs: Path, tmp_path: Path) -> None:
    assert len(build(fp32_graphs, tmp_path)) > weights_size(fp32_graphs) / 2


def test_bf16_engine_builds_at_the_full_limits(original: Checkpoint, tmp_path: Path) -> None:
    folder = write_graphs(tmp_path / "bf16", original, "separation", "bfloat16")
    assert len(build(folder, tmp_path)) > weights_size(folder) / 2


def test_fp32_attention_without_the_attribute_is_refused(fp32_graphs: Path, tmp_path: Path) -> None:
    """FP32 has no fused kernel; only TRT_decomposable lets the builder split the operator."""
    model = ir.load(graph_path(fp32_graphs, GraphKind.TENSORRT))
    found = [node for node in model.graph if node.op_type == "Attention"]
    for node in found:
        del node.attributes["TRT_decomposable"]
    assert found
    broken = graph_path(fp32_graphs, GraphKind.TENSORRT).with_name("without.onnx")
    broken.write_bytes(ir.to_proto(model).SerializeToString())
    with pytest.raises(AdaptrtError, match=r"built no engine for sm89: .*[Aa]ttention"):
        build_engine(trt, broken, tmp_path / "engine", SPEC)
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_primitive_graph_builds_too(small: Checkpoint, tmp_path: Path, dtype: str) -> None:
    folder = write_graphs(tmp_path / "small", small, "separation", dtype, 64)
    spec = EngineSpec(limits=Limits(max_batch=2, max_tokens=64), gpu="sm86", workspace=1 << 30)
    assert len(build(folder, tmp_path, spec, GraphKind.PRIMITIVE)) > 10_000


def tiny_graph(folder: Path, *nodes: onnx.NodeProto) -> Path:
    """A graph with the encoder's inputs; its last node gives ``sentence_embedding``."""
    shape = ["batch", "sequence"]
    graph = helper.make_graph(
        list(nodes),
        "broken",
        [
            helper.make_tensor_value_info(n, TensorProto.INT64, shape)
            for n in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones((3, 5), np.float32), "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    (folder / "broken.onnx").write_bytes(model.SerializeToString())
    return folder / "broken.onnx"


def cast(name: str) -> onnx.NodeProto:
    return helper.make_node("Cast", ["input_ids"], ["floats"], name=name, to=TensorProto.FLOAT)


@pytest.mark.parametrize(
    ("node", "name"),
    [
        (
            helper.make_node("Unheard", ["floats"], ["sentence_embedding"], name="layers.7.odd"),
            "layers.7.odd",
        ),
        (
            helper.make_node(
                "Softmax", ["floats"], ["sentence_embedding"], name="layers.8.axis", axis=9
            ),
            "layers.8.axis",
        ),
    ],
    ids=["unknown operator", "impossible attribute"],
)
def test_graph_the_parser_refuses_is_an_error_with_the_nodes_name(
    tmp_path: Path, node: onnx.NodeProto, name: str
) -> None:
    path = tiny_graph(tmp_path, cast("first"), node)
    with pytest.raises(AdaptrtError, match=rf"broken\.onnx: .*node {name} \({node.op_type}\)"):
        build_engine(trt, path, tmp_path / "engine", TINY)
    assert not (tmp_path / "engine").exists()


def test_graph_without_its_weights_is_an_error(tmp_path: Path, fp32_graphs: Path) -> None:
    lonely = tmp_path / "lonely.onnx"
    lonely.write_bytes(graph_path(fp32_graphs, GraphKind.TENSORRT).read_bytes())
    with pytest.raises(AdaptrtError, match=r"lonely\.onnx"):
        build_engine(trt, lonely, tmp_path / "engine", TINY)


def test_progress_bar_is_silent_where_there_is_no_terminal(
    small: Checkpoint, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_graphs(tmp_path / "small", small, "separation", "float16", 64)
    spec = EngineSpec(limits=Limits(max_batch=2, max_tokens=64), gpu="sm89", workspace=1 << 30)
    build(folder, tmp_path, spec)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.parametrize("moment", ["set_postfix_str", "update", "refresh"])
def test_interrupt_during_a_build_ends_it_without_an_engine(
    fp32_graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """TensorRT swallowed the KeyboardInterrupt, built on, and the bundle was published.

    The bar's methods are called where a phase starts, at each step and where a phase ends.
    """
    sent: list[int] = []

    class InterruptingBar(tqdm):  # type: ignore[misc]  # has no types here
        pass

    def interrupt(self: InterruptingBar, *arguments: object) -> object:
        if not sent:
            sent.append(1)
            signal.raise_signal(signal.SIGINT)
        return getattr(tqdm, moment)(self, *arguments)

    setattr(InterruptingBar, moment, interrupt)
    monkeypatch.setattr(export.engines.builder, "tqdm", InterruptingBar)
    # A shell that started the tests in the background has them ignore the signal.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            build(fp32_graphs, tmp_path)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert sent
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize(
    ("limits", "shapes"),
    [
        (Limits(), ((1, 1), (8, 256), (32, 8192))),
        (Limits(max_batch=1, max_tokens=16), ((1, 1), (1, 16), (1, 16))),
        (Limits(max_batch=4, max_tokens=512), ((1, 1), (4, 256), (4, 512))),
    ],
)
def test_profile_spans_one_to_the_limits(
    limits: Limits, shapes: tuple[tuple[int, int], ...]
) -> None:
    (profile,) = engine_profiles((), limits)
    assert (profile.min, profile.opt, profile.max) == shapes


@pytest.mark.parametrize("gpu", ["sm75", "sm80", "sm86", "sm89", "sm120", "sm121"])
def test_rtx_architectures_are_known(gpu: str) -> None:
    check_gpus(trt, (gpu,))


@pytest.mark.parametrize("gpu", ["sm70", "sm90", "sm100", "sm87"])
def test_other_architectures_are_refused(gpu: str) -> None:
    with pytest.raises(InputError, match=f"GPU: {gpu} is not one TensorRT-RTX"):
        check_gpus(trt, ("sm89", gpu))


def test_tensorrt_rtx_is_found_by_its_bindings() -> None:
    assert load_tensorrt(Target.TENSORRT_RTX).__version__ == trt.__version__
