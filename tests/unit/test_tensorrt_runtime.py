"""The TensorRT executor: buffers, profiles, CUDA graphs and errors, without a GPU."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorrt_rtx_bindings as rtx

from runtimes import Embedder
from runtimes.choices import Target
from runtimes.errors import AdaptrtError, GateError, InputError, MissingError
from runtimes.executors.tensorrt.buffers import AT_ONCE
from runtimes.executors.tensorrt.cuda import Cuda
from runtimes.executors.tensorrt.engine import EngineFile
from runtimes.executors.tensorrt.padding import GRAPH_TOKENS, step_up
from runtimes.executors.tensorrt.recordings import GRAPHS
from runtimes.executors.tensorrt.runtime import TrtRuntime, engine_file
from runtimes.heads import CHUNK_EMBEDDING, CHUNK_WEIGHTS
from runtimes.manifest import Artifact
from runtimes.profiles import Profile, choose, largest_batch
from runtimes.tensors import ATTENTION_MASK, INPUT_IDS, SENTENCE_EMBEDDING, Tensor
from tests.runtime_support import make_manifest, sample_tokenizer
from tests.unit.fake_cuda import FakeCuda
from tests.unit.fake_tensorrt import MEMORY, Scenario, expected, fake_module

VERSION = "tensorrt 11.4.0.106"
FLAVOURS = ("tensorrt", "tensorrt_rtx")


@pytest.fixture
def file(tmp_path: Path) -> EngineFile:
    path = tmp_path / "encoder.sm89.engine"
    path.write_bytes(b"plan")
    return EngineFile(
        path=path,
        sha256=hashlib.sha256(b"plan").hexdigest(),
        gpu="sm89",
        version=VERSION,
        profiles=("short", "long"),
    )


class Bench:
    """An executor over fakes."""

    def __init__(
        self,
        file: EngineFile,
        scenario: Scenario,
        flavour: str = "tensorrt",
        fail: Mapping[str, int] | None = None,
    ):
        self.cuda, self.scenario = FakeCuda(**fail or {}), scenario
        self.module = fake_module(rtx, self.cuda, scenario, flavour)
        self.file = file

    def open(self, **options: Any) -> TrtRuntime:
        return TrtRuntime(self.module, self.file, Cuda(self.cuda), "sm89", **options)


INPUTS = (INPUT_IDS, ATTENTION_MASK)
CHUNKS_OUT = Tensor(
    name=SENTENCE_EMBEDDING.name, dtype="float32", axes=CHUNK_EMBEDDING.axes
)  # the fake's one output has one name


def chunked(rows: int, chunks: int, tokens: int) -> dict[str, Any]:
    """Each chunk holds the first token and one of its own."""
    inputs = batch(rows, tokens)
    weights = np.zeros((rows, chunks, tokens), np.float32)
    weights[:, :, 0] = 1
    weights[:, np.arange(chunks), np.arange(chunks) % tokens] = 1
    return inputs | {"chunk_weights": weights}


def batch(rows: int, tokens: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    mask = np.ones((rows, tokens), np.int64)
    mask[0, tokens // 2 + 1 :] = 0
    return {"input_ids": rng.integers(5, 100, (rows, tokens)), "attention_mask": mask}


def check(runtime: TrtRuntime, inputs: dict[str, Any]) -> None:
    vectors = runtime.run(inputs)["sentence_embedding"]
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, expected(inputs))


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_runs_and_frees_everything(file: EngineFile, flavour: str) -> None:
    bench = Bench(file, Scenario(), flavour)
    with bench.open() as runtime:
        assert runtime.name == f"{flavour}-sm89"
        for shape in ((1, 1), (4, 8), (2, 3), (1, 32), (2, 20), (4, 8)):
            check(runtime, batch(*shape, seed=sum(shape)))
    assert bench.cuda.held == {}


def test_results_survive_the_next_call(file: EngineFile) -> None:
    with Bench(file, Scenario()).open() as runtime:
        first = runtime.run(batch(2, 4, 1))["sentence_embedding"]
        runtime.run(batch(2, 4, 2))
        np.testing.assert_array_equal(first, expected(batch(2, 4, 1)))


def test_memory_is_taken_once_per_profile_at_its_first_use(file: EngineFile) -> None:
    bench = Bench(file, Scenario(), "tensorrt_rtx")
    with bench.open() as runtime:
        assert bench.cuda.count("cudaMalloc") == 0
        for seed in range(3):
            check(runtime, batch(3, 7, seed))
            check(runtime, batch(1, 2, seed))
        assert bench.cuda.count("cudaMalloc") == 1 + 3  # activations, two inputs, one output
        assert bench.cuda.count("cudaMallocHost") == 3
        check(runtime, batch(1, 30))
        assert bench.cuda.count("cudaMalloc") == 8
        assert len(bench.scenario.contexts) == 2
        assert runtime.profile_memory() == list(MEMORY)


@pytest.mark.parametrize("shape", [(5, 4), (1, 33), (3, 20), (0, 4)])
def test_shape_beyond_every_profile_is_refused_and_harmless(
    file: EngineFile, shape: tuple[int, int]
) -> None:
    with Bench(file, Scenario()).open() as runtime:
        message = r"fits no profile of short \(batch 1–4 × 1–8 tokens\), long"
        inputs = {n: np.ones(shape, np.int64) for n in ("input_ids", "attention_mask")}
        with pytest.raises(InputError, match=message):
            runtime.run(inputs)
        check(runtime, batch(1, 4))


def test_wrong_type_is_refused_before_any_copy(file: EngineFile) -> None:
    """TensorRT would read the bytes of INT32 ids as INT64."""
    bench = Bench(file, Scenario())
    with bench.open() as runtime:
        inputs = batch(2, 4)
        inputs["input_ids"] = inputs["input_ids"].astype(np.int32)
        with pytest.raises(InputError, match=r"input_ids: got int32 of shape \[2, 4\].*int64"):
            runtime.run(inputs)
        assert bench.cuda.count("cudaMemcpyAsync") == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i.pop("attention_mask"), "inputs: got input_ids, expected"),
        (lambda i: i.update(more=i["input_ids"]), "inputs: got .*more"),
        (lambda i: i.update(attention_mask=i["attention_mask"][:, :2]), "attention_mask: got"),
        (lambda i: i.update(input_ids=i["input_ids"][0]), r"expected \[batch, tokens\]"),
    ],
)
def test_malformed_inputs_are_refused(file: EngineFile, change: Any, message: str) -> None:
    with Bench(file, Scenario()).open() as runtime:
        inputs = batch(2, 4)
        change(inputs)
        with pytest.raises(InputError, match=message):
            runtime.run(inputs)


def test_task_ids_reach_the_engine_and_unknown_ones_do_not(file: EngineFile) -> None:
    with Bench(file, Scenario(switchable=True)).open(tasks=("query", "passage")) as runtime:
        inputs = batch(3, 4) | {"task_id": np.array([1, 0, -1])}
        check(runtime, inputs)
        with pytest.raises(InputError, match="task_id: got 2"):
            runtime.run(inputs | {"task_id": np.array([2, 0, 0])})
        with pytest.raises(InputError, match=r"task_id: got shape \[2\]"):
            runtime.run(inputs | {"task_id": np.array([0, 0])})


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("set_input_shape", r"refused shape \[4, 8\] of input_ids in profile short"),
        ("set_tensor_address", "refused the address of input_ids"),
        ("set_optimization_profile_async", "refused profile short"),
        ("create_execution_context", "made no execution context"),
        ("get_tensor_shape", "gave no shape of sentence_embedding"),
        ("execute_async_v3", r"did not execute shapes input_ids \[2, 8\]"),
    ],
)
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_refusal_of_any_call_is_an_error_and_frees(
    file: EngineFile, flavour: str, method: str, message: str
) -> None:
    bench = Bench(file, Scenario(fail={method: 1}), flavour)
    runtime = bench.open()
    with pytest.raises(AdaptrtError, match=rf"encoder\.sm89\.engine: TensorRT {message}"):
        runtime.run(batch(2, 4))
    assert set(bench.cuda.held.values()) <= {"cudaStream"}
    runtime.close()
    assert bench.cuda.held == {}


@pytest.mark.parametrize(
    ("function", "number", "message"),
    [
        ("cudaMalloc", 1, "profile short .* needs .* for activations: cudaMalloc"),
        ("cudaMalloc", 2, r"input_ids: no buffer of 256 bytes for shape \[4, 8\]: cudaMalloc"),
        ("cudaMalloc", 4, "sentence_embedding: no buffer of 48 bytes"),
        ("cudaMallocHost", 1, "input_ids: no buffer"),
        ("cudaMallocHost", 3, "sentence_embedding: no buffer"),
        ("cudaMemcpyAsync", 1, "cudaMemcpyAsync: cudaErrorMemoryAllocation"),
        ("cudaMemcpyAsync", 3, "cudaMemcpyAsync"),
        ("cudaStreamSynchronize", 1, "cudaStreamSynchronize"),
        ("cudaStreamSynchronize", 2, r"cudaStreamSynchronize: .*\(out of memory\)"),
    ],
)
def test_cuda_error_names_its_place_and_frees(
    file: EngineFile, function: str, number: int, message: str
) -> None:
    bench = Bench(file, Scenario(), fail={function: number})
    runtime = bench.open()
    with pytest.raises(AdaptrtError, match=message):
        runtime.run(batch(2, 4))
    assert set(bench.cuda.held.values()) <= {"cudaStream"}
    runtime.close()
    assert bench.cuda.held == {}


def test_refused_allocation_leaves_other_profiles_usable(file: EngineFile) -> None:
    bench = Bench(file, Scenario(), fail={"cudaMalloc": 5})
    with bench.open() as runtime:
        check(runtime, batch(2, 4))
        with pytest.raises(AdaptrtError, match="profile long"):
            runtime.run(batch(1, 30))
        check(runtime, batch(2, 5))


def test_failed_execution_closes_the_runtime(file: EngineFile) -> None:
    """After a stream error the GPU's state is unknown, so nothing may run on it."""
    bench = Bench(file, Scenario(), fail={"cudaStreamSynchronize": 3})
    runtime = bench.open()
    check(runtime, batch(2, 4))
    with pytest.raises(AdaptrtError, match="cudaStreamSynchronize"):
        runtime.run(batch(2, 5))
    assert bench.cuda.held == {}
    with pytest.raises(AdaptrtError, match="closed"):
        runtime.run(batch(2, 4))


