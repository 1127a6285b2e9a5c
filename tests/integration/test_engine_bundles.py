"""Bundles with engines by length, engines without weights, and bundles for a device."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorrt_rtx_bindings as rtx

import export.build.inputs
import export.build.staged
import runtimes.executors.tensorrt.runtime
from adaptrt import Embedder
from export.bundle.staging import check_hashes
from export.checkpoint.reader import Checkpoint
from export.engines.builder import BuiltEngine, EngineSpec, build_engine
from export.engines.gpus import GPUS
from export.engines.plan import Kernel, KernelKind, Plan, PlanTensor
from export.engines.plan_file import bundle_plans
from export.engines.predict import EFFICIENCY, PREDICTED, predict
from export.engines.predicted_times import predicted_times
from export.engines.traffic import Workload
from export.spec import Limits
from runtimes.choices import GraphKind
from runtimes.errors import AdaptrtError, InputError, MissingError
from runtimes.executors.tensorrt.cuda import Cuda
from runtimes.manifest import Manifest, read_manifest
from tests.support import build, edit_json, graph_path, listing, run_cli, write_graphs
from tests.unit.fake_cuda import FakeCuda
from tests.unit.fake_tensorrt import Scenario, fake_module

PLAN = b"an engine without weights"
MEMORY = (4096,)
COMPILED = Plan(
    builder="tensorrt_rtx 1.7.1",
    gpu="sm89",
    kernels=(
        Kernel(
            name="_gemm_mha_v2_myl0_1",
            kind=KernelKind.GENERATED,
            layer=0,
            inputs=(PlanTensor(name="mask", shape=(-1, 1, 1, -1), type="Half"),),
            accumulator="Float",
        ),
    ),
)


@pytest.fixture(scope="module")
def graphs(small: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_graphs(tmp_path_factory.mktemp("graphs"), small, "separation", "float16", 2048)


def test_engine_with_two_profiles_takes_less_memory_for_each(graphs: Path, tmp_path: Path) -> None:
    """Memory by profile is what the real builder reports, ahead of time."""
    spec = EngineSpec(limits=Limits(max_tokens=2048), gpu="sm89", workspace=4 << 30)
    graph = graph_path(graphs, GraphKind.TENSORRT)
    named = replace(spec, profiles=("short", "long"))
    one = build_engine(rtx, graph, tmp_path / "one", spec).memory
    built = build_engine(rtx, graph, tmp_path / "two", named)
    two = built.memory
    assert one is not None
    assert two is not None
    assert (len(one), len(two)) == (1, 2)
    assert 0 < max(two) < one[0] / 2
    assert [len(plan.attentions) for plan in built.plans] == [2, 2]
    assert [len(plan.products) for plan in built.plans] == [8, 8]


def test_tensorrt_rtx_builds_no_refittable_engine_without_a_gpu(
    graphs: Path, tmp_path: Path
) -> None:
    """Why --refittable asks for a GPU. When this fails, the check can go."""
    spec = EngineSpec(
        limits=Limits(max_tokens=2048), gpu="sm89", workspace=4 << 30, refittable=True
    )
    with pytest.raises(AdaptrtError, match=r"built no engine for sm89: .*Myelin"):
        build_engine(rtx, graph_path(graphs, GraphKind.TENSORRT), tmp_path / "engine", spec)
    assert not (tmp_path / "engine").exists()


def test_refittable_without_a_gpu_is_a_missing_piece(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], small_folder: Path
) -> None:
    options = (
        "engine",
        "--model",
        small_folder,
        "--target",
        "tensorrt_rtx",
        "--refittable",
        "--out",
        tmp_path / "out",
    )
    assert run_cli(*options) == 4
    assert "--refittable: TensorRT compiles" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("more", [("--adapter", "switchable"), ("--target", "onnxruntime")])
def test_refittable_is_for_engines_of_merged_adapters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, str]
) -> None:
    options = ("engine", "--target", "tensorrt_rtx", "--refittable", "--out", tmp_path, *more)
    assert run_cli(*options) == 2
    assert "--refittable: is for engines of merged adapters" in capsys.readouterr().err


def test_refittable_is_not_for_int8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Refused before the calibration, which takes minutes, and whether or not a GPU is there."""
    options = ("engine", "--target", "tensorrt_rtx", "--refittable", "--out", tmp_path)
    assert run_cli(*options, "--precision", "int8") == 2
    message = capsys.readouterr().err
    assert "--refittable: PRECISION=int8 has one task's scales in its graph" in message
    assert "use fp32 or fp16 or bf16" in message
    assert listing(tmp_path) == {}


