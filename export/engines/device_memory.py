"""Whether a device can hold an engine, and its building: an estimate, with the arithmetic shown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from export.checkpoint.encoder_config import EncoderConfig
from export.devices import GB, find_device
from export.engines.profiles import engine_profiles
from export.graph.gemms import gemm_modules
from export.spec import BuildSpec
from runtimes.errors import InputError
from runtimes.heads import graph_inputs
from runtimes.profiles import Profile
from runtimes.tensors import Tensor

# A CUDA context, TensorRT's libraries and Python: not measured.
CONTEXT = 0.6 * GB
_BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "int8": 1.0, "int4": 0.5}


def layer_bytes(spec: BuildSpec, config: EncoderConfig) -> float:
    """What the layers' matrices take at the build's precision: the least that weights can be."""
    storage = spec.scheme.storage
    size = _BYTES.get(spec.dtype, 4.0) if storage is None else _BYTES.get(storage.dtype, 1.0)
    return size * sum(m.rows * m.columns for m in gemm_modules(config).values())


def activation_bytes(
    config: EncoderConfig, dtype: str, profiles: Sequence[Profile], tensors: Sequence[Tensor]
) -> float:
    """What the engine takes beside its weights: activations, inputs and outputs of each profile.

    Fitted to what TensorRT-RTX reports of such graphs, two layers of the large model for sm86
    (2026-11-29): FP16 18.1 kB a token at 8 x 512, 4 x 2048 and 1 x 8192; FP32, whose attention is
    not fused, 30 kB and two matrices of scores. TensorRT 10.3 on a device was not asked.
    """
    size, total = _BYTES.get(dtype, 4.0), 0.0
    for profile in profiles:
        rows, tokens = profile.max
        total += rows * tokens * size * (config.intermediate + 5 * config.hidden)
        if dtype == "float32":
            total += 2 * rows * config.heads * tokens**2 * size
        for tensor in tensors:  # on the host too, which is the same memory
            width = 8 if tensor.dtype == "int64" else 4
            total += 2 * width * math.prod(tensor.shapes_in(profile)[2])
    return total


def require_fits(spec: BuildSpec, config: EncoderConfig, weights: float, *, least: bool) -> None:
    """Raise :class:`InputError`, with the arithmetic, for a build that its device cannot hold.

    ``weights`` in bytes; ``least``: known to be at least so many. The engine needs them once, its
    building twice: the graph's and the engine's. Nothing is said of a build for no device.
    """
    if spec.device is None:
        return
    device = find_device(spec.device)
    profiles = engine_profiles(spec.profiles, spec.limits)
    inputs = graph_inputs(spec.adapter, spec.interface, spec.head)
    activations = activation_bytes(config, spec.dtype, profiles, inputs)
    workspace = spec.workspace_gib * 2**30
    about = "at least " if least else ""
    needs = {
        f"run: weights {about}{_gb(weights)} + activations {_gb(activations)} of "
        f"{' and '.join(f'{p.max[0]}x{p.max[1]}' for p in profiles)} + CUDA {_gb(CONTEXT)}": (
            weights + activations + CONTEXT
        ),
        f"be built: weights twice, {about}{_gb(2 * weights)} + WORKSPACE {_gb(workspace)} + CUDA "
        f"{_gb(CONTEXT)}": 2 * weights + workspace + CONTEXT,
    }
    for words, size in needs.items():
        if size > device.available:
            raise InputError(
                f"DEVICE={device.name}: {device.memory} GB, of which {device.free:.0%} are free = "
                f"{_gb(device.available)}, but the engine needs {_gb(size)} to {words}; lower "
                "MAX_BATCH, MAX_TOKENS or WORKSPACE, or take a smaller PRECISION"
            )


def _gb(size: float) -> str:
    return f"{size / GB:.2f} GB"