def test_call_that_waits_for_another_does_not_run_on_what_that_one_left(file: EngineFile) -> None:
    bench = Bench(file, Scenario())
    runtime = bench.open()
    with ThreadPoolExecutor(1) as pool:
        with runtime._lock:  # a call is under way
            waiting = pool.submit(runtime.run, batch(2, 4))
            while not runtime._users:
                time.sleep(0.001)
            runtime.close()  # as that call does when it fails
            assert bench.cuda.held != {}
        with pytest.raises(AdaptrtError, match="this TrtRuntime is closed"):
            waiting.result(30)
    assert bench.cuda.held == {}
    assert bench.cuda.count("cudaMemcpyAsync") == 0


def test_stream_that_cannot_be_made_is_an_error(file: EngineFile) -> None:
    bench = Bench(file, Scenario(), fail={"cudaStreamCreateWithFlags": 1})
    with pytest.raises(AdaptrtError, match="cudaStreamCreateWithFlags"):
        bench.open()
    assert bench.cuda.held == {}


def test_freeing_after_an_error_does_not_hide_it(file: EngineFile) -> None:
    """A CUDA error is reported by every later call too."""
    bench = Bench(
        file, Scenario(), fail={"cudaStreamSynchronize": 2, "cudaFree": 1, "cudaFreeHost": 1}
    )
    runtime = bench.open()
    with pytest.raises(AdaptrtError, match="cudaStreamSynchronize"):
        runtime.run(batch(2, 4))