@pytest.fixture
def stripped_builds(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A GPU that is said to be there, and a builder that writes a short engine."""
    built: list[Path] = []

    def build(trt: Any, graph: Path, out: Path, spec: EngineSpec) -> BuiltEngine:
        assert spec.refittable
        out.write_bytes(PLAN)
        built.append(out)
        return BuiltEngine(memory=MEMORY, plans=(COMPILED,))

    monkeypatch.setattr(export.build.inputs, "device_sm", lambda: "sm89")
    monkeypatch.setattr(export.build.staged, "build_engine", build)
    return built


Build = Callable[..., int]


@pytest.fixture
def refittable(small_folder: Path, tmp_path: Path, stripped_builds: list[Path]) -> Path:
    code = run_cli(
        "engine",
        "--model",
        small_folder,
        "--target",
        "tensorrt_rtx",
        "--gpu",
        "sm89",
        "--precision",
        "fp32",
        "--parity-tokens",
        64,
        "--max-tokens",
        64,
        "--task",
        "separation",
        "--refittable",
        "--out",
        tmp_path,
    )
    assert code == 0
    return tmp_path / "small" / "separation-fp32-refittable-t64"


def refit(bundle: Path, model: Path, task: str, *more: object) -> int:
    return run_cli(
        "refit", "--engine", bundle, "--model", model, "--task", task, "--parity-tokens", 64, *more
    )


def engine_of(manifest: Manifest) -> Any:
    return next(a for a in manifest.artifacts if a.gpu is not None)


def test_refit_gives_another_task_the_same_engine(
    refittable: Path, small_folder: Path, monkeypatch: pytest.MonkeyPatch, query_bundle: Path
) -> None:
    """Needs neither a GPU nor TensorRT; the weights are those of an ordinary build."""
    first = engine_of(read_manifest(refittable))
    assert (first.stripped, first.memory) == (True, MEMORY)
    monkeypatch.setattr(export.build.inputs, "device_sm", lambda: None)
    monkeypatch.setattr(
        export.build.inputs, "load_tensorrt", lambda flavour: pytest.fail("not needed")
    )
    assert refit(refittable / "encoder.sm89.engine", small_folder, "retrieval.query") == 0
    bundle = refittable.with_name("retrieval.query-fp32-refittable-t64")
    manifest = check_hashes(bundle)
    assert (manifest.task, engine_of(manifest)) == ("retrieval.query", first)
    engine = bundle / "encoder.sm89.engine"
    assert engine.samefile(refittable / "encoder.sm89.engine")
    assert bundle_plans(bundle, manifest) == {"encoder.sm89.engine": (COMPILED,)}
    ours, theirs = (Embedder.load(b).encode(["Guten Tag", "x"]) for b in (bundle, query_bundle))
    np.testing.assert_array_equal(ours, theirs)
    assert manifest.versions["tensorrt"] == read_manifest(refittable).versions["tensorrt"]


def test_runtime_puts_the_tasks_weights_in(
    refittable: Path, small_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refit(refittable, small_folder, "classification") == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(refittable.parent / "cache"))
    cuda, scenario = FakeCuda(), Scenario(refittable=True)
    module = fake_module(rtx, cuda, scenario, "tensorrt_rtx")
    graphs: list[Path] = []
    monkeypatch.setattr(
        runtimes.executors.tensorrt.runtime, "load_tensorrt", lambda flavour: module
    )
    monkeypatch.setattr(runtimes.executors.tensorrt.runtime, "load_cuda", lambda _: Cuda(cuda))
    monkeypatch.setattr(runtimes.executors.tensorrt.runtime, "device_sm", lambda _: "sm89")
    monkeypatch.setattr(
        "runtimes.executors.tensorrt.engine.refit", lambda t, e, graph, g: graphs.append(graph)
    )
    bundle = refittable.with_name("classification-fp32-refittable-t64")
    with Embedder.load(bundle, runtime="tensorrt_rtx") as embedder:
        assert embedder.runtime.name == "tensorrt_rtx-sm89"
        assert embedder.runtime.budget.profiles
    assert graphs == [bundle / "onnx" / "model.tensorrt.onnx"]
    assert cuda.held == {}


def test_all_tasks_share_one_engine(
    small_folder: Path, tmp_path: Path, stripped_builds: list[Path]
) -> None:
    code = run_cli(
        "engine",
        "--model",
        small_folder,
        "--target",
        "tensorrt_rtx",
        "--gpu",
        "sm89",
        "--precision",
        "fp32",
        "--parity-tokens",
        16,
        "--max-tokens",
        16,
        "--task",
        "all",
        "--refittable",
        "--out",
        tmp_path,
    )
    assert code == 0
    engines = sorted(tmp_path.glob("small/*/encoder.sm89.engine"))
    assert len(engines) == 5
    assert len(stripped_builds) == 1
    assert all(engine.samefile(engines[0]) for engine in engines)


def test_refit_of_another_model_is_refused(
    refittable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.zoo import Size, write_original

    other = write_original(tmp_path / "other" / "small", Size(layers=1))
    before = listing(refittable.parent)
    assert refit(refittable, other, "classification") == 2
    assert "built from another graph" in capsys.readouterr().err
    assert listing(refittable.parent) == before


def test_refit_of_the_same_task_in_place_is_refused(
    refittable: Path, small_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refit(refittable, small_folder, "separation") == 2
    assert "is the bundle of separation" in capsys.readouterr().err


def test_refit_under_a_name(refittable: Path, small_folder: Path) -> None:
    assert refit(refittable, small_folder, "separation", "--name", "again") == 0
    manifest = check_hashes(refittable.with_name("again"))
    assert engine_of(manifest) == engine_of(read_manifest(refittable))


def test_bundle_without_a_stripped_engine_cannot_be_refitted(
    small_bundle: Path, small_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refit(small_bundle, small_folder, "classification") == 2
    assert "has no engine to refit" in capsys.readouterr().err


def test_engine_runtime_without_a_gpu_is_a_missing_piece(fp16_bundle: Path) -> None:
    with pytest.raises(MissingError, match="no usable NVIDIA GPU"):
        Embedder.load(fp16_bundle, runtime="tensorrt_rtx")


def test_encode_command_takes_a_runtime(
    fp16_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli("encode", "--bundle", fp16_bundle, "--runtime", "tensorrt_rtx", "x") == 4
    assert "no usable NVIDIA GPU" in capsys.readouterr().err


def test_bundle_without_engines_says_so(small_bundle: Path) -> None:
    with pytest.raises(InputError, match="no tensorrt engine, the bundle was built for onnx"):
        Embedder.load(small_bundle, runtime="tensorrt")


def test_engine_runtime_takes_no_adapter_file(fp16_bundle: Path) -> None:
    with pytest.raises(InputError, match="engines have no slot"):
        Embedder.load(fp16_bundle, runtime="tensorrt_rtx", adapter="a.onnx_adapter")


def test_unknown_runtime_lists_the_known(fp16_bundle: Path) -> None:
    known = "auto, onnxruntime, openvino, onnxruntime_cuda, tensorrt_rtx, tensorrt"
    with pytest.raises(InputError, match=known):
        Embedder.load(fp16_bundle, runtime="tensorflow")


def test_manifest_holds_profiles_and_their_memory(fp16_bundle: Path) -> None:
    manifest = read_manifest(fp16_bundle)
    (profile,) = manifest.profiles
    assert (profile.min, profile.opt, profile.max) == ((1, 1), (8, 256), (32, 8192))
    memory = engine_of(manifest).memory
    assert len(memory) == 1
    assert memory[0] > 1 << 20


def test_bundle_holds_the_plan_of_its_engine(fp16_bundle: Path, small_bundle: Path) -> None:
    ((plan,),) = bundle_plans(fp16_bundle, read_manifest(fp16_bundle)).values()
    assert (plan.gpu, len(plan.attentions), len(plan.products)) == ("sm89", 6, 24)
    assert all({kernel.layer for kernel in plan.kernels} >= {None, layer} for layer in range(6))
    assert bundle_plans(small_bundle, read_manifest(small_bundle)) == {}


def test_manifest_says_that_times_are_predicted_and_from_what(
    fp16_bundle: Path, small_bundle: Path
) -> None:
    predicted = read_manifest(fp16_bundle).predicted
    assert predicted is not None
    assert (predicted.what, predicted.version) == (PREDICTED, EFFICIENCY.version)
    assert set(predicted.milliseconds) == set(GPUS)
    plans = bundle_plans(fp16_bundle, read_manifest(fp16_bundle))
    call = Workload(batch=8, tokens=512, heads=8)
    own = predict(plans["encoder.sm89.engine"][0], call, GPUS["L4"]).milliseconds
    assert predicted.milliseconds["L4"]["8x512"] == pytest.approx(own, rel=5e-3)
    assert read_manifest(small_bundle).predicted is None


def test_a_plan_that_cannot_be_explained_is_no_prediction_and_no_failure(
    fp16_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = read_manifest(fp16_bundle)
    assert predicted_times({"encoder.sm89.engine": (COMPILED,)}, manifest) is None
    assert "no times are predicted of the engines: _gemm_mha_v2_myl0_1: expected" in caplog.text
    assert predicted_times({}, manifest) is None


def test_plan_of_another_bundles_engine_is_refused(fp16_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(fp16_bundle, tmp_path / "bundle"))
    text = (bundle / "plan.json").read_text().replace("encoder.sm89", "encoder.sm120")
    (bundle / "plan.json").write_text(text)
    message = r"got encoder.sm120.engine, expected some of encoder.sm89.engine; copy"
    with pytest.raises(InputError, match=message):
        bundle_plans(bundle, read_manifest(fp16_bundle))


@pytest.fixture(scope="module")
def device_bundle(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TARGET=tensorrt10 with two profiles."""
    folder = tmp_path_factory.mktemp("device")
    code = run_cli(
        "engine",
        "--model",
        small_folder,
        "--target",
        "tensorrt10",
        "--precision",
        "fp16",
        "--parity-tokens",
        64,
        "--max-tokens",
        1024,
        "--profiles",
        "short,long",
        "--out",
        folder,
    )
    assert code == 0
    return folder / "small" / "classification-fp16-tensorrt10-short-long-t1024"


def test_device_bundle_holds_the_primitive_graph_and_how_to_build(device_bundle: Path) -> None:
    names = set(listing(device_bundle))
    assert {"onnx/model.primitive.onnx", "build_engine.py", "README.md"} <= names
    assert (
        not {f"onnx/model.{k}.onnx" for k in ("tensorrt", "portable", "onnxruntime_cuda")} & names
    )
    assert not [name for name in names if name.endswith(".engine")]
    manifest = check_hashes(device_bundle)
    assert [p.name for p in manifest.profiles] == ["short", "long"]
    parity = json.loads((device_bundle / "parity.json").read_text())
    assert list(parity["graphs"]) == ["primitive", "onnxruntime"]
    assert run_cli("verify", "--bundle", device_bundle) == 0


DRIVE = """
import ctypes, runpy, sys, types
import tensorrt_rtx_bindings as rtx

# TensorRT-RTX stands in for the device's TensorRT: its parser and builder run here.
sys.modules["tensorrt"] = rtx

class Driver:
    def cuInit(self, flags): return 0
    def cuDeviceGet(self, device, index): return 0
    def cuDeviceGetAttribute(self, number, attribute, device):
        number._obj.value = {75: 8, 76: 7}[attribute]
        return 0

ctypes.CDLL = lambda name: Driver()
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def device_build(bundle: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", DRIVE, bundle / "build_engine.py", *flags],
        capture_output=True,
        text=True,
        timeout=120,
        cwd="/",
    )


@pytest.fixture
def on_device(device_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(device_bundle, tmp_path / "bundle"))


def test_device_script_builds_and_records_an_engine(on_device: Path) -> None:
    """Really parsed and built, by the TensorRT that is here; the bundle then verifies."""
    done = device_build(on_device)
    assert done.returncode == 0, done.stderr
    manifest = check_hashes(on_device)
    engine = engine_of(manifest)
    assert (engine.path, engine.kind, engine.gpu) == ("encoder.sm87.engine", "tensorrt", "sm87")
    assert len(engine.memory) == 2
    assert manifest.versions["tensorrt"].startswith("tensorrt ")
    assert device_build(on_device).returncode == 0  # again, in place
    assert len([a for a in check_hashes(on_device).artifacts if a.gpu]) == 1


def test_device_script_builds_an_engine_with_three_dimensional_inputs(
    tmp_path: Path, small_folder: Path
) -> None:
    """HEAD=chunks: chunk_weights ``[batch, chunks, sequence]`` has a range of its own."""
    code = build(
        tmp_path,
        *("--model", small_folder, "--target", "tensorrt10", "--head", "chunks"),
        *("--parity-tokens", 64, "--max-tokens", 256),
    )
    assert code == 0
    (bundle,) = (tmp_path / "small").glob("*-chunks-*")
    timings = tmp_path / "timings"
    done = device_build(bundle, "--maxShapes=2x64", f"--timingCacheFile={timings}")
    assert done.returncode == 0, done.stderr
    assert engine_of(check_hashes(bundle)).gpu == "sm87"
    assert timings.is_file()
    assert not list(tmp_path.rglob("*.part"))


def test_device_script_takes_shapes(on_device: Path) -> None:
    done = device_build(
        on_device, "--maxShapes=2x64", "--optShapes=1x32", "--memPoolSize=workspace:512"
    )
    assert done.returncode == 0, done.stderr
    (profile,) = check_hashes(on_device).profiles
    assert (profile.min, profile.opt, profile.max) == ((1, 1), (1, 32), (2, 64))


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--maxShapes=64x64", "the model takes at most 32x1024"),
        ("--optShapes=8", "expected batch x tokens, as in 8x256"),
        ("--memPoolSize=4G", "expected workspace:MEBIBYTES"),
        ("--minShapes=1x2000", "expected minShapes <= optShapes <= maxShapes"),
        ("--saveEngine=/nowhere/engine", "expected a file in a folder that exists"),
    ],
)
def test_device_script_refuses_bad_flags(device_bundle: Path, flag: str, message: str) -> None:
    before = listing(device_bundle)
    done = device_build(device_bundle, flag)
    assert done.returncode == 2
    assert message in done.stderr
    assert listing(device_bundle) == before


def test_device_script_without_its_graph_leaves_the_bundle_alone(on_device: Path) -> None:
    (on_device / "onnx" / "model.primitive.onnx").write_bytes(b"not a graph")
    before = listing(on_device)
    done = device_build(on_device)
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert listing(on_device) == before


def test_device_script_without_tensorrt_names_the_package(device_bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", device_bundle / "build_engine.py"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "apt install python3-libnvinfer" in done.stderr
    assert "Traceback" not in done.stderr


def test_manifest_without_profiles_is_still_read(small_bundle: Path, bundle_copy: Path) -> None:
    """Bundles of former versions have none."""
    edit_json(bundle_copy / "manifest.json", drop=("profiles",))
    assert read_manifest(bundle_copy).profiles == ()
