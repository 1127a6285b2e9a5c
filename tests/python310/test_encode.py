"""encode.py with an engine, behind the stand-ins for CUDA and TensorRT 10.3."""

from __future__ import annotations

import hashlib
import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorrt_bindings as real

import runtimes.executors.tensorrt.runtime
from runtimes.manifest import Artifact
from runtimes.manifest_records import Manifest
from tests.python310.light import ROOT
from tests.runtime_support import SAMPLE, make_manifest
from tests.unit.fake_cuda import FakeCuda
from tests.unit.fake_tensorrt import Scenario, fake_module

SCRIPT = ROOT / "export" / "engines" / "device" / "encode.py"


class Driver:
    """One Orin."""

    class CUdevice_attribute:  # noqa: N801
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 0
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 1

    cuInit = staticmethod(lambda flags: (0,))  # noqa: N815
    cuDeviceGet = staticmethod(lambda index: (0, index))  # noqa: N815
    cuDeviceGetName = staticmethod(lambda length, device: (0, b"Orin\0"))  # noqa: N815
    cuDeviceGetAttribute = staticmethod(lambda number, device: (0, (8, 7)[number]))  # noqa: N815


def file(folder: Path, name: str, kind: str, gpu: str | None = None) -> Artifact:
    data = (folder / name).read_bytes()
    return Artifact(
        path=name, kind=kind, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), gpu=gpu
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    shutil.copyfile(SCRIPT, tmp_path / SCRIPT.name)
    shutil.copyfile(SAMPLE / "tokenizer.json", tmp_path / "tokenizer.json")
    (tmp_path / "encoder.sm87.engine").write_bytes(b"plan")
    manifest: Manifest = make_manifest(
        target={"name": "tensorrt10"},
        precision="fp16",
        dimensions=(3,),
        max_tokens=32,
        architecture={"hidden": 3},
        artifacts=(
            file(tmp_path, "tokenizer.json", "tokenizer"),
            file(tmp_path, "encoder.sm87.engine", "tensorrt", "sm87"),
        ),
    )
    (tmp_path / "manifest.json").write_text(json.dumps(manifest.to_json()))
    return tmp_path


def test_encode_runs_the_engine_and_frees_everything(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    cuda = FakeCuda()
    module = fake_module(real, cuda, Scenario(), "tensorrt")
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", Driver)
    monkeypatch.setattr(runtimes.executors.tensorrt.runtime, "load_tensorrt", lambda _: module)
    monkeypatch.setattr(sys, "path", list(sys.path))
    script = runpy.run_path(str(bundle / SCRIPT.name))
    assert script["main"](["Guten Tag", "Hallo"]) == 0
    printed = [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()]
    assert [line["text"] for line in printed] == ["Guten Tag", "Hallo"]
    assert np.isfinite([line["embedding"] for line in printed]).all()
    assert cuda.held == {}


def test_engine_of_another_device_is_refused(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Thor(Driver):
        cuDeviceGetAttribute = staticmethod(lambda number, device: (0, (11, 0)[number]))  # noqa: N815

    cuda = FakeCuda()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", Thor)
    module = fake_module(real, cuda, Scenario(), "tensorrt")
    monkeypatch.setattr(runtimes.executors.tensorrt.runtime, "load_tensorrt", lambda _: module)
    monkeypatch.setattr(sys, "path", list(sys.path))
    script = runpy.run_path(str(bundle / SCRIPT.name))
    assert script["main"](["Guten Tag"]) == 4
    words = capsys.readouterr().err
    assert "no engine for this GPU, sm110" in words
    assert "python3 build_engine.py" in words
