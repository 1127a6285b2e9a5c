"""Defects of one block of a bundle, planted in its graph or weights, its manifest repaired.

Each is of the size that a mistake has: a factor of 1.05, an epsilon of 1e-3 for 1e-5, two heads
exchanged, an adapter left out. Weights of a quantised bundle are quantised again with its scales.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.checkpoint.encoder_config import EncoderConfig
from export.checkpoint.names import TOKEN_TYPE, WORD
from export.checkpoint.reader import Checkpoint
from export.drift.blocks import Block, Place
from export.graph.trace import stored_slots
from export.graph.weights import Contents, merged_matrix
from runtimes.choices import GraphKind
from runtimes.files import sha256
from runtimes.manifest import read_manifest

Matrix = NDArray[np.floating]
_QKV, _OUT = "encoder.layers.{}.mixer.Wqkv", "encoder.layers.{}.mixer.out_proj"
_FC1, _FC2 = "encoder.layers.{}.mlp.fc1", "encoder.layers.{}.mlp.fc2"


class Patient:
    """A copy of a merged bundle that a defect is planted in."""

    def __init__(self, folder: Path, checkpoint: Checkpoint) -> None:
        self.folder, self.checkpoint = folder, checkpoint
        manifest = read_manifest(folder)
        has_engine = any(entry.gpu is not None for entry in manifest.artifacts)
        kind = GraphKind.TENSORRT if has_engine else GraphKind.PORTABLE
        self.path = folder / manifest.artifact(kind).path
        self.graph = onnx.load(self.path, load_external_data=False)
        self.slots = {slot.name: slot for slot in stored_slots(self.path)}
        self.contents = Contents(checkpoint, checkpoint.adapter(manifest.task))
        self.config: EncoderConfig = checkpoint.config

    def has(self, name: str) -> bool:
        """Whether the graph has a tensor of that name."""
        return name in self.slots

    def read(self, name: str) -> NDArray[np.generic]:
        """A stored tensor."""
        slot = self.slots[name]
        raw = np.memmap(self.path.parent / slot.file, slot.dtype, "r", slot.offset, slot.shape)
        return np.array(raw)

    def write(self, name: str, values: NDArray[np.generic]) -> None:
        """Put numbers in a stored tensor's place."""
        slot = self.slots[name]
        path = self.path.parent / slot.file
        _own(path)
        raw = np.memmap(path, slot.dtype, "r+", slot.offset, slot.shape)
        raw[...] = values.astype(slot.dtype).reshape(slot.shape)
        raw.flush()

    def matrix(self, module: str) -> Matrix:
        """A product's matrix as the reference has it, with its adapter, ``[in, out]``."""
        return merged_matrix(self.contents, module)

    def delta(self, module: str) -> Matrix:
        """The adapter's part of it."""
        bare = Contents(self.checkpoint, self.checkpoint.adapter("base"))
        return self.matrix(module) - merged_matrix(bare, module)

    def put(self, module: str, matrix: Matrix) -> None:
        """Store a matrix as the bundle stores them."""
        if not self.has(f"{module}.weight_scale"):
            self.write(f"{module}.weight", matrix)
            return
        scale = self.read(f"{module}.weight_scale").astype(np.float64)
        if self.has(f"{module}.channel_scale"):
            scale = scale * self.read(f"{module}.channel_scale").astype(np.float64)
        if self.has(f"{module}.input_factors"):
            matrix = matrix / self.read(f"{module}.input_factors").astype(np.float64)[:, None]
        self.write(f"{module}.weight", np.clip(np.rint(matrix / scale), -127, 127))

    def change(self, name: str, function: Callable[[Matrix], Matrix]) -> None:
        """Change a stored tensor."""
        self.write(name, function(self.read(name).astype(np.float64)))

    def nodes(self, op_type: str) -> list[onnx.NodeProto]:
        """The graph's nodes of an operator, in order."""
        return [node for node in self.graph.graph.node if node.op_type == op_type]

    def insert(self, before: onnx.NodeProto, *nodes: onnx.NodeProto) -> None:
        """Put nodes in front of another."""
        index = next(i for i, node in enumerate(self.graph.graph.node) if node == before)
        for node in reversed(nodes):
            self.graph.graph.node.insert(index, node)

    def repair(self) -> None:
        """Write the graph, and the manifest's hashes and sizes anew."""
        _own(self.path)
        self.path.write_bytes(self.graph.SerializeToString())
        path = self.folder / "manifest.json"
        manifest = json.loads(path.read_text())
        for entry in manifest["artifacts"]:
            file = self.folder / entry["path"]
            entry["bytes"], entry["sha256"] = file.stat().st_size, sha256(file)
        _own(path)
        path.write_text(json.dumps(manifest))


