"""Kernels that TensorRT-RTX compiled, kept for other processes."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorrt_rtx_bindings as rtx

from runtimes.errors import AdaptrtError
from runtimes.executors.tensorrt.cuda import Cuda
from runtimes.executors.tensorrt.engine import EngineFile
from runtimes.executors.tensorrt.kernel_cache import cache_path
from runtimes.executors.tensorrt.runtime import TrtRuntime
from tests.unit.fake_cuda import FakeCuda
from tests.unit.fake_tensorrt import Scenario, expected, fake_module

SHAPES = ((1, 8), (2, 8), (1, 8), (4, 8), (1, 16), (1, 32))
DISTINCT = len(set(SHAPES))
PROFILES = (((1, 1), (4, 16), (4, 32)),)


@pytest.fixture
def engine(tmp_path: Path) -> EngineFile:
    path = tmp_path / "encoder.sm89.engine"
    path.write_bytes(b"plan")
    digest = hashlib.sha256(b"plan").hexdigest()
    return EngineFile(path=path, sha256=digest, gpu="sm89", version="tensorrt_rtx 1.7")


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "adaptrt" / "encoder.kernels"


def process(
    engine: EngineFile,
    kernels: Path | None,
    scenario: Scenario | None = None,
    fail: dict[str, int] | None = None,
    flavour: str = "tensorrt_rtx",
) -> list[str]:
    """What a process that runs every shape compiles."""
    scenario = scenario or Scenario()
    scenario.profiles = PROFILES
    cuda = FakeCuda(**fail or {})
    module = fake_module(rtx, cuda, scenario, flavour)
    with TrtRuntime(module, engine, Cuda(cuda), "sm89", kernels=kernels) as runtime:
        for shape in SHAPES:
            inputs = {n: np.ones(shape, np.int64) for n in ("input_ids", "attention_mask")}
            found = runtime.run(inputs)["sentence_embedding"]
            np.testing.assert_array_equal(found, expected(inputs))
    assert cuda.held == {}
    return scenario.compiled


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert all(record.name == "adaptrt" for record in caplog.records)
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_second_process_compiles_nothing(
    engine: EngineFile, kernels: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(process(engine, kernels)) == DISTINCT
    before = kernels.stat().st_mtime_ns, kernels.read_bytes()
    assert process(engine, kernels) == []
    assert (kernels.stat().st_mtime_ns, kernels.read_bytes()) == before  # and writes nothing
    assert warnings_of(caplog) == []
    assert [path.name for path in kernels.parent.iterdir()] == [kernels.name]
    assert kernels.parent.stat().st_mode & 0o077 == 0


def test_without_a_file_every_process_compiles(engine: EngineFile) -> None:
    """The negative control."""
    assert len(process(engine, None)) == len(process(engine, None)) == DISTINCT


def test_full_tensorrt_keeps_no_kernels(engine: EngineFile, kernels: Path) -> None:
    assert process(engine, kernels, flavour="tensorrt") == []
    assert not kernels.exists()


class Killed(BaseException):
    """The process ends in the middle."""


def test_killed_process_loses_little(
    engine: EngineFile, kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is written after 1, 2, 4, … shapes, not only in the end."""
    monkeypatch.setattr(TrtRuntime, "_free", lambda self: None)
    cuda, scenario = FakeCuda(), Scenario(profiles=PROFILES)
    module = fake_module(rtx, cuda, scenario, "tensorrt_rtx")
    runtime = TrtRuntime(module, engine, Cuda(cuda), "sm89", kernels=kernels)
    for shape in SHAPES:
        ids = np.ones(shape, np.int64)
        runtime.run({"input_ids": ids, "attention_mask": ids})
    assert scenario.counts["serialize"] == 3
    monkeypatch.undo()
    assert len(process(engine, kernels)) == DISTINCT - 4


@pytest.mark.parametrize(
    "content", [b"", b"short", b"x" * 100, hashlib.sha256(b"y").digest() + b"z"]
)
def test_damaged_file_is_ignored_and_rewritten(
    engine: EngineFile, kernels: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    kernels.parent.mkdir(parents=True)
    kernels.write_bytes(content)
    assert len(process(engine, kernels)) == DISTINCT
    assert warnings_of(caplog) == [f"{kernels}: damaged; kernels are compiled again"]
    assert process(engine, kernels) == []


def test_bit_that_flipped_is_damage(engine: EngineFile, kernels: Path) -> None:
    process(engine, kernels)
    data = bytearray(kernels.read_bytes())
    data[-1] ^= 1
    kernels.write_bytes(data)
    assert len(process(engine, kernels)) == DISTINCT


def test_kernels_of_another_gpu_are_ignored_and_rewritten(
    engine: EngineFile, kernels: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process(engine, kernels, Scenario(gpu="sm86"))
    assert len(process(engine, kernels)) == DISTINCT
    (line,) = warnings_of(caplog)
    assert line.startswith(f"{kernels}: TensorRT-RTX does not take these kernels")
    assert process(engine, kernels) == []


def test_folder_or_device_in_its_place_is_left_alone(
    engine: EngineFile, kernels: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kernels.mkdir(parents=True)
    assert len(process(engine, kernels)) == DISTINCT
    first, second = warnings_of(caplog)
    assert "is a folder" in first
    assert "kernels are not kept for other processes" in second
    assert kernels.is_dir()


def test_place_that_cannot_be_written_is_done_without(
    engine: EngineFile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert len(process(engine, tmp_path / "file" / "encoder.kernels")) == DISTINCT
    (line,) = warnings_of(caplog)  # once, not at every shape
    assert "kernels are not kept for other processes" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_read_only_folder_is_done_without(engine: EngineFile, kernels: Path) -> None:
    kernels.parent.mkdir(parents=True)
    kernels.parent.chmod(0o500)
    assert len(process(engine, kernels)) == DISTINCT


@pytest.mark.parametrize("method", ["create_runtime_cache", "set_runtime_cache", "serialize"])
def test_library_that_refuses_is_done_without(
    engine: EngineFile, kernels: Path, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(process(engine, kernels, Scenario(fail={method: 1}))) == DISTINCT
    (line,) = warnings_of(caplog)
    assert "kernels are not kept for other processes: TensorRT-RTX" in line
    assert not kernels.exists()


def test_failed_gpu_is_asked_for_nothing(engine: EngineFile, kernels: Path) -> None:
    scenario = Scenario(fail={"execute_async_v3": 2})
    with pytest.raises(AdaptrtError, match="did not execute"):
        process(engine, kernels, scenario)
    assert scenario.counts["serialize"] == 1  # of the shape before


@pytest.mark.parametrize(
    ("variable", "folder"),
    [("/var/cache/me", "/var/cache/me"), ("", "~/.cache"), ("relative", "~/.cache"), (None, None)],
)
def test_file_is_named_by_engine_gpu_and_release(
    variable: str | None, folder: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def home() -> Any:
        if folder is None:
            raise RuntimeError("Could not determine home directory.")
        return tmp_path

    monkeypatch.setattr(Path, "home", home)
    monkeypatch.setenv("XDG_CACHE_HOME", variable or "")
    found = cache_path("0123456789abcdef" * 4, "NVIDIA GeForce RTX 4090", "1.7.1.116")
    if folder is None:
        assert found is None
        return
    base = Path(folder.replace("~", str(tmp_path)))
    name = "0123456789abcdef0123456789abcdef-NVIDIA-GeForce-RTX-4090-1.7.1.116.kernels"
    assert found == base / "adaptrt" / "tensorrt_rtx" / name
