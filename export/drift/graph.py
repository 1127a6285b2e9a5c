"""An engine's typed graph, cut into blocks that are computed one at a time.

A block is found by what its graph holds: a product by its bias, a norm by its weight, rotations and
attention by their operators between two products. Nothing is found by a node's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from torch import Tensor

from export.drift.blocks import LINEAR, NORMS, Block, Place, all_places
from export.emulation.engine import EmulatedEngine
from export.engines.plan import Plan
from runtimes.errors import InputError

Values = Mapping[str, Tensor]
_REARRANGE = ("Cast", "Reshape", "Transpose")  # between attention and the product behind it


@dataclass(frozen=True)
class Slice:
    """A block in a graph: the nodes from the blocks before it to its outputs."""

    outputs: tuple[str, ...]
    nodes: tuple[ir.Node, ...]


class BlockGraph:
    """A graph in blocks; one block at a time is computed, on a CPU, and nothing is kept."""

    def __init__(self, path: Path, plan: Plan | None, layers: int) -> None:
        """Read the graph and map its weights. ``plan`` is its engine's, where there is one.

        Raises :class:`InputError` where a block is not found.
        """
        self.engine = EmulatedEngine(path, plan)
        finder = _Finder(path, self.engine.model)
        found: dict[Place, tuple[ir.Value, ...]] = {}
        for place in all_places(layers):
            found[place] = finder.outputs(place, found)
        self.slices = _slices(self.engine.model, found)

    def compute(self, place: Place, values: Values) -> dict[str, Tensor]:
        """A block's outputs by their names in the graph; ``values`` are those of its inputs."""
        block = self.slices[place]
        outputs = self.engine.compute(block.nodes, values, block.outputs)
        return dict(zip(block.outputs, outputs, strict=True))

    def levels(self, name: str) -> int:
        """The greatest number of an initializer that is stored in steps."""
        value = self.engine.model.graph.initializers.get(name)
        return 7 if value is not None and value.dtype is ir.DataType.INT4 else 127

    def close(self) -> None:
        """Let the weights go."""
        self.engine.close()


class _Finder:
    def __init__(self, path: Path, model: ir.Model) -> None:
        self._path, self._model = path, model

    def outputs(
        self, place: Place, found: Mapping[Place, tuple[ir.Value, ...]]
    ) -> tuple[ir.Value, ...]:
        """A block's outputs; ``found`` are those of all blocks before it."""
        layer = "" if place.layer is None else str(place.layer)
        match place.block:
            case Block.LOOKUP:
                norm = self._user(
                    f"{NORMS[Block.EMBEDDING_NORM]}.weight", "LayerNormalization", place
                )
                return self._some(norm.inputs[0], place)
            case Block.POOLING:
                return tuple(self._model.graph.outputs[:1])
            case Block.GELU:
                (before,) = found[Place(Block.FC1, place.layer)]
                gelus = [n for n in before.consumers() if n.op_type == "Gelu"]
                return self._one(gelus, place)
            case Block.ROPE:
                (before,) = found[Place(Block.QKV, place.layer)]
                rotations = _reached([before], "RotaryEmbedding", through=("Split", *_REARRANGE))
                if not rotations:
                    raise self._missing(place, "RotaryEmbedding behind the product of Q, K and V")
                return tuple(node.outputs[0] for node in rotations)
            case Block.ATTENTION:
                before_it = found[Place(Block.ROPE, place.layer)]
                attentions = _reached(before_it, "Attention", through=("Split", *_REARRANGE))
                return (_rearranged(self._one(attentions, place)[0]),)
            case block if block in LINEAR:
                name = LINEAR[block].replace("{}", layer)
                return self._some(self._user(f"{name}.bias", "Add", place).outputs[0], place)
            case block:
                name = NORMS[block].replace("{}", layer)
                node = self._user(f"{name}.weight", "LayerNormalization", place)
                return self._some(node.outputs[0], place)

    def _user(self, initializer: str, op_type: str, place: Place) -> ir.Node:
        value = self._model.graph.initializers.get(initializer)
        users = [] if value is None else [n for n in value.consumers() if n.op_type == op_type]
        if len(users) != 1:
            raise self._missing(place, f"one {op_type} with {initializer}")
        return users[0]

    def _one(self, nodes: Sequence[ir.Node], place: Place) -> tuple[ir.Value, ...]:
        if len(nodes) != 1:
            raise self._missing(place, f"one operator of it, got {len(nodes)}")
        return (nodes[0].outputs[0],)

    def _some(self, value: ir.Value | None, place: Place) -> tuple[ir.Value, ...]:
        if value is None:
            raise self._missing(place, "its input")
        return (value,)

    def _missing(self, place: Place, expected: str) -> InputError:
        return InputError(
            f"{self._path}: {place}: not found, expected {expected}; drift reads the typed graphs "
            "that this version builds: build the bundle again"
        )


def _reached(values: Iterable[ir.Value], op_type: str, through: Sequence[str]) -> list[ir.Node]:
    """The nodes of one operator behind some values, through nothing but the operators given."""
    found: dict[ir.Node, None] = {}
    rest = list(values)
    while rest:
        for node in rest.pop(0).consumers():
            if node.op_type == op_type:
                found.setdefault(node)
            elif node.op_type in through:
                rest += node.outputs
    return list(found)


def _rearranged(value: ir.Value) -> ir.Value:
    """What is left of attention's result once it is laid out as the next product reads it."""
    while len(users := value.consumers()) == 1 and users[0].op_type in _REARRANGE:
        value = users[0].outputs[0]
    return value


def _slices(model: ir.Model, found: Mapping[Place, tuple[ir.Value, ...]]) -> dict[Place, Slice]:
    order = {node: index for index, node in enumerate(model.graph)}
    borders = {value.name or "" for values in found.values() for value in values}
    slices = {}
    for place, outputs in found.items():
        inside: set[ir.Node] = set()
        rest = [value.producer() for value in outputs]
        while rest:
            node = rest.pop()
            if node is None or node in inside:
                continue
            inside.add(node)
            rest += [v.producer() for v in node.inputs if v is not None and v.name not in borders]
        names = tuple(value.name or "" for value in outputs)
        slices[place] = Slice(names, tuple(sorted(inside, key=order.__getitem__)))
    return slices
