"""The gate computes what the engine computes: real plans, emulated, of the trained sample.

A twelfth of the held-back texts and all pairs, at the thresholds that ship.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import export.gate.texts
from calibration.corpus import held_back
from calibration.evidence import Loss
from calibration.table import read_calibration
from export.checkpoint.reader import Checkpoint
from export.engines.builder import EngineSpec, build_engine
from export.engines.plan import Plan
from export.engines.plan_file import Plans, bundle_plans
from export.gate.emulated import LABEL, judge_engines
from export.gate.gate import Reference, judge
from export.gate.texts import gate_texts
from export.graph.insert_qdq import quantise_graph
from export.graph.precision_plan import PrecisionPlan
from export.graph.trace import trace
from export.graph.weights import Contents, write_weights
from export.lowering.adapt_attention import AdaptAttention
from export.quantisation.fallback import quantise_everything
from export.spec import Limits
from runtimes.bundle_files import GRAPH_FILES, PLACES
from runtimes.choices import GraphKind, Layout, Precision, Target
from runtimes.executors.tensorrt.library import load_tensorrt
from runtimes.manifest import Manifest, read_manifest
from runtimes.open import EXECUTORS
from runtimes.schemes import SCHEMES
from runtimes.text.tokenizer_file import load_tokenizer
from tests.support import run_cli

ENGINE, TOKENS, TASK = "encoder.sm89.engine", 256, "retrieval.query"
SIZES = ("--max-tokens", TOKENS, "--parity-tokens", 64, "--calibration-texts", 24)
INT8 = SCHEMES[Precision.INT8]


@pytest.fixture(scope="module", autouse=True)
def few_texts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export.gate.texts, "held_back", lambda: held_back()[::12])
        yield


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An INT8 bundle with an engine."""
    out = tmp_path_factory.mktemp("emulated")
    options = ("--target", "tensorrt_rtx", "--gpu", "sm89", "--precision", "int8", *SIZES)
    assert run_cli("engine", *options, "--task", TASK, "--out", out) == 0
    return out / "sample" / f"{TASK}-int8-t{TOKENS}"


@pytest.fixture(scope="module")
def manifest(bundle: Path) -> Manifest:
    return read_manifest(bundle)


@pytest.fixture(scope="module")
def reference(bundle: Path, manifest: Manifest) -> Reference:
    """As the bundle recorded it."""
    texts = gate_texts(manifest, load_tokenizer(bundle, manifest), 64)
    return Reference(texts=texts, vectors=np.load(bundle / "reference.npy"), name="recorded")


def test_engine_passes_emulated(bundle: Path, manifest: Manifest) -> None:
    parity = json.loads((bundle / "parity.json").read_text())
    assert parity["emulation"] == {ENGINE: [LABEL]}
    assert LABEL in parity["executors"]
    for label in (LABEL, f"{LABEL}, 32 dimensions"):
        report = parity["graphs"][label]
        assert report["executed"] == "torch-cpu-emulated-engine"
        assert report["min_cosine"] >= report["threshold"] == INT8.min_cosine
        assert report["mean_cosine"] >= report["mean_threshold"] == INT8.mean_cosine
        assert all(Loss(**loss).allowed for loss in parity["quantisation"]["losses"][label])
    assert manifest.quantisation is not None
    assert manifest.quantisation.share == 1.0  # nothing had to fall back
    executed = {file.path: file.executed for file in manifest.artifacts}
    assert executed[PLACES[Layout.HUB].path(GraphKind.TENSORRT)] == "torch-cpu-emulated-engine"
    assert executed[ENGINE] is None


def test_report_and_verify_name_it(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert LABEL in (bundle / "report.html").read_text()
    assert run_cli("verify", "--bundle", bundle) == 0
    expected = f"{LABEL}: not run, it was executed by torch-cpu-emulated-engine"
    assert expected in capsys.readouterr().out


def emulated_failure(
    folder: Path, manifest: Manifest, reference: Reference, plans: Plans
) -> str | None:
    tokenizer = load_tokenizer(folder, manifest)
    verdict = judge_engines(folder, manifest, tokenizer, reference, plans)
    assert verdict is not None
    return verdict.failure


def test_emulation_without_the_factor_does_not_pass(
    bundle: Path, manifest: Manifest, reference: Reference
) -> None:
    def ignored(plan: Plan) -> Plan:
        kernels = (replace(k, alpha=None if k.alpha is None else 1.0) for k in plan.kernels)
        return replace(plan, kernels=tuple(kernels))

    plans = bundle_plans(bundle, manifest)
    assert emulated_failure(bundle, manifest, reference, plans) is None
    without = {engine: tuple(map(ignored, own)) for engine, own in plans.items()}
    failure = emulated_failure(bundle, manifest, reference, without)
    assert failure is not None
    assert "overflow: encoder.layers.0." in failure


def write_former_lowering(folder: Path, checkpoint: Checkpoint) -> Plans:
    """Graphs as they were until 2026-11-28, over a bundle's, and their engine.

    A weight has a scale per channel, in Half, and Q, K and V are one product that is split.
    """
    calibration = read_calibration(folder / "calibration.json")
    precision = quantise_everything(calibration, INT8, "float16")
    graph = quantise_graph(trace(checkpoint.config, "float16", 32, TOKENS), precision)
    for kind in (GraphKind.PORTABLE, GraphKind.TENSORRT):
        model = graph.model()
        if kind is GraphKind.TENSORRT:
            AdaptAttention()(model)
        ir.save(model, folder / GRAPH_FILES[kind])
    contents = Contents(checkpoint, checkpoint.adapter(TASK), plan=precision)
    write_weights(folder, graph.slots, contents, TOKENS)
    spec = EngineSpec(limits=Limits(max_batch=32, max_tokens=TOKENS), gpu="sm89", workspace=8 << 30)
    trt = load_tensorrt(Target.TENSORRT_RTX)
    built = build_engine(trt, folder / GRAPH_FILES[GraphKind.TENSORRT], folder / ENGINE, spec)
    return {ENGINE: built.plans}


def test_bare_sums_in_half_fail_where_the_graph_passes(
    bundle: Path,
    manifest: Manifest,
    reference: Reference,
    original: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a GPU every vector would have been NaN."""
    monkeypatch.setattr(PrecisionPlan, "has_shares", False)
    folder = Path(shutil.copytree(bundle, tmp_path / "former"))
    plans = write_former_lowering(folder, original)
    tokenizer = load_tokenizer(folder, manifest)
    graph = judge(folder, manifest, tokenizer, reference, [EXECUTORS["portable"]])
    assert graph.failure is None
    assert graph.main.mean_cosine > 0.9995
    failure = emulated_failure(folder, manifest, reference, plans)
    assert failure is not None
    assert failure.startswith(f"parity failed for {LABEL}: minimum cosine nan")
    overflow = r"overflow: encoder\.layers\.0\.mixer\.out_proj\.MatMul: .*% of its sums are beyond"
    assert re.search(overflow, failure)
