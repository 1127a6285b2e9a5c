"""The end of every executor's and embedder's life: closed once, refused afterwards."""

from __future__ import annotations

import copy
import hashlib
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorrt_rtx_bindings as rtx
import torch
from onnx_ir import to_proto

from runtimes import AdaptrtError, Embedder, TritonEmbedder
from runtimes.executors.base import RuntimeBase, while_open
from runtimes.executors.ort import OrtRuntime
from runtimes.executors.tensorrt.cuda import Cuda
from runtimes.executors.tensorrt.engine import EngineFile
from runtimes.executors.tensorrt.runtime import TrtRuntime
from runtimes.executors.torch_reference import FlashReference, TorchModule
from runtimes.heads import ChunkHead, PooledTokens
from tests.support import CallableRuntime, make_manifest, parse_graph, sample_tokenizer
from tests.unit.fake_cuda import FakeCuda
from tests.unit.fake_tensorrt import Scenario, fake_module

INPUTS = {"input_ids": np.ones((2, 4), np.int64), "attention_mask": np.ones((2, 4), np.int64)}
CHUNKS = {"chunk_weights": np.ones((2, 1, 4))}
TASKS = {"task_id": np.zeros(2, np.int64)}
SENTENCE = """<ir_version: 8, opset_import: ["": 17]>
  g (int64[b,s] input_ids, int64[b,s] attention_mask) => (float[b,s] sentence_embedding)
  { sum = Add (input_ids, attention_mask) sentence_embedding = Cast <to = 1> (sum) }"""
OFFICIAL = """<ir_version: 8, opset_import: ["": 17]>
  g (int64[b,s] input_ids, int64[b,s] attention_mask, int64 task_id) => (float[b,s,1] text_embeds)
  { one = Constant <value_ints = [2]> () sum = Add (input_ids, attention_mask)
    all = Add (sum, task_id) wide = Unsqueeze (all, one) text_embeds = Cast <to = 1> (wide) }"""