def test_repeated_shapes_are_recorded_once_and_launched(file: EngineFile) -> None:
    bench = Bench(file, Scenario())
    with bench.open() as runtime:
        for seed in range(5):
            check(runtime, batch(2, 4, seed))
            check(runtime, batch(3, 6, seed))
        assert bench.cuda.count("cudaGraphInstantiate") == 2
        assert bench.cuda.count("cudaGraphLaunch") == 2 * 3
        assert "cudaGraph" not in bench.cuda.held.values()  # only executables are kept
        # A recorded context stays untouched: one for changing shapes, one per recording.
        assert len(bench.scenario.contexts) == 3
    assert bench.cuda.held == {}


WIDE = (((1, 1), (4, 64), (8, 8192)),)  # holds more shapes of the grid than graphs are kept


def test_old_recordings_are_forgotten_and_their_contexts_serve_again(file: EngineFile) -> None:
    bench = Bench(file, Scenario(profiles=WIDE))
    shapes = [(rows, tokens) for rows in (1, 2, 4) for tokens in range(8, 72, 8)]
    with bench.open() as runtime:
        for seed in range(9):
            for shape in shapes:
                check(runtime, batch(*shape, seed=seed))
        assert list(bench.cuda.held.values()).count("cudaGraphExec") == GRAPHS
        assert bench.cuda.count("cudaGraphInstantiate") > GRAPHS
        assert len(bench.scenario.contexts) == 1 + GRAPHS
        check(runtime, batch(1, 1))
    assert bench.cuda.held == {}


