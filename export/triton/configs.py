"""The models' configurations, built as Triton's own ``ModelConfig`` messages.

A field that a server does not know makes it refuse the whole model, so what came after the release
asked for is left out (:class:`Release`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2 as pb

from export.triton.settings import Allocation, Batching, EncoderSettings, Settings
from runtimes.choices import AdapterMode, Choice, Interface, Target
from runtimes.errors import InputError
from runtimes.fingerprint import BundleFingerprints, make_fingerprint
from runtimes.heads import HEADS, graph_inputs
from runtimes.manifest import Manifest
from runtimes.open import cpu_executor
from runtimes.schemes import INT8W, SCHEMES, openvino_products
from runtimes.serving import requests
from runtimes.tensors import BATCH, HIDDEN, SEQUENCE, Tensor

GRAPH_FILE = "model.onnx"  # Triton's own default name
IR_FILE, IR_WEIGHTS = "model.xml", "model.bin"  # its OpenVINO backend's
_OLDEST = (24, 10)  # what the tests run
# When the TensorRT backend learned to allocate by profile.
_ALLOCATION_SINCE = (25, 5)
# ONNX Runtime 1.23, the first that reads opset 23, which bundles before schema 1.4 declare, and
# that multiplies weights of 8 bits alone.
_NEWER_ORT_SINCE = (25, 8)
_TYPES = {"int64": pb.TYPE_INT64, "float32": pb.TYPE_FP32}


class Backend(Choice):
    """What executes an encoder."""

    TENSORRT = "tensorrt"
    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"
    PYTHON = "python"  # the bundle's CPU executor inside a Python model, for servers with no other


@dataclass(frozen=True, order=True)
class Release:
    """A Triton release by its container's name, such as 24.10."""

    year: int
    month: int

    @classmethod
    def parse(cls, name: str) -> Release:
        """Raises :class:`InputError` for what names no release, or one before 24.10."""
        match = re.fullmatch(r"(\d\d)\.(0[1-9]|1[0-2])", name)
        if match is None or (int(match[1]), int(match[2])) < _OLDEST:
            raise InputError(
                f"TRITON_VERSION: got {name!r}, expected a container's name such as 24.10 (the "
                "oldest) or 25.08"
            )
        return cls(int(match[1]), int(match[2]))

    def has(self, since: tuple[int, int]) -> bool:
        """Whether what came with ``since`` is in this release."""
        return (self.year, self.month) >= since


def front_config(
    settings: Settings, manifests: Iterable[Manifest], on_gpu: Iterable[str] = ()
) -> pb.ModelConfig:
    """``embed``: whole requests, not batched here; the encoders batch what it sends them.

    Its parameters tell clients the tasks, dimensions and limits, and itself which encoders want
    the large calls of a GPU.
    """
    # Each instance waits in one request at a time, so their number is that of requests in work.
    config = _python("embed", settings, settings.embed.instances)
    bundles = list(manifests)
    text, flag, number = pb.TYPE_STRING, pb.TYPE_BOOL, pb.TYPE_INT32
    config.input.append(_tensor(requests.TEXT, text, [-1]))
    for name, kind, dims in (
        (requests.TASK, text, [-1]),
        (requests.DIMENSIONS, number, [1]),
        (requests.PREFIX, flag, [1]),
        (requests.TRUNCATE, flag, [1]),
        (requests.LATE_CHUNKING, flag, [1]),
        (requests.CHUNKS, number, [-1, 2]),
        (requests.CHUNK_TOKENS, number, [1]),
        (requests.SENTENCES, number, [1]),
    ):
        config.input.append(_tensor(name, kind, dims, optional=True))
    config.output.append(_output(requests.EMBEDDING, pb.TYPE_FP32, [-1, -1]))
    config.output.append(_output(requests.WARNINGS, text, [-1]))
    config.output.append(_output(requests.SPANS, number, [-1, 3]))
    config.output.append(_output(requests.WINDOWS, number, [-1, 3]))
    # Equal requests answered from memory: vectors never change while a repository is loaded.
    config.response_cache.enable = settings.embed.cache
    tasks = sorted({task for m in bundles for task in m.prefixes})
    _parameters(
        config,
        {
            "tasks": ",".join(tasks),
            "dimensions": ",".join(map(str, bundles[0].dimensions)),
            "max_tokens": str(min(m.max_tokens for m in bundles)),
            "max_bytes": str(settings.embed.max_bytes),
            requests.FINGERPRINTS: _fingerprints(bundles),
        },
    )
    if names := ",".join(on_gpu):
        _parameters(config, {"on_gpu": names})
    # No warm-up: it would need the encoders, and models load in any order.
    return config


