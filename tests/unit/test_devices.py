"""``device=``: which GPU of several is opened, and what is refused."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import tensorrt_rtx_bindings as rtx

import runtimes.executors.tensorrt.runtime
from runtimes.choices import Device, GraphKind, Target, parse_device
from runtimes.errors import InputError, MissingError
from runtimes.executors.ort import OrtRuntime
from runtimes.executors.tensorrt.cuda import load_cuda
from runtimes.executors.tensorrt.runtime import open_engine
from runtimes.manifest import Artifact
from runtimes.open import Executor, OpenOptions, open_runtime
from runtimes.tensors import ATTENTION_MASK, INPUT_IDS, SENTENCE_EMBEDDING
from tests.runtime_support import CallableRuntime, make_manifest
from tests.unit.fake_cuda import FakeCuda
from tests.unit.fake_tensorrt import Scenario, expected, fake_module


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("cpu", (Device.CPU, 0)),
        ("cuda", (Device.CUDA, 0)),
        ("cuda:0", (Device.CUDA, 0)),
        ("cuda:13", (Device.CUDA, 13)),
    ],
)
def test_device_and_its_ordinal(text: str, device: tuple[Device, int]) -> None:
    assert parse_device(text) == device


@pytest.mark.parametrize("value", ["gpu", "cpu:1", "cuda:", "cuda:-1", "cuda:x", "CUDA", "", 1])
def test_other_devices_are_refused(value: object) -> None:
    message = "device: got .*, expected cpu, cuda, or cuda:1 for the second GPU"
    with pytest.raises(InputError, match=message):
        parse_device(value)


@pytest.mark.parametrize(
    ("device", "ordinal"), [(None, 0), ("cuda", 0), ("cuda:0", 0), ("cuda:2", 2)]
)
def test_executor_is_opened_on_the_gpu_asked_for(device: str | None, ordinal: int) -> None:
    opened: list[OpenOptions] = []

    def opener(folder: Path, manifest: Any, options: OpenOptions) -> CallableRuntime:
        opened.append(options)
        return CallableRuntime(lambda ids, _: np.ones((len(ids), 8), np.float32))

    row = Executor(name="new", graph=GraphKind.TENSORRT, opener=opener, device=Device.CUDA)
    open_runtime(Path(), make_manifest(), row, device=device)
    assert [options.ordinal for options in opened] == [ordinal]


def test_gpu_is_refused_by_an_executor_on_the_cpu() -> None:
    message = "device: got 'cuda:1', but runtime onnxruntime runs on cpu; for cuda:1 take runtime"
    with pytest.raises(InputError, match=message):
        open_runtime(Path(), make_manifest(), "onnxruntime", device="cuda:1")


class Session:
    """What stands in for a session on a GPU."""

    def __init__(self, graph: Any, **options: Any) -> None:
        self.options = options

    def get_providers(self) -> list[str]:
        return [provider for provider, _ in self.options["providers"]]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return []

    def get_outputs(self) -> list[Any]:
        return []


def test_onnx_runtime_takes_the_gpu_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)
    monkeypatch.setattr(ort, "InferenceSession", Session)
    runtime = OrtRuntime(b"", device=Device.CUDA, ordinal=1)
    name, options = runtime._session.options["providers"][0]
    assert (name, int(options["device_id"])) == ("CUDAExecutionProvider", 1)


class Driver:
    """Two GPUs of two architectures."""

    class CUdevice_attribute:  # noqa: N801
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 0
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 1

    @staticmethod
    def cuInit(flags: int) -> tuple[int]:  # noqa: N802
        return (0,)

    @staticmethod
    def cuDeviceGet(index: int) -> tuple[int, int]:  # noqa: N802
        return 0, index

    @staticmethod
    def cuDeviceGetName(length: int, device: int) -> tuple[int, bytes]:  # noqa: N802
        return 0, (b"NVIDIA A10", b"NVIDIA L4")[device].ljust(length, b"\0")

    @staticmethod
    def cuDeviceGetAttribute(attribute: int, device: int) -> tuple[int, int]:  # noqa: N802
        return 0, ((8, 6), (8, 9))[device][attribute]


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    cuda = FakeCuda(devices=2)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", Driver)
    return cuda


@pytest.mark.parametrize("ordinal", [0, 1])
def test_engine_memory_and_stream_are_of_the_gpu_asked_for(
    two_gpus: FakeCuda, ordinal: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory was taken on the thread's current device, while device 0 was asked what it is."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    module = fake_module(rtx, two_gpus, Scenario(), "tensorrt_rtx")
    monkeypatch.setattr(runtimes.executors.tensorrt.runtime, "load_tensorrt", lambda _: module)
    sms = ("sm86", "sm89")
    for sm in sms:
        (tmp_path / f"encoder.{sm}.engine").write_bytes(sm.encode())
    manifest = make_manifest(artifacts=[engine(sm) for sm in sms])
    two_gpus.cudaSetDevice(1 - ordinal)  # the caller's own device is another one, and stays so
    with open_engine(
        tmp_path,
        manifest,
        Target.TENSORRT_RTX,
        (INPUT_IDS, ATTENTION_MASK),
        (SENTENCE_EMBEDDING,),
        (),
        ordinal=ordinal,
    ) as runtime:
        assert runtime.name == f"tensorrt_rtx-{sms[ordinal]}"
        inputs = {n: np.ones((2, 5), np.int64) for n in ("input_ids", "attention_mask")}
        np.testing.assert_array_equal(runtime.run(inputs)["sentence_embedding"], expected(inputs))
        assert set(two_gpus.devices_in_use()) == {ordinal}
        assert two_gpus.device == 1 - ordinal
    (kernels,) = (tmp_path / "cache" / "adaptrt" / "tensorrt_rtx").iterdir()
    name = ("NVIDIA-A10", "NVIDIA-L4")[ordinal]
    assert kernels.name == f"{engine(sms[ordinal]).sha256[:32]}-{name}-{module.__version__}.kernels"
    assert two_gpus.held == {}


def engine(sm: str) -> Artifact:
    return Artifact(
        path=f"encoder.{sm}.engine",
        kind=Target.TENSORRT_RTX,
        bytes=len(sm),
        sha256=hashlib.sha256(sm.encode()).hexdigest(),
        gpu=sm,
    )


def test_gpu_that_is_not_there_is_a_missing_piece(two_gpus: FakeCuda) -> None:
    assert load_cuda(1).ordinal == 1
    message = r"device: got cuda:2, this process sees 2 NVIDIA GPUs, counted from cuda:0"
    with pytest.raises(MissingError, match=message):
        load_cuda(2)