def test_shapes_in_turn_are_not_recorded_each_time(file: EngineFile) -> None:
    """One more than there are places would else record a graph at every other call."""
    bench = Bench(file, Scenario(profiles=WIDE))
    shapes = [(rows, tokens) for rows in (1, 2) for tokens in range(8, 72, 8)] + [(3, 8)]
    assert len(shapes) == GRAPHS + 1
    with bench.open() as runtime:
        for seed in range(10):
            for shape in shapes:
                check(runtime, batch(*shape, seed=seed))
    assert GRAPHS <= bench.cuda.count("cudaGraphInstantiate") <= GRAPHS + 2


def test_sights_of_shapes_that_never_come_again_drive_no_recording_out(file: EngineFile) -> None:
    bench = Bench(file, Scenario(profiles=WIDE))
    with bench.open() as runtime:
        for seed in range(3):
            check(runtime, batch(1, 8, seed))
        for rows in range(2, 5):
            for tokens in sorted({step_up(n, 8, 8) for n in range(1, 1000)}):
                check(runtime, batch(rows, tokens))
        before = bench.cuda.count("cudaGraphLaunch")
        check(runtime, batch(1, 8))
        assert bench.cuda.count("cudaGraphLaunch") == before + 1


def test_long_calls_are_not_recorded(file: EngineFile) -> None:
    bench = Bench(file, Scenario(profiles=WIDE))
    with bench.open() as runtime:
        for seed in range(4):
            check(runtime, batch(1, GRAPH_TOKENS + 512, seed))
    assert bench.cuda.count("cudaStreamBeginCapture") == 0


def test_neighbouring_shapes_share_one_recording(file: EngineFile) -> None:
    """Lengths of texts are free: without a grid hardly a shape comes twice."""
    bench = Bench(file, Scenario(profiles=WIDE, switchable=True))
    with bench.open() as runtime:
        for number, shape in enumerate([(3, 20), (4, 17), (4, 24), (3, 22), (4, 23)]):
            tasks = {"task_id": np.arange(shape[0]) % 2 - 1}
            check(runtime, batch(*shape, seed=number) | tasks)
    executed = {run["input_ids"].shape for run in bench.scenario.runs}
    assert executed == {(3, 24), (4, 24)}
    # A padding row of mask 0 would be a mean of nothing: it is a copy of the last row instead.
    assert all(run["attention_mask"].any(axis=1).all() for run in bench.scenario.runs)