def _fingerprints(manifests: Iterable[Manifest]) -> str:
    """What determines the vectors of each task, without canaries: clients embed those here."""
    rank = {AdapterMode.SWITCHABLE: 0, AdapterMode.MERGED: 1}  # of two with a task
    ordered = sorted(manifests, key=lambda m: rank.get(m.adapter, 0))
    owners = {task: manifest for manifest in ordered for task in manifest.prefixes}
    ones = [
        make_fingerprint(manifest, task=task, vectors=(), executed="triton")
        for task, manifest in owners.items()
    ]
    return BundleFingerprints(fingerprints=tuple(ones)).to_bytes().decode()


def tokenize_config(settings: Settings, manifests: Iterable[Manifest]) -> pb.ModelConfig:
    """``tokenize``: the rows' ids one after another, so that nothing is padded on the way.

    What it gets has the task's prefix before it.
    """
    config = _python("tokenize", settings, settings.tokenize.instances)
    prefix = max(len(text.encode()) for m in manifests for text in m.prefixes.values())
    _parameters(config, {"max_bytes": str(settings.embed.max_bytes + prefix)})
    config.input.append(_tensor("TEXT", pb.TYPE_STRING, [-1]))
    config.input.append(_tensor("OFFSETS_WANTED", pb.TYPE_BOOL, [1]))
    for name, dims in (("IDS", [-1]), ("LENGTHS", [-1]), ("OFFSETS", [-1, 2])):
        config.output.append(_output(name, pb.TYPE_INT64, dims))
    return config


def encoder_config(
    name: str, manifest: Manifest, backend: Backend, settings: Settings, release: Release
) -> pb.ModelConfig:
    """An encoder: the same tensors whatever executes it."""
    chosen = settings.encoder
    # OpenVINO's backend would make the batch axis as long as max_batch_size for every call.
    batched = backend is not Backend.OPENVINO
    rows = manifest.max_batch if batched else 0
    config = pb.ModelConfig(name=name, backend=backend.value, max_batch_size=rows)
    config.version_policy.latest.num_versions = settings.versions
    _encoder_tensors(config, manifest, batched=batched)
    cpu = backend is not Backend.TENSORRT  # our other graphs are those for CPUs
    if chosen.batching is Batching.ALWAYS or (chosen.batching is Batching.GPU and not cpu):
        _batching(config.dynamic_batching, chosen)
    kinds = pb.ModelInstanceGroup
    config.instance_group.append(
        kinds(
            count=chosen.instances,
            kind=kinds.KIND_CPU if cpu else kinds.KIND_GPU,
            gpus=[] if cpu else chosen.gpus,
        )
    )
    match backend:
        case Backend.TENSORRT:
            _tensorrt(config, manifest, chosen.allocation, release)
        case Backend.ONNXRUNTIME:
            _onnxruntime(config, manifest, release)
        case Backend.OPENVINO:
            _openvino(config, manifest, chosen)
        case Backend.PYTHON:
            executor = cpu_executor(manifest).name
            _parameters(config, {"executor": executor, "threads": str(chosen.threads)})
    # The first call of a shape is slow (kernels are chosen, memory is taken): before it is ready.
    for tokens in chosen.warmup_tokens:
        if tokens <= manifest.max_tokens:
            config.model_warmup.append(_warmup(manifest, tokens, batched=batched))
    return config