@dataclass(frozen=True)
class Defect:
    """A defect by name, the block it is in, and what it is called when it is found."""

    name: str
    place: Place
    cause: str
    plant: Callable[[Patient], None]
    quantised: bool | None = None  # None: in every bundle; else only where products are (not)


def _own(path: Path) -> None:
    """A file of its own where a link was copied."""
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


def _set(node: onnx.NodeProto, name: str, value: object) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def overflow(p: Patient) -> None:
    def large(bias: Matrix) -> Matrix:
        bias[7] = np.inf
        return bias

    p.change(f"{_FC1.format(3)}.bias", large)


def rope_base(p: Patient, base: float = 10000.0, layer: int = 2) -> None:
    """Tables of another base for the rotations of one layer."""
    rotations = p.nodes("RotaryEmbedding")
    per_layer = len(rotations) // p.config.layers
    slot = p.slots["rope.cos"]
    half = slot.shape[1]
    angles = np.arange(slot.shape[0])[:, None] * base ** (-np.arange(half) / half)
    for name, function in (("cos", np.cos), ("sin", np.sin)):
        table = numpy_helper.from_array(function(angles).astype(slot.dtype), f"other.{name}")
        p.graph.graph.initializer.append(table)
    for node in rotations[layer * per_layer : (layer + 1) * per_layer]:
        node.input[1], node.input[2] = "other.cos", "other.sin"


def scale(p: Patient, factor: float = 1.05, layer: int = 3) -> None:
    """The whole product of Q, K and V."""
    name = _QKV.format(layer)
    stored = f"{name}.weight_scale" if p.has(f"{name}.weight_scale") else f"{name}.weight"
    p.change(stored, lambda values: values * factor)


def value_scale(p: Patient) -> None:
    def larger(values: Matrix) -> Matrix:
        values[..., 2 * p.config.hidden :] *= 1.05
        return values

    name = _QKV.format(1)
    shares = (f"{name}.channel_scale", f"{name}.weight_scale", f"{name}.weight")
    p.change(next(n for n in shares if p.has(n)), larger)


def no_adapter(p: Patient) -> None:
    name = _FC1.format(4)
    p.put(name, p.matrix(name) - p.delta(name))


def no_word_adapter(p: Patient) -> None:
    bare = p.checkpoint.read(f"{WORD}.weight")
    p.write(f"{WORD}.weight", bare)


def no_token_type(p: Patient) -> None:
    p.change(f"{TOKEN_TYPE}.weight", np.zeros_like)


def swapped(p: Patient) -> None:
    name = _OUT.format(2)
    delta = p.delta(name)
    p.put(name, p.matrix(name) - delta + delta.T)


def transposed(p: Patient) -> None:
    name = _OUT.format(5)
    p.put(name, p.matrix(name).T)


def open_mask(p: Patient) -> None:
    """Attention of one layer that sees padding."""
    node = p.nodes("Attention")[4]
    no, everything = "mask.none", "mask.all"
    p.insert(
        node,
        helper.make_node("Not", [node.input[3]], [no], name="mask.not"),
        helper.make_node("Or", [node.input[3], no], [everything], name="mask.or"),
    )
    attention = p.nodes("Attention")[4]
    attention.input[3] = everything


def tanh_gelu(p: Patient) -> None:
    _set(p.nodes("Gelu")[3], "approximate", "tanh")


def epsilon(p: Patient, value: float = 1e-3) -> None:
    """Of a layer's first norm; the first of all is the embeddings'."""
    _set(p.nodes("LayerNormalization")[1 + 2 * 2], "epsilon", value)


def no_gamma(p: Patient) -> None:
    p.change("encoder.layers.1.norm2.weight", np.ones_like)


def no_beta(p: Patient) -> None:
    p.change("encoder.layers.4.norm1.bias", np.zeros_like)


def _exchanged(matrix: Matrix, width: int, a: int, b: int) -> Matrix:
    """Two blocks of columns in each other's place."""
    result = matrix.copy()
    first, second = (slice(n * width, (n + 1) * width) for n in (a, b))
    result[..., first], result[..., second] = matrix[..., second], matrix[..., first]
    return result


def query_heads(p: Patient) -> None:
    """Two heads of Q change places."""
    name, width = _QKV.format(2), p.config.head_dim
    _columns(p, name, lambda m: _exchanged(m, width, 1, 3))


def _columns(p: Patient, name: str, move: Callable[[Matrix], Matrix]) -> None:
    for part in ("weight", "bias", "channel_scale", "weight_scale"):
        if p.has(f"{name}.{part}") and len(p.slots[f"{name}.{part}"].shape):
            p.change(f"{name}.{part}", move)