def test_padding_rows_are_copies_of_the_last(file: EngineFile) -> None:
    bench = Bench(file, Scenario(profiles=WIDE, switchable=True))
    with bench.open() as runtime:
        check(runtime, batch(5, 7) | {"task_id": np.array([0, 1, 0, 1, 2])})
    (run,) = bench.scenario.runs
    assert run["input_ids"].shape == (6, 8)
    assert (run["input_ids"][:, 7] == 0).all()
    assert (run["attention_mask"][:, 7] == 0).all()
    for array in run.values():
        np.testing.assert_array_equal(array[5], array[4])


def test_chunk_weights_grow_with_the_calls_that_need_them(file: EngineFile) -> None:
    """32 × 1024 × 8192 weights are 1 GiB, on the host and on the GPU; hardly a call has them."""
    bench = Bench(file, Scenario(profiles=WIDE, chunks=1024))
    options = {"inputs": (*INPUTS, CHUNK_WEIGHTS), "outputs": (CHUNKS_OUT,)}
    with bench.open(**options) as runtime:
        for _ in range(3):
            check(runtime, chunked(1, 5, 20))
        largest = max(map(bench.cuda.size_of, bench.cuda.memory_of("cudaMalloc")))
        assert largest == AT_ONCE
        assert bench.cuda.count("cudaGraphInstantiate") == 1
        for shape in ((1, 900, 8192), (1, 5, 20), (1, 5, 20), (1, 5, 20)):
            check(runtime, chunked(*shape))
        largest = max(map(bench.cuda.size_of, bench.cuda.memory_of("cudaMalloc")))
        assert largest == 1024 * 8192 * 4
        assert bench.cuda.count("cudaGraphInstantiate") == 2  # anew, with the new address
    assert bench.cuda.held == {}


def test_refused_growth_leaves_the_executor_usable(file: EngineFile) -> None:
    bench = Bench(file, Scenario(profiles=WIDE, chunks=1024), fail={"cudaMalloc": 6})
    options = {"inputs": (*INPUTS, CHUNK_WEIGHTS), "outputs": (CHUNKS_OUT,)}
    with bench.open(**options) as runtime:
        check(runtime, chunked(1, 5, 20))
        message = r"chunk_weights: no buffer of 33554432 bytes for shape \[1, 1024, 8192\]"
        with pytest.raises(AdaptrtError, match=message):
            runtime.run(chunked(1, 900, 8192))
        check(runtime, chunked(1, 6, 20))
    assert bench.cuda.held == {}


def test_refused_address_after_growth_closes_the_executor(file: EngineFile) -> None:
    """The context still has the address of memory that is gone."""
    bench = Bench(file, Scenario(profiles=WIDE, chunks=1024, fail={"set_tensor_address": 5}))
    options = {"inputs": (*INPUTS, CHUNK_WEIGHTS), "outputs": (CHUNKS_OUT,)}
    runtime = bench.open(**options)
    check(runtime, chunked(1, 5, 20))
    with pytest.raises(AdaptrtError, match="refused the address of input_ids"):
        runtime.run(chunked(1, 900, 8192))
    assert bench.cuda.held == {}
    with pytest.raises(AdaptrtError, match="closed"):
        runtime.run(chunked(1, 5, 20))


@pytest.mark.parametrize(
    "failing",
    [
        "cudaStreamBeginCapture",
        "cudaStreamEndCapture",
        "cudaGraphInstantiate",
    ],
)
def test_shape_that_cannot_be_recorded_still_runs(file: EngineFile, failing: str) -> None:
    bench = Bench(file, Scenario(), fail={failing: 1})
    with bench.open() as runtime:
        check(runtime, batch(2, 4, 0))
        with pytest.warns(RuntimeWarning, match=f"no CUDA graphs.*{failing}"):
            check(runtime, batch(2, 4, 1))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check(runtime, batch(2, 4, 2))
    assert bench.cuda.held == {}


def test_context_that_cannot_be_made_for_a_recording_is_done_without(file: EngineFile) -> None:
    bench = Bench(file, Scenario(fail={"create_execution_context": 2}))
    with bench.open() as runtime:
        check(runtime, batch(2, 4, 0))
        with pytest.warns(RuntimeWarning, match=r"no CUDA graphs.*made no execution context"):
            check(runtime, batch(2, 4, 1))
        check(runtime, batch(2, 4, 2))
    assert bench.cuda.held == {}