def warmup_files(config: pb.ModelConfig) -> dict[str, NDArray[Any]]:
    """What the warm-up's inputs hold, by file name: ones (a mask of zeros would divide by 0)."""
    dtypes = {number: dtype for dtype, number in _TYPES.items()}
    return {
        value.input_data_file: np.ones(list(value.dims), dtypes[value.data_type])
        for sample in config.model_warmup
        for value in sample.inputs.values()
    }


def _python(name: str, settings: Settings, instances: int) -> pb.ModelConfig:
    config = pb.ModelConfig(name=name, backend="python", max_batch_size=0)
    config.version_policy.latest.num_versions = settings.versions
    config.instance_group.append(
        pb.ModelInstanceGroup(count=instances, kind=pb.ModelInstanceGroup.KIND_CPU)
    )
    return config


def _encoder_tensors(config: pb.ModelConfig, manifest: Manifest, *, batched: bool) -> None:
    """The tensors of the encoder's contract; where ``batched``, Triton's batcher adds the batch."""
    fixed = {HIDDEN.name: manifest.architecture.hidden}
    for tensor in _inputs(manifest):
        if batched and tensor.axes == (
            BATCH,
        ):  # a tensor of no axes must be sent as one of an axis of 1
            value = _tensor(tensor.name, _TYPES[tensor.dtype], [1])
            value.reshape.SetInParent()
        else:
            dims = _dims(tensor, fixed, batched=batched)
            value = _tensor(tensor.name, _TYPES[tensor.dtype], dims)
        config.input.append(value)
    output = HEADS[manifest.head].output
    dims = _dims(output, fixed, batched=batched)
    config.output.append(_output(output.name, _TYPES[output.dtype], dims))


def _inputs(manifest: Manifest) -> tuple[Tensor, ...]:
    """A Python encoder gives the official interface's graph our own interface."""
    adapter, head = manifest.adapter, manifest.head
    return graph_inputs(adapter, Interface.SENTENCE, head)


def _dims(tensor: Tensor, sizes: Mapping[str, int], *, batched: bool) -> list[int]:
    """The sizes, after the batch where ``batched``; -1 where they differ from call to call."""
    return [sizes.get(axis.name, -1) for axis in tensor.axes[batched:]]


def _batching(batching: pb.ModelDynamicBatching, chosen: EncoderSettings) -> None:
    """Joins what waits. Not by default on a CPU, where calls are full and 24.10's batcher stalls.

    It joins requests of equal lengths only; waiting for more of them pays on GPUs. No preferred
    size: engines have one profile for all batch sizes.
    """
    batching.max_queue_delay_microseconds = chosen.queue_delay_us
    # Overload answers with an error at once, or after the timeout, and not with endless waiting.
    policy = batching.default_queue_policy
    policy.timeout_action = pb.ModelQueuePolicy.REJECT
    policy.default_timeout_microseconds = chosen.queue_timeout_ms * 1000
    policy.allow_timeout_override = True
    policy.max_queue_size = chosen.queue_size


def _tensorrt(
    config: pb.ModelConfig, manifest: Manifest, allocation: Allocation, release: Release
) -> None:
    engines = manifest.engines(Target.TENSORRT)
    if not engines:
        raise InputError(
            "ENCODER=tensorrt: the bundle has no TensorRT engine (Triton does not load those of "
            "TensorRT-RTX); build one with TARGET=tensorrt, or take ENCODER=python"
        )
    for engine in engines:
        config.cc_model_filenames[_capability(str(engine.gpu))] = engine.path
    config.default_model_filename = engines[0].path
    if release.has(_ALLOCATION_SINCE):
        # STATIC keeps memory for the longest text in every instance, used or not.
        _parameters(config, {"execution_context_allocation_strategy": allocation.value})


def _capability(gpu: str) -> str:
    """``sm89`` → ``8.9``, ``sm120`` → ``12.0``."""
    digits = gpu.removeprefix("sm")
    return f"{digits[:-1]}.{digits[-1]}"


