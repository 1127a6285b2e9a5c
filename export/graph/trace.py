"""Traces the encoder once per architecture into the portable graph, without any weights.

The module lies on PyTorch's meta device, so tracing needs no memory for weights; the graph's
initializers then point into the weight file that :mod:`export.graph.weights` writes per task.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch

from export.checkpoint.encoder_config import EncoderConfig
from export.graph.encoder import Encoder
from export.graph.weights import Slot, layout
from export.spec import GraphForm
from runtimes.bundle_files import SHARED_FILE
from runtimes.choices import AdapterMode
from runtimes.tensors import Tensor

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]  # type and shape by name
OPSET = 23  # the first with Attention and RotaryEmbedding


@dataclass(frozen=True)
class PortableGraph:
    """The traced graph as a serialised model whose weights lie in the slots' files."""

    proto: bytes
    slots: tuple[Slot, ...]
    dtype: str

    @property
    def tensors(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Type and shape of every weight, by name."""
        return {slot.name: (slot.dtype, slot.shape) for slot in self.slots}

    def model(self) -> ir.Model:
        """A fresh copy to lower or to save."""
        model: ir.Model = ir.from_proto(onnx.ModelProto.FromString(self.proto))
        return model


@lru_cache(maxsize=4)
def trace(
    config: EncoderConfig,
    dtype: str,
    max_batch: int,
    max_tokens: int,
    form: GraphForm = GraphForm(),  # noqa: B008  (frozen)
) -> PortableGraph:
    """The portable graph for one architecture, type and form; cached, so tasks share it."""
    with torch.device("meta"):
        encoder = Encoder(config, getattr(torch, dtype), max_tokens, form).eval()
        # One tensor each: the exporter would take one passed twice for a single input.
        examples = tuple(
            torch.ones(t.example_shape, dtype=getattr(torch, t.dtype)) for t in form.inputs
        )
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            encoder,
            args=examples,
            dynamo=True,
            optimize=False,  # below, once the weights are out of its sight
            opset_version=OPSET,
            input_names=[tensor.name for tensor in form.inputs],
            output_names=[form.output.name],
            dynamic_shapes=_dynamic_shapes(form.inputs, max_batch, max_tokens),
            verbose=False,
        )
        if program is None:  # only with the exporter's legacy arguments
            raise RuntimeError("torch.onnx.export returned nothing")
        model = program.model
        weights = _detach_weights(model, set(encoder.state_dict()))
        _optimize(model)
    share = form.adapter is AdapterMode.MERGED and form.embedding_rank > 0
    slots = layout({name: _typed_shape(weights[name]) for name in weights}, share=share)
    attach_slots(model, slots)
    _clean(model)
    if form.adapter is AdapterMode.SLOT:
        _open_slot(model)
    return PortableGraph(ir.to_proto(model).SerializeToString(deterministic=True), slots, dtype)


def _dynamic_shapes(inputs: Sequence[Tensor], max_batch: int, max_tokens: int) -> tuple[Any, ...]:
    """The ranges of the inputs' axes, as the exporter takes them for :meth:`Encoder.forward`.

    Those after the ids and the mask, which share one parameter, come as one tuple.
    """
    limits = max(max_batch, 2), max_tokens  # the example has two rows
    dims = {
        axis: torch.export.Dim(axis.name, min=1, max=axis.greatest(limits))
        for tensor in inputs
        for axis in tensor.axes
    }
    ids, mask, *more = ({i: dims[a] for i, a in enumerate(t.axes)} for t in inputs)
    return (ids, mask, tuple(more)) if more else (ids, mask)


def _detach_weights(model: ir.Model, names: set[str]) -> dict[str, ir.Value]:
    """Initializers lose their (meta) values, so that no pass tries to read or fold them."""
    weights = {n: v for n, v in model.graph.initializers.items() if n in names}
    for value in weights.values():
        value.const_value = None
    return weights


def _optimize(model: ir.Model) -> None:
    import onnxscript.optimizer

    onnxscript.optimizer.optimize_ir(model)


def _typed_shape(value: ir.Value) -> tuple[str, tuple[int, ...]]:
    if value.dtype is None or value.shape is None:
        raise RuntimeError(f"the exporter left {value.name} without a type")
    return str(value.dtype.numpy()), tuple(value.shape.numpy())


def attach_slots(model: ir.Model, slots: tuple[Slot, ...]) -> None:
    """Point the graph's initializers at their places in the weight files."""
    for slot in slots:
        value = model.graph.initializers[slot.name]
        dtype = value.dtype
        if dtype is None:
            raise RuntimeError(f"the exporter left {slot.name} without a type")
        value.const_value = ir.ExternalTensor(
            slot.file,
            slot.offset,
            slot.nbytes,
            dtype,
            shape=ir.Shape(slot.shape),
            name=slot.name,
            base_dir=Path(),
        )


def relaid(graph: PortableGraph, model: ir.Model, tensors: Tensors) -> PortableGraph:
    """``model``, made of ``graph``, whose ``tensors`` by name, type and shape are laid out anew."""
    slots = layout(tensors, share=any(slot.file == SHARED_FILE for slot in graph.slots))
    attach_slots(model, slots)
    proto = ir.to_proto(model).SerializeToString(deterministic=True)
    return PortableGraph(proto, slots, graph.dtype)


def stored_slots(path: Path) -> tuple[Slot, ...]:
    """Where the tensors of a written graph lie, relative to the graph's folder."""
    graph = onnx.load(path, load_external_data=False).graph
    slots = []
    for tensor in graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        place = {entry.key: entry.value for entry in tensor.external_data}
        dtype = str(ir.DataType(tensor.data_type).numpy())
        offset = int(place.get("offset", 0))
        slots.append(Slot(tensor.name, dtype, tuple(tensor.dims), offset, place["location"]))
    return tuple(slots)


def _open_slot(model: ir.Model) -> None:
    """Make the low-rank tensors optional inputs: initializers that a caller may override."""
    for name, value in model.graph.initializers.items():
        if name.endswith((".lora_down", ".lora_up")):
            model.graph.inputs.append(value)


def _clean(model: ir.Model) -> None:
    """Drop the exporter's notes (paths of this machine among them); name nodes by their weights.

    ``encoder.layers.3.mlp.fc1`` is what a person looks for in a parser's error.
    """
    model.producer_name, model.producer_version = "adaptrt", None
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.graph.name = "encoder"
    counts: dict[str, int] = {}
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for output in node.outputs:
            output.metadata_props.clear()
        owners = [v.name.rpartition(".")[0] for v in node.inputs if v and v.name and "." in v.name]
        stem = f"{owners[0]}.{node.op_type}" if owners else node.op_type
        index = counts[stem] = counts.get(stem, -1) + 1
        node.name = stem if owners and not index else f"{stem}.{index}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what the exporter says of weights that are missing on purpose."""
    names = ("onnx_ir", "onnxscript", "torch.onnx")
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for name in names:
                logging.getLogger(name).setLevel(logging.ERROR)
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
