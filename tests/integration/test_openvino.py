"""Bundles for OpenVINO: built, compared, verified and run by the executor that users get."""

from __future__ import annotations

import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

import export.lowering.openvino_ir
from adaptrt import TritonEmbedder
from export.triton.server import serve
from runtimes.bundle_files import OPENVINO_FILE, OPENVINO_WEIGHTS
from runtimes.embedder import Embedder
from runtimes.errors import AdaptrtError, GateError, InputError, MissingError
from runtimes.executors import openvino_cpu
from runtimes.manifest import read_manifest
from runtimes.text.tokens import TruncationWarning
from tests.support import build, cosines, rehash, run_cli
from tests.triton_support import Served, server_spec

TEXTS = ["Guten Tag", "short", *(("word " * n).strip() for n in (3, 14, 15, 16, 31, 40))]
BF16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
needs_bf16 = pytest.mark.skipif(not BF16, reason="this CPU has no BF16")


def openvino(out: Path, folder: Path, *options: object, precision: str) -> int:
    return build(out, "--model", folder, "--target", "openvino", *options, precision=precision)


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory, small_folder: Path) -> Path:
    out = tmp_path_factory.mktemp("openvino")
    assert openvino(out, small_folder, "--max-tokens", 100, precision="fp32") == 0
    return out / "small" / "classification-fp32-openvino-t100"


@pytest.fixture(scope="module")
def chunks(tmp_path_factory: pytest.TempPathFactory, small_folder: Path) -> Path:
    out = tmp_path_factory.mktemp("openvino")
    options = ("--adapter", "switchable", "--head", "chunks", "--name", "chunks")
    assert openvino(out, small_folder, *options, precision="bf16" if BF16 else "fp32") == 0
    return out / "small" / "chunks"


def encoded(bundle: Path, runtime: str, texts: list[str] = TEXTS, **options: Any) -> Any:
    with Embedder.load(bundle, runtime=runtime) as embedder:
        return embedder.encode(texts, **options)


def test_triton_serves_what_openvino_computes(
    tmp_path: Path, chunks: Path, triton_environment: Path
) -> None:
    """By the Python encoder, which holds no graph for ONNX Runtime here."""
    assert run_cli("triton", "--bundle", chunks, "--out", tmp_path / "r") == 0
    (version,) = tmp_path.glob("r/encoder-*/1")
    held = {p.relative_to(version).as_posix() for p in version.glob("*/openvino_model.*")}
    assert held == {OPENVINO_FILE, OPENVINO_WEIGHTS}
    assert not [p for p in version.rglob("*") if "onnx" in p.suffix]
    assert (version / OPENVINO_WEIGHTS).samefile(chunks / OPENVINO_WEIGHTS)
    spec = server_spec(tmp_path / "r", triton_environment)
    with serve(spec, tmp_path / "log"), TritonEmbedder(Served(spec).url("grpc")) as client:
        served = client.encode(TEXTS, task="separation")
    assert cosines(served, encoded(chunks, "openvino", task="separation")).min() >= 0.99999
    assert cosines(served, encoded(chunks, "openvino", task="base")).max() < 0.99999


def test_tritons_openvino_backend_gets_the_graph_by_its_names(tmp_path: Path, chunks: Path) -> None:
    """It is not in the test server; this is what it reads, by its source."""
    done = run_cli("triton", "--bundle", chunks, "--out", tmp_path / "r", "--encoder", "openvino")
    assert done == (0 if BF16 else 2)
    if BF16:
        (version,) = tmp_path.glob("r/encoder-*/1")
        assert {p.name for p in version.iterdir()} == {"model.xml", "model.bin"}
        text = (version.parent / "config.pbtxt").read_text()
        config = text_format.Parse(text, pb.ModelConfig())
        graph = ov.Core().read_model(version / "model.xml")
        shapes = {t.any_name: t.partial_shape for t in (*graph.inputs, *graph.outputs)}
        for tensor in (*config.input, *config.output):
            assert shapes[tensor.name].compatible(ov.PartialShape(list(tensor.dims)))
        assert len(config.input) == len(graph.inputs)


