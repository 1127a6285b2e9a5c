"""What a new precision costs: a member, a row, its arithmetic. E5M2 tries it, unpublished."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

import calibration.quantise
from calibration.quantise import (
    Matrix,
    fake_quantise,
    magnitudes,
    quantise,
    stored_scale,
    weight_scale,
)
from export.checkpoint.reader import Checkpoint
from export.graph.encoder import load_encoder
from export.graph.gemms import gemm_modules
from export.graph.insert_qdq import quantise_graph
from export.graph.precision_plan import GemmRange, PrecisionPlan
from export.graph.trace import trace
from export.graph.weights import Contents, write_weights
from export.lowering.pipelines import lower
from export.quantisation.sensitivity import TrialEncoder
from runtimes.choices import GraphKind, Precision
from runtimes.executors.ort import OrtRuntime
from runtimes.schemes import SCHEMES, Storage
from runtimes.text.tokens import Tokens
from tests.support import Array, cosines, op_types, padded

E5M2 = Storage(dtype="float8_e5m2", levels=57344)
SCHEME = replace(SCHEMES[Precision.INT8], storage=E5M2, integer_products=False)
TASK, TOKENS = "separation", 64
BATCH = padded([40, 7, 23])


def to_e5m2(steps: Matrix) -> Array:
    return np.clip(steps, -57344, 57344).astype(ml_dtypes.float8_e5m2)


@pytest.fixture(autouse=True)
def arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row of ``calibration/quantise.py``."""
    rounding = dict(calibration.quantise._ROUND) | {E5M2.dtype: to_e5m2}
    monkeypatch.setattr(calibration.quantise, "_ROUND", rounding)


def test_values_keep_two_bits_of_their_mantissa() -> None:
    values = np.array([1.0, 1.06, 57344.0, 1e6, -2.3], np.float32)
    scale = stored_scale(57344.0, "float32", E5M2)
    assert scale == 1
    assert fake_quantise(values, scale, E5M2).tolist() == [1.0, 1.0, 57344.0, 57344.0, -2.5]
    weight = np.diag(np.arange(1, 5)).astype(np.float32)
    scales = weight_scale(weight, "float32", E5M2)
    assert scales.shape == (4,)
    assert quantise(weight, scales, E5M2).astype(float).max() == 57344
    assert magnitudes(E5M2)[-2:].tolist() == [49152, 57344]


@pytest.fixture
def folder(small: Checkpoint, tmp_path: Path) -> Path:
    """Every kind of graph and the weights, all GEMMs quantised; one of them is smoothed."""
    graph = trace(small.config, "float32", 32, TOKENS)
    write_weights(tmp_path, graph.slots, Contents(small, small.adapter(TASK)), TOKENS)
    encoder = load_encoder(small.config, "float32", TOKENS, tmp_path, graph.slots)
    trial = TrialEncoder(encoder, Tokens(BATCH["input_ids"], BATCH["attention_mask"]), E5M2)
    ranges = {}
    for index, name in enumerate(gemm_modules(small.config)):
        channel_max = np.abs(trial.rows(name, 10**6)).max(axis=0)
        ranges[name] = GemmRange(float(channel_max.max()), channel_max, 0.5 * (index == 1))
    np.save(tmp_path / "formula.npy", trial.vectors(ranges))
    np.save(tmp_path / "exact.npy", trial.exact)
    plan = PrecisionPlan(SCHEME, "float32", ranges)
    quantised = quantise_graph(graph, plan)
    for kind in GraphKind:
        proto = ir.to_proto(lower(quantised.model(), kind))
        (tmp_path / f"{kind}.onnx").write_bytes(proto.SerializeToString())
    contents = Contents(small, small.adapter(TASK), plan=plan)
    write_weights(tmp_path, quantised.slots, contents, TOKENS)
    return tmp_path


def test_graphs_compute_what_the_formula_says(folder: Path) -> None:
    formula, exact = np.load(folder / "formula.npy"), np.load(folder / "exact.npy")
    for kind in (GraphKind.PORTABLE, GraphKind.ONNXRUNTIME, GraphKind.PRIMITIVE):
        with OrtRuntime(folder / f"{kind}.onnx", integer_products=False) as runtime:
            ours = runtime.run(BATCH)["sentence_embedding"]
        assert cosines(ours, formula).min() > 0.9999, kind
        assert 1e-5 < 1 - cosines(ours, exact).min() < 0.05, kind  # it is quantised


def test_integer_kernels_are_for_int8_alone(folder: Path) -> None:
    model = ir.load(folder / f"{GraphKind.ONNXRUNTIME}.onnx")
    assert not [op for op in op_types(model) if "Integer" in op]
    stored = [v for n, v in model.graph.initializers.items() if n.endswith("fc1.weight")]
    assert {v.dtype for v in stored} == {ir.DataType.FLOAT8E5M2}
