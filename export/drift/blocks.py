"""The blocks that a network is compared in, in the order in which they are computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Block(StrEnum):
    """What is compared: the output of each part of the network."""

    LOOKUP = "embedding"
    EMBEDDING_NORM = "embedding norm"
    QKV = "qkv"
    ROPE = "rope"
    ATTENTION = "attention"
    OUT = "out-proj"
    NORM1 = "norm 1"
    FC1 = "fc1"
    GELU = "gelu"
    FC2 = "fc2"
    NORM2 = "norm 2"
    POOLING = "pooling"


# What each block of a layer is computed from; a layer's entry stands under its predecessor's norm.
LAYER: Mapping[Block, tuple[Block, ...]] = {
    Block.QKV: (Block.NORM2,),
    Block.ROPE: (Block.QKV,),
    Block.ATTENTION: (Block.QKV, Block.ROPE),
    Block.OUT: (Block.ATTENTION,),
    Block.NORM1: (Block.OUT, Block.NORM2),
    Block.FC1: (Block.NORM1,),
    Block.GELU: (Block.FC1,),
    Block.FC2: (Block.GELU,),
    Block.NORM2: (Block.FC2, Block.NORM1),
}
LINEAR: Mapping[Block, str] = {  # canonical names (export.checkpoint.names)
    Block.QKV: "encoder.layers.{}.mixer.Wqkv",
    Block.OUT: "encoder.layers.{}.mixer.out_proj",
    Block.FC1: "encoder.layers.{}.mlp.fc1",
    Block.FC2: "encoder.layers.{}.mlp.fc2",
}
NORMS: Mapping[Block, str] = {
    Block.EMBEDDING_NORM: "emb_ln",
    Block.NORM1: "encoder.layers.{}.norm1",
    Block.NORM2: "encoder.layers.{}.norm2",
}


@dataclass(frozen=True)
class Place:
    """A block; ``layer`` is None before the first layer and behind the last."""

    block: Block
    layer: int | None = None

    def __str__(self) -> str:
        return self.block if self.layer is None else f"layer {self.layer}, {self.block}"

    @property
    def inputs(self) -> tuple[Place, ...]:
        """The places whose outputs it is computed from, the entry of its layer among them."""
        if self.layer is None:
            return (Place(Block.LOOKUP),) if self.block is Block.EMBEDDING_NORM else ()
        return tuple(
            entry_of(self.layer) if block is Block.NORM2 else Place(block, self.layer)
            for block in LAYER[self.block]
        )


def entry_of(layer: int) -> Place:
    """Whose output a layer takes; ``entry_of(layers)`` is what pooling takes."""
    return Place(Block.NORM2, layer - 1) if layer else Place(Block.EMBEDDING_NORM)


def layer_places(layer: int) -> tuple[Place, ...]:
    """The blocks of one layer."""
    return tuple(Place(block, layer) for block in LAYER)


EMBEDDING_PLACES: tuple[Place, ...] = (Place(Block.LOOKUP), Place(Block.EMBEDDING_NORM))


def all_places(layers: int) -> tuple[Place, ...]:
    """Every block of a network, in order."""
    inner = (place for layer in range(layers) for place in layer_places(layer))
    return (*EMBEDDING_PLACES, *inner, Place(Block.POOLING))