def test_execution_that_fails_while_recording_still_runs(file: EngineFile) -> None:
    bench = Bench(file, Scenario(fail={"execute_async_v3": 3}))
    with bench.open() as runtime:
        check(runtime, batch(2, 4, 0))
        with pytest.warns(RuntimeWarning, match="did not execute while recording"):
            check(runtime, batch(2, 4, 1))
        check(runtime, batch(2, 4, 2))
    assert bench.cuda.held == {}


def test_failed_launch_frees_and_closes(file: EngineFile) -> None:
    bench = Bench(file, Scenario(), fail={"cudaGraphLaunch": 1})
    runtime = bench.open()
    check(runtime, batch(2, 4))
    check(runtime, batch(2, 4))
    with pytest.raises(AdaptrtError, match="cudaGraphLaunch"):
        runtime.run(batch(2, 4))
    assert bench.cuda.held == {}


def test_tensorrt_rtx_records_by_itself(file: EngineFile) -> None:
    bench = Bench(file, Scenario(), "tensorrt_rtx")
    with bench.open() as runtime:
        for seed in range(3):
            check(runtime, batch(2, 4, seed))
    assert bench.cuda.count("cudaStreamBeginCapture") == 0
    (config,) = (c.double for c in bench.scenario.configs)
    assert config.cuda_graph_strategy == rtx.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    strategy = rtx.ExecutionContextAllocationStrategy.USER_MANAGED
    config.set_execution_context_allocation_strategy.assert_called_with(strategy)


def test_tensorrt_rtx_compiles_before_it_runs(file: EngineFile) -> None:
    """In the background it would run other kernels meanwhile, and those would be timed."""
    bench = Bench(file, Scenario(profiles=WIDE), "tensorrt_rtx")
    with bench.open() as runtime:
        for shape in ((1, 20), (1, 4000), (5, 900), (1, 17)):
            check(runtime, batch(*shape))
    assert bench.scenario.fallbacks == 0
    assert len(bench.scenario.compiled) == 3  # 17 and 20 tokens share a shape


def test_tensorrt_rtx_compiles_a_bounded_number_of_shapes(file: EngineFile) -> None:
    bench = Bench(file, Scenario(profiles=WIDE), "tensorrt_rtx")
    with bench.open() as runtime:
        for tokens in range(1, 8193, 13):
            check(runtime, batch(1, tokens))
    assert len(bench.scenario.compiled) <= 64


def test_changed_engine_file_is_refused(file: EngineFile) -> None:
    file.path.write_bytes(b"plam")
    with pytest.raises(GateError, match=r"encoder\.sm89\.engine: SHA-256 .* recorded"):
        Bench(file, Scenario()).open()


@pytest.mark.parametrize(
    ("flavour", "words"),
    [("tensorrt", "version tag does not match"), ("tensorrt_rtx", r"\(UNSUPPORTED_CC\)")],
)
def test_engine_this_machine_cannot_load_says_what_it_was_built_for(
    file: EngineFile, flavour: str, words: str
) -> None:
    message = rf"built for sm89 by {VERSION}; here are sm89 and {flavour} .*{words}"
    with pytest.raises(MissingError, match=message):
        Bench(file, Scenario(loads=False), flavour).open()


def test_library_without_a_driver_is_a_missing_piece(file: EngineFile) -> None:
    with pytest.raises(MissingError, match="built for sm89"):
        Bench(file, Scenario(fail={"Runtime": 1})).open()


def stripped(file: EngineFile) -> EngineFile:
    return replace(file, weights=file.path.with_name("model.tensorrt.onnx"))


def test_engine_without_weights_takes_them_when_loaded(file: EngineFile) -> None:
    scenario = Scenario(refittable=True)
    with Bench(stripped(file), scenario).open() as runtime:
        assert scenario.counts["refit_from_file"] == scenario.counts["refit_cuda_engine"] == 1
        check(runtime, batch(1, 3))


