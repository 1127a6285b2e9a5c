"""Which TensorRT is loaded, and which is too old."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import tensorrt_rtx_bindings as rtx
from packaging.requirements import Requirement

import export.build.inputs
import runtimes.executors.tensorrt.runtime
from export.build.inputs import open_build
from export.spec import BuildSpec
from runtimes.choices import Precision, Target
from runtimes.errors import MissingError
from runtimes.executors.tensorrt.cuda import Cuda
from runtimes.executors.tensorrt.library import OLDEST, check_release
from runtimes.executors.tensorrt.runtime import open_engine
from runtimes.manifest import Artifact
from runtimes.tensors import ATTENTION_MASK, INPUT_IDS, SENTENCE_EMBEDDING
from tests.support import make_manifest
from tests.unit.fake_cuda import FakeCuda
from tests.unit.fake_tensorrt import Scenario, fake_module

ROOT = Path(__file__).parents[2]
MESSAGE = (
    r"TARGET=tensorrt: got TensorRT 10\.\d+\.[\d.]+, expected 10\.15 or newer, .*"
    r"pip install --upgrade 'tensorrt>=10\.15,<12'"
)


@pytest.mark.parametrize("version", ["10.3.0.26", "10.9.0.34", "10.14.1.48"])
def test_parser_without_rotary_embedding_is_refused(version: str) -> None:
    with pytest.raises(MissingError, match=MESSAGE):
        check_release(SimpleNamespace(__version__=version), Target.TENSORRT)


@pytest.mark.parametrize(
    ("target", "version"),
    [
        (Target.TENSORRT, "10.15.1.29"),
        (Target.TENSORRT, "11.4.0.106"),
        (Target.TENSORRT10, "10.3.0.26"),  # the primitive graph: JetPack 6
        (Target.TENSORRT_RTX, "1.7.1.116"),
    ],
)
def test_others_are_taken(target: Target, version: str) -> None:
    check_release(SimpleNamespace(__version__=version), target)


def test_the_package_asks_for_the_same_release() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = map(Requirement, project["optional-dependencies"]["gpu"])
    (requirement,) = (r for r in listed if r.name == "tensorrt")
    assert str(requirement.specifier) == f"<12,>={OLDEST[Target.TENSORRT]}"


def test_build_with_an_old_library_ends_before_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = SimpleNamespace(__version__="10.12.0.36", __name__="tensorrt")
    monkeypatch.setattr(export.build.inputs, "load_tensorrt", lambda _: old)
    spec = BuildSpec(
        model=str(ROOT / "export" / "sample"),
        task="base",
        precision=Precision.FP16,
        target=Target.TENSORRT,
        requested_target="tensorrt",
        out=tmp_path,
    )
    with pytest.raises(MissingError, match=MESSAGE):
        open_build(spec)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", [Target.TENSORRT, Target.TENSORRT10])
def test_old_library_runs_engines_of_the_primitive_graph_alone(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = FakeCuda()
    module = fake_module(rtx, cuda, Scenario(), "tensorrt")
    module.__version__ = "10.3.0.26"
    place = runtimes.executors.tensorrt.runtime
    monkeypatch.setattr(place, "load_tensorrt", lambda _: module)
    monkeypatch.setattr(place, "load_cuda", lambda _: Cuda(cuda))
    monkeypatch.setattr(place, "device_sm", lambda _: "sm87")
    (tmp_path / "encoder.sm87.engine").write_bytes(b"plan")
    engine = Artifact(
        path="encoder.sm87.engine",
        kind=Target.TENSORRT,
        bytes=4,
        sha256=hashlib.sha256(b"plan").hexdigest(),
        gpu="sm87",
    )
    manifest = make_manifest(artifacts=[engine], target={"name": target})
    arguments = (INPUT_IDS, ATTENTION_MASK), (SENTENCE_EMBEDDING,), ()
    if target is Target.TENSORRT10:
        open_engine(tmp_path, manifest, Target.TENSORRT, *arguments).close()
        return
    with pytest.raises(MissingError, match=MESSAGE):
        open_engine(tmp_path, manifest, Target.TENSORRT, *arguments)