def test_a_library_that_is_missing_is_said(chunks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delitem(sys.modules, "runtimes.executors.openvino_cpu")
    with pytest.raises(MissingError, match=r"adaptrt\[openvino\].*requirements\.txt"):
        Embedder.load(chunks, runtime="openvino")


def test_openvino_speaks_for_its_target(merged: Path) -> None:
    manifest = read_manifest(merged)
    assert manifest.parity is not None
    assert manifest.parity.executed == "openvino-cpu-f32"
    executed = {a.kind: a.executed for a in manifest.artifacts if a.executed}
    assert executed == {"openvino": "openvino-cpu-f32", "onnxruntime": "onnxruntime-cpu"}
    assert manifest.versions["openvino"] == ov.__version__.split("-")[0]


def test_weights_are_there_once(merged: Path) -> None:
    assert (merged / OPENVINO_WEIGHTS).samefile(merged / "onnx" / "model.onnx_data")


def test_vectors_are_those_of_the_other_executor(merged: Path) -> None:
    """Lengths on both sides of a multiple of 16, alone and together."""
    ours = encoded(merged, "openvino")
    np.testing.assert_allclose(ours, encoded(merged, "onnxruntime"), atol=2e-6)
    alone = np.concatenate([encoded(merged, "openvino", [text]) for text in TEXTS])
    np.testing.assert_allclose(ours, alone, atol=2e-6)


def test_padding_stops_at_the_longest_text(merged: Path) -> None:
    """100 tokens are no multiple of 16, and RoPE's tables end there."""
    text = ["word " * 500]
    with pytest.warns(TruncationWarning):
        ours = encoded(merged, "openvino", text)
    with pytest.warns(TruncationWarning):
        other = encoded(merged, "onnxruntime", text)
    np.testing.assert_allclose(ours, other, atol=2e-6)


def test_tasks_mix_and_chunks_are_pooled(chunks: Path) -> None:
    tasks = ["separation", "base"] * (len(TEXTS) // 2)
    ours, other = (encoded(chunks, r, task=tasks) for r in ("openvino", "onnxruntime"))
    assert (ours * other).sum(axis=1).min() > 0.999
    assert (ours * other[::-1]).sum(axis=1).max() < 0.999  # the texts' vectors do differ
    document = " ".join(TEXTS)
    vectors = []
    for runtime in ("openvino", "onnxruntime"):
        with Embedder.load(chunks, runtime=runtime) as embedder:
            vectors.append(embedder.encode_chunks(document, chunk_tokens=20, task="base").vectors)
    assert (vectors[0] * vectors[1]).sum(axis=1).min() > 0.999


@needs_bf16
def test_type_of_products_is_said_and_made(chunks: Path) -> None:
    with Embedder.load(chunks, runtime="openvino") as embedder:
        assert embedder.runtime.name == "openvino-cpu-bf16"


@needs_bf16
def test_unasked_openvino_takes_bf16(merged: Path) -> None:
    """Why the hint is always given: this is its own default for an FP32 model."""
    core = ov.Core()
    compiled = core.compile_model(core.read_model(merged / OPENVINO_FILE), "CPU")
    assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "bf16"
    assert openvino_cpu._settings("f32", None)["INFERENCE_PRECISION_HINT"] == "f32"


def test_gate_is_openvinos_own(
    tmp_path: Path,
    small_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A mask that masks nothing is in the IR alone: ONNX Runtime's graph is right."""
    monkeypatch.setattr(export.lowering.openvino_ir, "_MASKED", 0.0)
    assert openvino(tmp_path, small_folder, precision="fp32") == 3
    assert "parity failed for openvino" in capsys.readouterr().err
    assert not (tmp_path / "small" / "classification-fp32-openvino").exists()


def test_threads_share_an_embedder(merged: Path) -> None:
    with Embedder.load(merged, runtime="openvino") as embedder:
        expected = embedder.encode(TEXTS)
        with ThreadPoolExecutor(8) as pool:
            for vectors in pool.map(lambda _: embedder.encode(TEXTS), range(16)):
                np.testing.assert_array_equal(vectors, expected)


def test_a_bundle_for_something_else_is_refused(small_bundle: Path) -> None:
    with pytest.raises(InputError, match="build one with TARGET=openvino"):
        Embedder.load(small_bundle, runtime="openvino")


def _replace(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


def _unreadable(folder: Path) -> None:
    _replace(folder / OPENVINO_FILE, "<net ", "<not ")
    rehash(folder)


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda folder: (folder / OPENVINO_WEIGHTS).unlink(), "no such file"),
        (_unreadable, "cannot load it"),
    ],
    ids=["weights", "graph"],
)
def test_damaged_files_are_named(merged: Path, tmp_path: Path, damage: Any, error: str) -> None:
    folder = shutil.copytree(merged, tmp_path / "copy")
    damage(folder)
    with pytest.raises(AdaptrtError, match=error):
        Embedder.load(folder, runtime="openvino")


def test_a_graph_that_is_not_the_one_that_was_checked_is_refused(
    merged: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(merged, tmp_path / "copy")
    _replace(folder / OPENVINO_FILE, "<net ", "<not ")
    with pytest.raises(GateError, match="the manifest recorded"):
        Embedder.load(folder, runtime="openvino")


class _Core:
    """OpenVINO on a CPU with some capabilities only."""

    def __init__(self, *capabilities: str) -> None:
        self.capabilities = capabilities

    def get_property(self, *_: str) -> tuple[str, ...]:
        return self.capabilities


def test_cpu_without_the_types_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    small_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By the executor, and by a build before any work."""
    monkeypatch.setattr(ov, "Core", lambda: _Core("FP32", "INT8"))
    openvino_cpu.require_types("f32", integer_products=True)
    with pytest.raises(MissingError, match="no BF16"):
        openvino_cpu.require_types("bf16", integer_products=False)
    assert openvino(tmp_path, small_folder, precision="bf16") == 4
    assert "this CPU has no BF16" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(openvino_cpu, "has_vnni", lambda: False)
    openvino_cpu.require_types("f32", integer_products=False)
    with pytest.raises(MissingError, match="no VNNI"):
        openvino_cpu.require_types("f32", integer_products=True)


@pytest.mark.parametrize(
    ("found", "quantised"),
    [({"f32": 24}, 0), ({"bf16": 24}, 24), ({"i8": 23, "bf16": 1}, 24), ({"i8": 24}, 23), ({}, 0)],
)
def test_products_in_another_type_are_refused(found: dict[str, int], quantised: int) -> None:
    openvino_cpu._require_products({"i8": quantised, "bf16": 2}, "bf16", quantised)
    with pytest.raises(AdaptrtError, match="compiled products"):
        openvino_cpu._require_products(found, "bf16", quantised)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--precision", "fp32", "--rest", "bf16"), "REST=bf16"),
        (("--precision", "int8", "--rest", "fp16"), "REST=fp16"),
        (("--precision", "int8", "--rest", "best"), "REST: got 'best'"),
        (("--precision", "fp8"), "multiplies no FP8"),
        (("--precision", "fp32", "--adapter", "slot"), "add TARGET=onnxruntime"),
    ],
    ids=["nothing-quantised", "fp16", "unknown", "fp8", "slot"],
)
def test_choices_that_do_not_go_together(
    options: tuple[str, ...],
    error: str,
    tmp_path: Path,
    small_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:

    place = ("--model", small_folder, "--out", tmp_path)
    assert run_cli("engine", *place, "--target", "openvino", *options) == 2
    assert error in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