@pytest.mark.parametrize(
    ("scenario", "error", "message"),
    [
        (Scenario(), InputError, "cannot be refitted; build with --refittable"),
        (
            Scenario(refittable=True, fail={"refit_from_file": 1}),
            AdaptrtError,
            "do not fit the engine: node mlp.fc1: has another shape",
        ),
        (
            Scenario(refittable=True, fail={"refit_cuda_engine": 1}),
            AdaptrtError,
            "refused the weights",
        ),
        (
            Scenario(refittable=True, missing=("emb_ln.bias",)),
            AdaptrtError,
            "1 weights of the engine are not in the graph, for example emb_ln.bias",
        ),
    ],
)
def test_failed_refit_is_an_error(
    file: EngineFile, scenario: Scenario, error: type[AdaptrtError], message: str
) -> None:
    with pytest.raises(error, match=message):
        Bench(stripped(file), scenario).open()


SHORT = Profile(name="short", min=(1, 1), opt=(8, 256), max=(32, 512))
LONG = Profile(name="long", min=(1, 512), opt=(1, 4096), max=(4, 8192))


@pytest.mark.parametrize(
    ("shape", "index"),
    [
        ((1, 1), 0),
        ((32, 512), 0),
        ((1, 512), 0),
        ((1, 513), 1),
        ((4, 8192), 1),
        ((5, 513), None),
        ((33, 1), None),
        ((1, 8193), None),
    ],
)
def test_tightest_profile_that_holds_the_shape(shape: tuple[int, int], index: int | None) -> None:
    assert choose((LONG, SHORT), *shape) == (None if index is None else 1 - index)


@pytest.mark.parametrize(("tokens", "rows"), [(1, 32), (512, 32), (513, 4), (8192, 4), (9000, 0)])
def test_largest_batch_by_length(tokens: int, rows: int) -> None:
    assert largest_batch((SHORT, LONG), tokens) == rows


def test_embedder_sends_only_batches_that_a_profile_takes(file: EngineFile) -> None:
    """Nine texts of 20 tokens: the budget allows one call, the long profile two rows."""
    texts = [" ".join(["a"] * n) for n in (*range(1, 30), *[18] * 9)]
    tokenizer = sample_tokenizer(32)
    manifest = make_manifest(dimensions=(3,), max_tokens=32, max_batch=16)
    with Embedder(manifest, tokenizer, Bench(file, Scenario()).open()) as embedder:
        vectors = embedder.encode(texts, prefix=False)
    rows = tokenizer.encode(texts)
    np.testing.assert_array_equal(vectors, [(row.sum(), len(row), 0) for row in rows])


def engines(*gpus: str, stripped: bool = False) -> tuple[Artifact, ...]:
    graph = Artifact(path="model.tensorrt.onnx", kind="tensorrt", bytes=1, sha256="0")
    return (
        graph,
        *(
            Artifact(
                path=f"encoder.{gpu}.engine",
                kind="tensorrt",
                bytes=1,
                sha256=gpu,
                gpu=gpu,
                stripped=stripped,
            )
            for gpu in gpus
        ),
    )


def test_engine_is_chosen_by_the_gpu_present() -> None:
    manifest = make_manifest(artifacts=engines("sm86", "sm90"), profiles=(SHORT, LONG))
    found = engine_file(Path("bundle"), manifest, Target.TENSORRT, "sm90")
    assert (found.path, found.sha256) == (Path("bundle/encoder.sm90.engine"), "sm90")
    assert (found.weights, found.profiles) == (None, ("short", "long"))


def test_stripped_engine_takes_the_bundles_graph() -> None:
    manifest = make_manifest(artifacts=engines("sm90", stripped=True))
    found = engine_file(Path("bundle"), manifest, Target.TENSORRT, "sm90")
    assert found.weights == Path("bundle/model.tensorrt.onnx")


def test_no_engine_for_the_gpu_present_says_which_there_are() -> None:
    manifest = make_manifest(artifacts=engines("sm86", "sm89"), versions={"tensorrt": VERSION})
    with pytest.raises(MissingError, match=rf"sm90; .*built for sm86, sm89 by {VERSION}.*GPU=sm90"):
        engine_file(Path("bundle"), manifest, Target.TENSORRT, "sm90")
