"""Thousands of calls of mixed shapes: what the TensorRT executor holds stays within a bound."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorrt_rtx_bindings as rtx

import runtimes.executors.tensorrt.buffers as buffers
from runtimes.executors.tensorrt.cuda import Cuda
from runtimes.executors.tensorrt.engine import EngineFile
from runtimes.executors.tensorrt.recordings import GRAPHS
from runtimes.executors.tensorrt.runtime import TrtRuntime
from runtimes.heads import CHUNK_EMBEDDING, CHUNK_WEIGHTS
from runtimes.tensors import ATTENTION_MASK, INPUT_IDS, SENTENCE_EMBEDDING, Tensor
from tests.unit.fake_cuda import FakeCuda
from tests.unit.fake_tensorrt import MEMORY, WIDTH, Scenario, fake_module

CALLS = 5000
CHUNKS = 32
PROFILES = (((1, 1), (4, 16), (8, 64)), ((1, 64), (1, 128), (2, 512)))
AT_ONCE = 1 << 12  # as small beside these shapes as the real one beside real ones
OUTPUT = Tensor(name=SENTENCE_EMBEDDING.name, dtype="float32", axes=CHUNK_EMBEDDING.axes)


@dataclass
class Held:
    """Bytes on the device and page-locked, now and at most; graphs and contexts at most."""

    device: int = 0
    host: int = 0
    graphs: int = 0

    def see(self, cuda: FakeCuda) -> None:
        for name, kind in (("device", "cudaMalloc"), ("host", "cudaMallocHost")):
            size = sum(cuda.size_of(address) for address in cuda.memory_of(kind))
            setattr(self, name, max(getattr(self, name), size))
        self.graphs = max(self.graphs, len(cuda.memory_of("cudaGraphExec")))


def call(rng: np.random.Generator, long: bool) -> dict[str, Any]:
    """Most are short; one in fifty is of the second profile, which only ``long`` has."""
    if long and rng.random() < 0.02:
        rows, tokens = int(rng.integers(1, 3)), int(rng.integers(65, 513))
    else:
        rows, tokens = int(rng.integers(1, 9)), int(np.clip(rng.lognormal(2.5, 0.8), 1, 64))
    chunks = int(rng.integers(1, 5)) if rng.random() < 0.98 else int(rng.integers(5, CHUNKS + 1))
    ids = rng.integers(5, 100, (rows, tokens))
    weights = np.full((rows, chunks, tokens), 1 / tokens, np.float32)
    return {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "chunk_weights": weights,
    }


def limits(profile: tuple[tuple[int, int], ...]) -> int:
    """Bytes of every tensor at the profile's greatest shape."""
    rows, tokens = profile[2]
    return 8 * 2 * rows * tokens + 4 * rows * CHUNKS * tokens + 4 * rows * CHUNKS * WIDTH


def soak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flavour: str, *, long: bool, calls: int = CALLS
) -> tuple[Held, Held, FakeCuda]:
    """What was held at most in the first 500 calls, in all of them, and what is left."""
    monkeypatch.setattr(buffers, "AT_ONCE", AT_ONCE)
    path = tmp_path / "encoder.sm87.engine"
    path.write_bytes(b"plan")
    digest = hashlib.sha256(b"plan").hexdigest()
    file = EngineFile(path=path, sha256=digest, gpu="sm87", version="here")
    cuda, scenario = FakeCuda(), Scenario(chunks=CHUNKS, profiles=PROFILES)
    rng = np.random.default_rng(0)
    first, every = Held(), Held()
    with TrtRuntime(
        fake_module(rtx, cuda, scenario, flavour),
        file,
        Cuda(cuda),
        "sm87",
        inputs=(INPUT_IDS, ATTENTION_MASK, CHUNK_WEIGHTS),
        outputs=(OUTPUT,),
    ) as runtime:
        for number in range(calls):
            runtime.run(call(rng, long))
            scenario.runs.clear()  # the stand-in's own notes
            cuda.calls.clear()
            every.see(cuda)
            if number < 500:
                first.see(cuda)
    assert len(scenario.contexts) <= len(PROFILES) * (1 + GRAPHS)
    return first, every, cuda


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt_rtx"])
def test_what_is_held_is_bounded_by_the_profiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flavour: str
) -> None:
    first, every, cuda = soak(tmp_path, monkeypatch, flavour, long=True)
    tensors = sum(map(limits, PROFILES))
    assert first.device > sum(MEMORY)
    assert every.device <= sum(MEMORY) + tensors
    assert every.host <= tensors
    assert every.graphs <= len(PROFILES) * GRAPHS
    assert cuda.held == {}


def test_profile_that_no_call_needs_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, every, cuda = soak(tmp_path, monkeypatch, "tensorrt", long=False, calls=1000)
    assert every.device <= MEMORY[0] + limits(PROFILES[0])
    assert cuda.held == {}


def test_buffers_that_are_not_given_back_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: a buffer that grows forgets the one before."""
    take = buffers.Buffers._take

    def leak(self: buffers.Buffers, sizes: Any, shapes: Any) -> None:
        for name in sizes:
            self._pairs.pop(name, None)
        take(self, sizes, shapes)

    monkeypatch.setattr(buffers.Buffers, "_take", leak)
    _, _, cuda = soak(tmp_path, monkeypatch, "tensorrt", long=True, calls=500)
    assert cuda.held != {}
