"""Streams samples through an FP32 graph and keeps what each GEMM reads as a histogram.

The reductions are nodes of the graph, so that a text's activations (5.6 GB for 8192 tokens at
full size) never leave it: per channel the exact greatest magnitude, and of at most 512 tokens,
evenly spread, the values for the histogram's body.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tqdm import tqdm

from calibration.observers import Histogram
from calibration.stratify import Sample
from runtimes.arrays import Arrays
from runtimes.errors import InputError
from runtimes.executors.ort import OrtRuntime

SAMPLED_TOKENS = 512
_STRIDE = "calibration.stride"


@dataclass
class Activation:
    """What a GEMM read: |x| over all samples, and the greatest |x| of each of its K channels."""

    histogram: Histogram = field(default_factory=Histogram)
    channel_max: NDArray[np.float32] = field(default_factory=lambda: np.zeros(1, np.float32))

    def add(self, channel_max: NDArray[np.float32], values: NDArray[np.float32]) -> None:
        """One text's greatest magnitudes ``[K]``, and the sampled ones of any shape."""
        self.histogram.add(values)
        self.histogram.add(channel_max.max())
        self.channel_max = np.maximum(self.channel_max, channel_max)


def collect(
    graph: Path,
    tensors: Mapping[str, str],
    samples: Sequence[Sample],
    *,
    threads: int | None = None,
    progress: bool = False,
    task_ids: Mapping[str, int] | None = None,
) -> dict[str, Activation]:
    """Run every sample alone, without padding, and observe its GEMMs' inputs.

    ``tensors`` maps a GEMM's name to the tensor of ``graph`` that it reads (``[1, sequence, K]``,
    FP32). A switchable graph takes ``task_ids``, the number of each sample's task. Nothing is
    written; weights stay in the graph's external file. Raises :class:`InputError` for a tensor
    that the graph does not have, and for an activation that is not finite.
    """
    if not samples:
        raise InputError("calibration: no text to run, expected at least one")
    activations = {name: Activation() for name in tensors}
    with OrtRuntime(_observed(graph, tensors), folder=graph.parent, threads=threads) as runtime:
        order = sorted(range(len(samples)), key=lambda i: -len(samples[i].ids))
        for index in tqdm(order, "calibration", disable=not progress, leave=False):
            values = runtime.run(_feeds(samples[index], task_ids))
            for name, activation in activations.items():
                if not np.isfinite(values[f"{name}.sum"]):
                    raise InputError(_not_finite(name, tensors[name], index, samples[index]))
                activation.add(values[f"{name}.channel_max"], values[f"{name}.values"])
    return activations


def _feeds(sample: Sample, task_ids: Mapping[str, int] | None) -> Arrays:
    ids = sample.ids[None]
    stride = math.ceil(ids.size / SAMPLED_TOKENS)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), _STRIDE: np.array([stride])}
    return feeds if task_ids is None else feeds | {"task_id": np.array([task_ids[sample.task]])}


def _not_finite(name: str, tensor: str, index: int, sample: Sample) -> str:
    return (
        f"calibration: the input of {name} ({tensor}) is not finite for text {index} "
        f"({sample.language}, {len(sample.ids)} tokens), expected finite activations in FP32; "
        "check the checkpoint's weights"
    )


def _observed(graph: Path, tensors: Mapping[str, str]) -> bytes:
    """The serialised graph with three outputs per GEMM; its weights remain references."""
    model = ir.load(graph)
    values = {v.name: v for node in model.graph for v in node.outputs}
    for name, tensor in tensors.items():
        if tensor not in values:
            raise InputError(f"{graph}: no tensor {tensor!r}, which {name} is to read")
    # ONNX Runtime orders execution from the last node without a consumer back to its inputs. In
    # this order the first layer's reductions come first, and its activations are freed.
    last_first = [v for v in reversed(values) if v in set(tensors.values())]
    stride = ir.Value(name=_STRIDE, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([1]))
    model.graph.inputs.append(stride)
    axes, first, second, end = (
        _constant(model, f"calibration.{name}", numbers)
        for name, numbers in (("axes", [0, 1]), ("first", [0]), ("second", [1]), ("end", [2**31]))
    )
    for name, tensor in sorted(tensors.items(), key=lambda item: last_first.index(item[1])):
        magnitudes = _append(model, "Abs", [values[tensor]], f"{name}.magnitudes")
        outputs = (
            _append(model, "ReduceMax", [magnitudes, axes], f"{name}.channel_max", keepdims=0),
            _append(model, "Slice", [magnitudes, first, end, second, stride], f"{name}.values"),
            # A maximum can lose NaN; a sum cannot.
            _append(model, "ReduceSum", [magnitudes], f"{name}.sum", keepdims=0),
        )
        model.graph.outputs.extend(outputs)
    serialised: bytes = ir.to_proto(model).SerializeToString()
    return serialised


def _constant(model: ir.Model, name: str, numbers: list[int]) -> ir.Value:
    tensor = ir.Tensor(np.array(numbers, np.int64), name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape)
    value.const_value = tensor
    model.graph.register_initializer(value)
    return value


def _append(
    model: ir.Model, op_type: str, inputs: Sequence[ir.Value], name: str, **attributes: int
) -> ir.Value:
    node = ir.node(op_type, inputs, attributes, name=name)
    node.outputs[0].name, node.outputs[0].type = name, ir.TensorType(ir.DataType.FLOAT)
    model.graph.append(node)
    return node.outputs[0]