def _onnxruntime(config: pb.ModelConfig, manifest: Manifest, release: Release) -> None:
    older = f"ENCODER=onnxruntime: the ONNX Runtime of Triton {release.year}.{release.month:02d}"
    if manifest.schema_minor < 4 and not release.has(_NEWER_ORT_SINCE):
        raise InputError(
            f"{older} does not read this bundle's opset 23; build the bundle again, or take "
            "TRITON_VERSION=25.08 or later, or ENCODER=python"
        )
    if _has_int8_weights(manifest) and not release.has(_NEWER_ORT_SINCE):
        raise InputError(
            f"{older} multiplies no weights in 8 bits; take TRITON_VERSION=25.08 or later, or "
            "ENCODER=python"
        )
    if manifest.interface is not Interface.SENTENCE:
        raise InputError("ENCODER=onnxruntime: needs INTERFACE=sentence; take ENCODER=python")
    config.default_model_filename = GRAPH_FILE


def _has_int8_weights(manifest: Manifest) -> bool:
    """Whether weights alone are in 8 bits: all of the scheme, or some that were eased."""
    eased = manifest.quantisation.eased_to if manifest.quantisation else None
    kinds = {manifest.precision, *([eased] if eased else [])}
    return any(SCHEMES[kind].storage == INT8W for kind in kinds)


def _openvino(config: pb.ModelConfig, manifest: Manifest, chosen: EncoderSettings) -> None:
    """Its parameters: all that the backend can be told of what the executor sets.

    It knows of the type of products only HINT_BF16=YES, and OpenVINO takes BF16 by default where
    the CPU has it: that a graph is to be multiplied in FP32 cannot be said.
    """
    if manifest.target.name is not Target.OPENVINO:
        raise InputError(
            "ENCODER=openvino: the bundle is not for it; build it with TARGET=openvino"
        )
    if manifest.interface is not Interface.SENTENCE:
        raise InputError("ENCODER=openvino: needs INTERFACE=sentence; take ENCODER=python")
    if openvino_products(manifest.precision, manifest.rest) != "bf16":
        raise InputError(
            "ENCODER=openvino: Triton's backend cannot be told to multiply in FP32, and OpenVINO "
            "takes BF16 where the CPU has it; build with PRECISION=bf16, or int8 with REST=bf16, "
            "or take ENCODER=python"
        )
    if chosen.batching is Batching.ALWAYS:
        raise InputError(
            "ENCODER=openvino: Triton's backend joins no requests of changing sizes; leave out "
            'batching = "always", or take ENCODER=python'
        )
    values = {"HINT_BF16": "YES", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
    if chosen.threads:
        values["INFERENCE_NUM_THREADS"] = str(chosen.threads)
    _parameters(config, values)
    config.default_model_filename = IR_FILE


def _warmup(manifest: Manifest, tokens: int, *, batched: bool) -> pb.ModelWarmup:
    sample = pb.ModelWarmup(name=f"{tokens} tokens", batch_size=1)
    for tensor in _inputs(manifest):
        value = sample.inputs[tensor.name]
        value.data_type = _TYPES[tensor.dtype]
        value.input_data_file = f"{tensor.name}-{tokens}"
        axes = tensor.axes[batched:] or (BATCH,)
        value.dims.extend(1 if axis is not SEQUENCE else tokens for axis in axes)
    return sample


def _tensor(name: str, kind: int, dims: list[int], *, optional: bool = False) -> pb.ModelInput:
    return pb.ModelInput(name=name, data_type=kind, dims=dims, optional=optional)


def _output(name: str, kind: int, dims: list[int]) -> pb.ModelOutput:
    return pb.ModelOutput(name=name, data_type=kind, dims=dims)


def _parameters(config: pb.ModelConfig, values: Mapping[str, str]) -> None:
    for name, value in values.items():
        config.parameters[name].string_value = value
