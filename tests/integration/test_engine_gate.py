"""The engine itself is judged where its GPU is: by the gate, and again by ``verify``.

Both are said to be there. What runs the engine is an executor of the tests': it checks that it got
the bundle's own file, as TensorRT's does, and computes the portable graph.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import export.build.judging
import export.build.staged
import runtimes.open
from export.engines.builder import BuiltEngine, EngineSpec
from runtimes.arrays import Arrays
from runtimes.choices import Target
from runtimes.errors import MissingError
from runtimes.executors.base import Runtime, RuntimeBase
from runtimes.executors.tensorrt.runtime import engine_file
from runtimes.manifest import Manifest, read_manifest
from runtimes.open import EXECUTORS, OpenOptions
from tests.support import few_gate_texts, listing, run_cli

GPU = "sm89"
NAME = f"tensorrt_rtx-{GPU}"
LABELS = ["portable", "onnxruntime", "tensorrt_rtx"]


class Engine(RuntimeBase):
    """The portable graph's vectors, or with ``wrong`` each the mean of itself and its neighbour."""

    name = NAME

    def __init__(self, graph: Runtime, *, wrong: bool) -> None:
        self._graph, self._wrong = graph, wrong

    def run(self, inputs: Arrays) -> Arrays:
        outputs = self._graph.run(inputs)
        if not self._wrong:
            return outputs
        return {name: (rows + np.roll(rows, 1, 0)) / 2 for name, rows in outputs.items()}


@contextmanager
def gpu(*, wrong: bool = False, library: bool = True) -> Iterator[None]:
    """A GPU of that architecture, and what runs its engines."""

    def open_engine(folder: Path, manifest: Manifest, options: OpenOptions) -> Runtime:
        if not library:
            raise MissingError("TARGET=tensorrt_rtx: its library does not load")
        assert engine_file(folder, manifest, Target.TENSORRT_RTX, GPU).read() == b"plan"
        return Engine(EXECUTORS["portable"].opener(folder, manifest, options), wrong=wrong)

    row = replace(EXECUTORS["tensorrt_rtx"], opener=open_engine)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EXECUTORS, row.name, row)
        for module in (runtimes.open, export.build.judging):
            patch.setattr(module, "device_sm", lambda: GPU)
        yield


@pytest.fixture(scope="module", autouse=True)
def short_engines() -> Iterator[None]:
    """Engines are short files, quantised bundles' own texts few."""

    def build_engine(trt: object, graph: Path, out: Path, spec: EngineSpec) -> BuiltEngine:
        out.write_bytes(b"plan")
        return BuiltEngine(memory=None, plans=())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export.build.staged, "build_engine", build_engine)
        few_gate_texts(patch)
        yield


def build(out: Path, model: Path, *more: object) -> int:
    options = ("--target", "tensorrt_rtx", "--gpu", f"sm86,{GPU}", "--task", "separation")
    size = ("--max-tokens", 64, "--parity-tokens", 32)
    return run_cli("engine", "--model", model, "--out", out, *options, *size, *more)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, small_folder: Path) -> Path:
    """Built where the GPU was."""
    out = tmp_path_factory.mktemp("judged")
    with gpu():
        assert build(out, small_folder) == 0
    return out / "small" / "separation-fp16-t64"


@pytest.fixture(scope="module")
def unjudged(tmp_path_factory: pytest.TempPathFactory, small_folder: Path) -> Path:
    """Built where no GPU was."""
    out = tmp_path_factory.mktemp("unjudged")
    assert build(out, small_folder) == 0
    return out / "small" / "separation-fp16-t64"


def test_engine_is_judged_on_all_texts_beside_the_graphs(judged: Path) -> None:
    graphs = json.loads((judged / "parity.json").read_text())["graphs"]
    assert list(graphs) == LABELS
    assert graphs["tensorrt_rtx"]["executed"] == NAME
    assert graphs["tensorrt_rtx"]["texts"] != []
    assert len(graphs["tensorrt_rtx"]["texts"]) == len(graphs["portable"]["texts"])
    parity = read_manifest(judged).parity
    assert parity is not None
    assert parity.executed == "onnxruntime-cpu"  # as on machines without the GPU


@pytest.mark.parametrize("where", ["judged", "unjudged"])
def test_manifest_says_of_each_file_what_ran_it(request: pytest.FixtureRequest, where: str) -> None:
    files = read_manifest(request.getfixturevalue(where)).artifacts
    executed = {file.path: file.executed for file in files if file.executed is not None}
    on_cpu = dict.fromkeys(["onnx/model.portable.onnx", "onnx/model.onnx"], "onnxruntime-cpu")
    assert executed == on_cpu | ({f"encoder.{GPU}.engine": NAME} if where == "judged" else {})


def test_wrong_engine_fails_the_gate_though_its_graph_is_right(
    tmp_path: Path, small_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Negative control."""
    with gpu(wrong=True):
        assert build(tmp_path, small_folder) == 3
    assert "parity failed for tensorrt_rtx: minimum cosine" in capsys.readouterr().err
    assert not list(tmp_path.rglob("manifest.json"))


def test_wrong_engine_of_a_quantised_bundle_fails_too(
    tmp_path: Path, small_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is built after the graphs have passed."""
    with gpu(wrong=True):
        options = ("--precision", "int8", "--calibration-texts", 24)
        assert build(tmp_path, small_folder, *options) == 3
    assert "parity failed for tensorrt_rtx: minimum cosine" in capsys.readouterr().err
    assert not list(tmp_path.rglob("manifest.json"))


def test_engine_that_does_not_load_where_its_gpu_is_ends_the_build(
    tmp_path: Path, small_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with gpu(library=False):
        assert build(tmp_path, small_folder) == 4
    assert "its library does not load" in capsys.readouterr().err
    assert not list(tmp_path.rglob("manifest.json"))


@pytest.mark.parametrize("where", ["judged", "unjudged"])
def test_verify_runs_the_engine_whether_or_not_the_gate_did(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    bundle: Path = request.getfixturevalue(where)
    before = listing(bundle)
    with gpu():
        assert run_cli("verify", "--bundle", bundle) == 0
    assert "tensorrt_rtx: 48 texts, minimum" in capsys.readouterr().out
    with gpu(wrong=True):
        assert run_cli("verify", "--bundle", bundle) == 3
    assert "parity failed for tensorrt_rtx" in capsys.readouterr().err
    assert listing(bundle) == before


def test_verify_says_why_an_engine_was_not_run(
    judged: Path, unjudged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli("verify", "--bundle", judged) == 0
    line = f"tensorrt_rtx: not run, it was executed by {NAME}, and that GPU is not here"
    assert line in capsys.readouterr().out
    for bundle in (judged, unjudged):
        with gpu(library=False):
            assert run_cli("verify", "--bundle", bundle) == 0
        assert "tensorrt_rtx: not run, TARGET=tensorrt_rtx: its" in capsys.readouterr().out
    assert run_cli("verify", "--bundle", unjudged) == 0
    assert "tensorrt_rtx" not in capsys.readouterr().out.split("\n", 1)[1]
