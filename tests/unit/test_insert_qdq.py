"""INT8 in the graph: where Q/DQ stand, and that graph, integer kernels and formula agree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import runtimes.executors.ort
from calibration.quantise import weight_scale
from export.checkpoint.reader import Checkpoint
from export.graph.encoder import load_encoder
from export.graph.gemms import gemm_modules, gemm_nodes, work
from export.graph.insert_qdq import quantise_graph
from export.graph.precision_plan import GemmRange, PrecisionPlan
from export.graph.trace import trace
from export.graph.weights import Contents, write_weights
from export.lowering.pipelines import lower
from export.quantisation.sensitivity import TrialEncoder
from runtimes.choices import GraphKind, Precision
from runtimes.executors.ort import OrtRuntime
from runtimes.schemes import INT8, SCHEMES
from runtimes.text.tokens import Tokens
from tests.support import cosines, op_types, padded

TASK, TOKENS = "separation", 64
FC1 = "encoder.layers.1.mlp.fc1"
SCHEME = SCHEMES[Precision.INT8]
Write = Callable[[PrecisionPlan, str], Path]


@pytest.fixture(scope="module")
def trial(small: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> TrialEncoder:
    """The FP32 module of the random checkpoint on a padded batch."""
    folder = tmp_path_factory.mktemp("fp32")
    graph = trace(small.config, "float32", 32, TOKENS)
    write_weights(folder, graph.slots, Contents(small, small.adapter(TASK)), TOKENS)
    encoder = load_encoder(small.config, "float32", TOKENS, folder, graph.slots)
    batch = padded([40, 7, 23])
    return TrialEncoder(encoder, Tokens(batch["input_ids"], batch["attention_mask"]), INT8)


@pytest.fixture(scope="module")
def ranges(trial: TrialEncoder, small: Checkpoint) -> dict[str, GemmRange]:
    """Min-max ranges; half of the GEMMs are smoothed."""
    found = {}
    for index, name in enumerate(gemm_modules(small.config)):
        channel_max = np.abs(trial.rows(name, 10**6)).max(axis=0)
        found[name] = GemmRange(float(channel_max.max()), channel_max, 0.5 * (index % 2))
    return found


@pytest.fixture
def write(small: Checkpoint, tmp_path: Path) -> Write:
    """Writes the graphs of a plan and their weights."""

    def to_folder(plan: PrecisionPlan, dtype: str) -> Path:
        graph = quantise_graph(trace(small.config, dtype, 32, TOKENS), plan)
        for kind in GraphKind:
            proto = ir.to_proto(lower(graph.model(), kind))
            (tmp_path / f"{kind}.onnx").write_bytes(proto.SerializeToString())
        contents = Contents(small, small.adapter(TASK), plan=plan)
        write_weights(tmp_path, graph.slots, contents, TOKENS)
        return tmp_path

    return to_folder


def vectors(folder: Path, kind: GraphKind) -> np.ndarray:
    with OrtRuntime(folder / f"{kind}.onnx") as runtime:
        return np.asarray(runtime.run(padded([40, 7, 23]))["sentence_embedding"])


def test_four_gemms_of_each_layer_are_found_in_every_lowering(small: Checkpoint) -> None:
    graph = trace(small.config, "float16", 32, TOKENS)
    for kind in GraphKind:
        assert list(gemm_nodes(lower(graph.model(), kind))) == list(gemm_modules(small.config))


def test_shares_of_work_add_up(small: Checkpoint) -> None:
    modules = gemm_modules(small.config)
    assert work(modules, modules) == 1
    assert work(modules, [FC1]) == pytest.approx(1 / 2 * 2 / 8)  # of 3 + 1 + 2 + 2 parts a layer


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_only_the_plans_gemms_are_quantised(
    small: Checkpoint, ranges: dict[str, GemmRange], dtype: str
) -> None:
    plan = PrecisionPlan(SCHEME, dtype, {FC1: ranges[FC1]})
    model = quantise_graph(trace(small.config, dtype, 32, TOKENS), plan).model()
    before = op_types(trace(small.config, dtype, 32, TOKENS).model())
    after = op_types(model)
    assert after.count("QuantizeLinear") == 1
    assert after.count("DequantizeLinear") == 2
    single = dtype == "float16"  # one scale, and a Mul by the channels' shares of it
    assert len(after) == len(before) + 3 + single
    left, right = (v.producer() for v in gemm_nodes(model)[FC1].inputs if v is not None)
    assert left is not None
    assert right is not None
    assert (left.op_type, right.op_type) == ("DequantizeLinear", "DequantizeLinear")
    assert ("axis" in right.attributes) != single
    weights = model.graph.initializers
    assert weights[f"{FC1}.weight"].dtype == ir.DataType.INT8
    parts = {"weight_scale": () if single else (128,), "input_scale": ()}
    for part, shape in (parts | ({"channel_scale": (128,)} if single else {})).items():
        value = weights[f"{FC1}.{part}"]
        assert value.dtype is not None
        assert (str(value.dtype.numpy()), value.shape) == (dtype, ir.Shape(shape))


def test_residual_reads_what_was_there_before_smoothing(
    small: Checkpoint, ranges: dict[str, GemmRange]
) -> None:
    smoothed = GemmRange(1.0, ranges[FC1].channel_max, 0.5)
    plan = PrecisionPlan(SCHEME, "float32", {FC1: smoothed})
    model = quantise_graph(trace(small.config, "float32", 32, TOKENS), plan).model()
    mul = next(n for n in model.graph if n.name == f"{FC1}.smooth")
    exact = mul.inputs[0]
    assert exact is not None
    assert {use.node.op_type for use in exact.uses()} == {"Mul", "Add"}
    assert {use.node.op_type for use in mul.outputs[0].uses()} == {"QuantizeLinear"}


def test_plan_for_another_model_is_refused(small: Checkpoint, ranges: dict[str, GemmRange]) -> None:
    plan = PrecisionPlan(SCHEME, "float32", {"encoder.layers.7.mlp.fc1": ranges[FC1]})
    with pytest.raises(ValueError, match=r"no product of encoder\.layers\.7"):
        quantise_graph(trace(small.config, "float32", 32, TOKENS), plan)


def test_graph_integer_kernels_and_module_agree(
    trial: TrialEncoder, ranges: dict[str, GemmRange], write: Write
) -> None:
    """Three ways to the same numbers: Q/DQ, MatMulIntegerToFloat, and rounding in PyTorch."""
    folder = write(PrecisionPlan(SCHEME, "float32", ranges), "float32")
    expected = trial.vectors(ranges)
    for kind in (GraphKind.PORTABLE, GraphKind.ONNXRUNTIME, GraphKind.PRIMITIVE):
        assert cosines(vectors(folder, kind), expected).min() > 0.99999, kind
    assert cosines(expected, trial.exact).max() < 0.99999  # and it is INT8 that was compared


def test_fp16_elsewhere_agrees_too(
    trial: TrialEncoder, ranges: dict[str, GemmRange], write: Write
) -> None:
    folder = write(PrecisionPlan(SCHEME, "float16", ranges), "float16")
    for kind in (GraphKind.PORTABLE, GraphKind.ONNXRUNTIME):
        assert cosines(vectors(folder, kind), trial.vectors(ranges)).min() > 0.999, kind


def test_cpu_graph_has_an_integer_kernel_per_gemm(
    small: Checkpoint, ranges: dict[str, GemmRange]
) -> None:
    graph = quantise_graph(
        trace(small.config, "float32", 32, TOKENS), PrecisionPlan(SCHEME, "float32", ranges)
    )
    found = op_types(lower(graph.model(), GraphKind.ONNXRUNTIME))
    assert found.count("com.microsoft::MatMulIntegerToFloat") == len(ranges)
    assert found.count("MatMul") == 0
    assert found.count("Add") == 1  # of the embeddings; every bias is in a fused kernel


def test_vectors_do_not_depend_on_the_batch(ranges: dict[str, GemmRange], write: Write) -> None:
    """Static scales: a text alone, in a batch, padded or not gives the same vector."""
    folder = write(PrecisionPlan(SCHEME, "float32", ranges), "float32")
    batch = padded([40, 7, 23])
    with OrtRuntime(folder / "onnxruntime.onnx") as runtime:
        together = runtime.run(batch)["sentence_embedding"]
        for row, length in enumerate([40, 7, 23]):
            one = {name: value[row : row + 1, :length] for name, value in batch.items()}
            alone = runtime.run(one)["sentence_embedding"]
            assert cosines(alone, together[row : row + 1]).min() > 0.999999


def test_setting_for_cpus_without_vnni_gives_the_same_vectors(
    ranges: dict[str, GemmRange], write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(PrecisionPlan(SCHEME, "float32", ranges), "float32")
    kinds = (GraphKind.PORTABLE, GraphKind.ONNXRUNTIME)
    expected = [vectors(folder, kind) for kind in kinds]
    monkeypatch.setattr(runtimes.executors.ort, "has_vnni", lambda: False)
    for kind, before in zip(kinds, expected, strict=True):
        assert cosines(vectors(folder, kind), before).min() > 0.999999, kind


def test_weights_are_stored_in_int8_with_their_scales(
    small: Checkpoint, ranges: dict[str, GemmRange], trial: TrialEncoder, write: Write
) -> None:
    plan = PrecisionPlan(SCHEME, "float32", ranges)
    folder = write(plan, "float32")
    slots = {
        s.name: s for s in quantise_graph(trace(small.config, "float32", 32, TOKENS), plan).slots
    }
    slot = slots["encoder.layers.0.mixer.Wqkv.weight"]  # the first GEMM is not smoothed
    raw = (folder / slot.file).read_bytes()[slot.offset : slot.offset + slot.nbytes]
    stored = np.frombuffer(raw, np.int8).reshape(slot.shape)
    weight = trial.weight("encoder.layers.0.mixer.Wqkv")
    scale = weight_scale(weight, "float32", INT8)
    assert np.abs(stored).max(axis=0).min() == 127  # every channel uses its whole range
    assert np.abs(stored * scale - weight).max() <= 0.5001 * scale.max()