def turned_heads(p: Patient) -> None:
    """V's numbers by column and not by head."""
    hidden, heads = p.config.hidden, p.config.heads

    def move(m: Matrix) -> Matrix:
        parts = m.reshape(*m.shape[:-1], 3, heads, hidden // heads)
        turned = np.moveaxis(parts, -1, -2)
        return turned.reshape(m.shape)

    _columns(p, _QKV.format(1), move)


def output_heads(p: Patient) -> None:
    """Rows of the output projection for two heads change places."""
    name, width = _OUT.format(3), p.config.head_dim
    p.put(name, _exchanged(p.matrix(name).T, width, 2, 5).T)


def no_bias(p: Patient) -> None:
    p.change(f"{_FC2.format(2)}.bias", np.zeros_like)


def one_channel(p: Patient) -> None:
    def larger(values: Matrix) -> Matrix:
        values[..., 11] *= 1.5
        return values

    name = _FC2.format(4)
    shares = (f"{name}.channel_scale", f"{name}.weight_scale", f"{name}.weight")
    p.change(next(n for n in shares if p.has(n)), larger)


def cls_pooling(p: Patient) -> None:
    """The mean's weights are 1 for the first token and 0 for others."""
    cast = p.nodes("Cast")[-1]
    zero = numpy_helper.from_array(np.zeros((), np.int64), "pool.zero")
    p.graph.graph.initializer.append(zero)
    arange = next(node for node in p.nodes("Unsqueeze")).output[0]
    pooled = _pooling_cast(p, cast)
    p.insert(pooled, helper.make_node("Equal", [arange, "pool.zero"], ["pool.first"], name="pool"))
    _pooling_cast(p, cast).input[0] = "pool.first"


def padded_pooling(p: Patient) -> None:
    cast = p.nodes("Cast")[-1]
    mask = cast.input[0]
    p.insert(cast, helper.make_node("Equal", [mask, mask], ["pool.all"], name="pool"))
    _pooling_cast(p, cast).input[0] = "pool.all"


def _pooling_cast(p: Patient, like: onnx.NodeProto) -> onnx.NodeProto:
    return next(node for node in p.nodes("Cast") if node.output[0] == like.output[0])


def clipped(p: Patient, factor: float = 0.25) -> None:
    p.change(f"{_FC1.format(2)}.input_scale", lambda scale: scale * factor)


def coarse(p: Patient, factor: float = 16.0) -> None:
    p.change(f"{_FC1.format(2)}.input_scale", lambda scale: scale * factor)


def outlier(p: Patient, factor: float = 40.0) -> None:
    """Smoothing that gives all of the range to one channel."""
    name = _QKV.format(3)

    def raise_one(values: Matrix) -> Matrix:
        values[..., 5] *= factor
        return values

    p.change(f"{name}.input_factors", raise_one)
    p.change(f"{name}.input_scale", lambda scale: scale * factor)
    p.put(name, p.matrix(name))


_L = Place
DEFECTS = (
    Defect("overflow", _L(Block.FC1, 3), "overflow", overflow),
    Defect("rope-base", _L(Block.ROPE, 2), "wrong positions", rope_base),
    Defect("scale", _L(Block.QKV, 3), "wrong scale", scale),
    Defect("value-scale", _L(Block.QKV, 1), "wrong scale", value_scale),
    Defect("no-adapter", _L(Block.FC1, 4), "adapter missing", no_adapter),
    Defect("no-word-adapter", _L(Block.LOOKUP), "adapter missing", no_word_adapter),
    Defect("no-token-type", _L(Block.LOOKUP), "token type missing", no_token_type),
    Defect("swapped", _L(Block.OUT, 2), "A and B swapped", swapped),
    Defect("transposed", _L(Block.OUT, 5), "weight transposed", transposed),
    Defect("open-mask", _L(Block.ATTENTION, 4), "wrong mask", open_mask),
    Defect("tanh-gelu", _L(Block.GELU, 3), "another GELU", tanh_gelu),
    Defect("epsilon", _L(Block.NORM1, 2), "another epsilon", epsilon),
    Defect("no-gamma", _L(Block.NORM2, 1), "another gamma", no_gamma),
    Defect("no-beta", _L(Block.NORM1, 4), "another beta", no_beta),
    Defect("query-heads", _L(Block.QKV, 2), "heads permuted", query_heads),
    Defect("turned-heads", _L(Block.QKV, 1), "heads permuted", turned_heads),
    Defect("output-heads", _L(Block.OUT, 3), "heads permuted", output_heads),
    Defect("no-bias", _L(Block.FC2, 2), "bias missing", no_bias),
    Defect("one-channel", _L(Block.FC2, 4), "one channel", one_channel),
    Defect("cls-pooling", _L(Block.POOLING), "another pooling", cls_pooling),
    Defect("padded-pooling", _L(Block.POOLING), "another pooling", padded_pooling),
    Defect("clipped", _L(Block.FC1, 2), "input scale too small", clipped, quantised=True),
    Defect("coarse", _L(Block.FC1, 2), "input scale too large", coarse, quantised=True),
    Defect("outlier", _L(Block.QKV, 3), "outlier channel", outlier, quantised=True),
)