class Tiny(torch.nn.Module):
    """Ids as token vectors of two numbers; one parameter, so that there is something to move."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, input_ids: Any, **_: Any) -> Any:
        class Output:
            last_hidden_state = torch.stack([input_ids, 2 * input_ids], -1) * self.scale

        return Output()


class Pooled(torch.nn.Module):
    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        return (input_ids * attention_mask).float()


def graph(text: str) -> bytes:
    data: bytes = to_proto(parse_graph(text)).SerializeToString()
    return data


def fake() -> CallableRuntime:
    return CallableRuntime(lambda ids, _: np.ones((len(ids), 8), np.float32))


def make_trt(folder: Path) -> TrtRuntime:
    path = folder / "encoder.engine"
    path.write_bytes(b"plan")
    digest = hashlib.sha256(b"plan").hexdigest()
    file = EngineFile(path=path, sha256=digest, gpu="sm89", version="tensorrt 11")
    cuda = FakeCuda()
    return TrtRuntime(fake_module(rtx, cuda, Scenario(), "tensorrt"), file, Cuda(cuda), "sm89")


def run(runtime: Any) -> Any:
    return runtime.run(INPUTS)


CASES: dict[str, tuple[Callable[[Path], Any], Callable[[Any], Any]]] = {
    "OrtRuntime": (lambda _: OrtRuntime(graph(SENTENCE)), run),
    "PooledTokens": (
        lambda _: PooledTokens(OrtRuntime(graph(OFFICIAL))),
        lambda r: r.run(INPUTS | TASKS),
    ),
    "ChunkHead": (lambda _: ChunkHead(fake()), lambda r: r.run(INPUTS | CHUNKS)),
    "TrtRuntime": (make_trt, run),
    "TrtRuntime's memory": (make_trt, lambda r: r.profile_memory()),
    "FlashReference": (lambda _: FlashReference(Tiny()), run),
    "FlashReference's tokens": (
        lambda _: FlashReference(Tiny()),
        lambda r: r.token_vectors(INPUTS["input_ids"]),
    ),
    "TorchModule": (lambda _: TorchModule(Pooled()), run),
    "Embedder": (
        lambda _: Embedder(make_manifest(), sample_tokenizer(64), fake()),
        lambda e: e.encode(["x"]),
    ),
    "Embedder's chunks": (
        lambda _: Embedder(make_manifest(), sample_tokenizer(64), fake()),
        lambda e: e.encode_chunks("x", sentences=1),
    ),
    "TritonEmbedder http": (
        lambda _: TritonEmbedder("http://127.0.0.1:9"),
        lambda e: e.encode(["x"]),
    ),
    "TritonEmbedder grpc": (
        lambda _: TritonEmbedder("grpc://127.0.0.1:9"),
        lambda e: e.encode(["x"]),
    ),
    "TritonEmbedder's chunks": (
        lambda _: TritonEmbedder("http://127.0.0.1:9"),
        lambda e: e.encode_chunks("x", sentences=1),
    ),
    "TritonEmbedder's tasks": (lambda _: TritonEmbedder("http://127.0.0.1:9"), lambda e: e.tasks),
}
WORKING = [name for name in CASES if "Triton" not in name and "chunks" not in name]
every = pytest.mark.parametrize("case", CASES)


@every
def test_closing_twice_is_harmless_and_use_afterwards_is_one_line(
    case: str, tmp_path: Path
) -> None:
    make, use = CASES[case]
    subject = make(tmp_path)
    if case in WORKING:
        use(subject)
    subject.close()
    subject.close()
    for again in (use, lambda s: s.__enter__(), pickle.dumps):
        with pytest.raises(AdaptrtError, match=r"^this \w+ is closed; (load|connect)") as caught:
            again(subject)
        assert "\n" not in str(caught.value)
    subject.close()


@pytest.mark.parametrize("case", [name for name in CASES if "Triton" not in name])
@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_what_belongs_to_this_process_says_that_it_cannot_be_copied(
    case: str, copied: Callable[[Any], Any], tmp_path: Path
) -> None:
    with CASES[case][0](tmp_path) as subject:
        name = type(subject).__name__
        with pytest.raises(TypeError, match=f"{name} cannot be pickled or copied: .* make another"):
            copied(subject)


@pytest.mark.parametrize("case", WORKING)
def test_closing_while_others_run_lets_them_finish(case: str, tmp_path: Path) -> None:
    """Freed under a running call, a session or an engine takes the process with it."""
    make, use = CASES[case]
    for _ in range(5):
        subject = make(tmp_path)
        started = threading.Barrier(5)

        def work(subject: Any = subject, started: threading.Barrier = started) -> str:
            use(subject)
            started.wait()
            try:
                while True:
                    use(subject)
            except AdaptrtError as error:
                return str(error)

        with ThreadPoolExecutor(4) as pool:
            found = [pool.submit(work) for _ in range(4)]
            started.wait()
            subject.close()
            assert all("is closed" in f.result(timeout=30) for f in found)


class Slow(RuntimeBase):
    """A call that goes on until it is told to end."""

    name = "slow"

    def __init__(self) -> None:
        self.inside, self.go_on = threading.Event(), threading.Event()
        self.freed = 0

    @while_open
    def run(self, inputs: Any) -> Any:
        self.inside.set()
        assert self.go_on.wait(30)
        assert not self.freed
        return inputs

    def _free(self) -> None:
        self.freed += 1


def test_the_last_call_under_way_frees_and_nothing_waits_for_it() -> None:
    subject = Slow()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(subject.run, INPUTS)
        assert subject.inside.wait(30)
        subject.close()
        assert subject.freed == 0
        with pytest.raises(AdaptrtError, match="this Slow is closed"):
            subject.run(INPUTS)
        subject.go_on.set()
        assert answer.result(30) is INPUTS
    assert subject.freed == 1
    subject.close()
    assert subject.freed == 1


def test_error_in_a_call_does_not_keep_it_open() -> None:
    subject = Slow()
    subject.go_on.set()
    subject.freed = -1
    with pytest.raises(AssertionError):
        subject.run(INPUTS)
    subject.close()
    assert subject.freed == 0


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "grpc://127.0.0.1:9"])
def test_client_is_copied_by_connecting_again(url: str) -> None:
    with TritonEmbedder(url, batch_size=7, deadline=0.3) as client:
        copies = [pickle.loads(pickle.dumps(client)), copy.deepcopy(client)]
    for other in copies:
        with other, pytest.raises(AdaptrtError, match="nothing listens"):
            other.encode(["x"])
        connection = other._connection
        assert (connection.url, other._batch_size, connection.deadline) == (url, 7, 0.3)
