"""What is known of a block: the reference's inputs and weights, how the graph stores its matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from export.drift.blocks import LINEAR, Block, Place
from export.drift.graph import BlockGraph
from export.drift.reference import Linear, Norm, Table
from export.graph.precision_plan import FACTORS, INPUT_SCALE

# Half of the distance between neighbouring numbers of a type, relative to the larger ones.
UNIT: Mapping[torch.dtype, float] = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
    torch.float8_e4m3fn: 2.0**-4,
}
_WORD = "embeddings.word_embeddings"


@dataclass(frozen=True, kw_only=True)
class Stored:
    """How a block's matrix is stored, and what its input is rounded to.

    ``kind`` is the matrix's type. ``input_scale`` is None where the input is not quantised;
    ``factors`` ``[in]`` multiply it before. ``block``: how many numbers share a weight's scale,
    None: a whole channel. ``levels`` is the greatest number that is stored.
    """

    kind: torch.dtype
    input_scale: float | None = None
    factors: Tensor | None = None
    block: int | None = None
    levels: int = 127

    @property
    def quantised(self) -> bool:
        """Whether its numbers are steps of a scale."""
        return self.kind in (torch.int8, torch.float8_e4m3fn)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One block at one call, of the reference and of the graph.

    ``mask`` ``[batch, sequence]`` is True for tokens. ``inputs`` are the reference's, FP32, by
    block (a layer's entry under :attr:`Block.NORM2`), and so is ``output``; ``engine`` is what the
    graph makes of these inputs. ``dtype`` is the type of its values.
    """

    place: Place
    mask: Tensor
    inputs: Mapping[Block, Tensor]
    output: Tensor
    engine: Tensor
    dtype: torch.dtype
    heads: int
    stored: Stored | None = None
    linear: Linear | None = None
    norm: Norm | None = None
    table: Table | None = None
    chunk_weights: Tensor | None = None
    has_half_sums: bool = False

    @property
    def x(self) -> Tensor:
        """The one input, or the first of them."""
        return next(iter(self.inputs.values()))

    def tokens(self, values: Tensor) -> Tensor:
        """``[batch, sequence, ...]`` → ``[tokens, ...]``, without padding."""
        return values[self.mask] if self.place.block is not Block.POOLING else values


def stored_of(graph: BlockGraph, place: Place) -> Stored | None:
    """How the matrix or table of a block is stored; None for a block without."""
    if place.block is Block.LOOKUP:
        name = _WORD
    elif place.block in LINEAR:
        name = LINEAR[place.block].replace("{}", str(place.layer))
    else:
        return None
    weight = graph.engine.weight(f"{name}.weight")
    if weight is None:
        return None
    scale = graph.engine.weight(f"{name}.{INPUT_SCALE}")
    scales = graph.engine.weight(f"{name}.weight_scale")
    block = None
    if scales is not None and scales.ndim == 2:
        block = weight.shape[1] // scales.shape[1]
    return Stored(
        kind=weight.dtype,
        input_scale=None if scale is None else float(scale),
        factors=graph.engine.weight(f"{name}.{FACTORS}"),
        block=block,
        levels=graph.levels(f"{name}.weight"),
    )
