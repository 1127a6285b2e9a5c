"""Runs both sides side by side, a layer at a time, and compares every block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from export.drift.blocks import (
    EMBEDDING_PLACES,
    LINEAR,
    NORMS,
    Block,
    Place,
    entry_of,
    layer_places,
)
from export.drift.causes import Finding, find_below_noise, find_cause
from export.drift.facts import Facts, stored_of
from export.drift.figures import Agreement, agreement
from export.drift.graph import BlockGraph
from export.drift.noise import expected_snr
from export.drift.reference import Captured, ReferenceNetwork
from runtimes.arrays import Arrays
from runtimes.heads import CHUNK_WEIGHTS
from runtimes.text.tokens import Tokens

# dB below what rounding explains. Healthy engines stay within 2 (tests/proof/test_drift.py).
MARGIN = 3.0


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One block at one length.

    ``accumulated``: each side ran on its own up to here. ``local``: the graph's block was given
    the reference's inputs; ``expected`` is the signal to noise, dB, that rounding alone leaves.
    """

    place: Place
    length: int
    accumulated: Agreement
    local: Agreement
    expected: float
    below_noise: bool = False  # a cause was seen that rounding hides from ``local``

    @property
    def excess(self) -> float:
        """By how many dB the block is worse than rounding explains."""
        return self.expected - self.local.snr

    @property
    def departs(self) -> bool:
        """Whether it is more than rounding."""
        return self.excess > MARGIN or self.below_noise


@dataclass(frozen=True, kw_only=True)
class Call:
    """One batch of one length: what both sides get."""

    length: int
    tokens: Tokens
    inputs: Arrays


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is compared: the reference and the graph, and what the graph does not say itself."""

    network: ReferenceNetwork
    graph: BlockGraph
    heads: int
    has_half_sums: bool


@dataclass
class Comparison:
    """The cells of one call, in the network's order, and causes of the first that depart."""

    cells: list[Cell] = field(default_factory=list)
    findings: dict[Place, Finding] = field(default_factory=dict)


def compare(subject: Subject, call: Call) -> Comparison:
    """Run one batch through both sides. Holds one layer's values of each at a time."""
    run = _Run(subject, call)
    hidden = subject.network.run(call.tokens, run.layer_done)
    run.pool(hidden)
    return run.result


class _Run:
    def __init__(self, subject: Subject, call: Call) -> None:
        self._subject, self._call = subject, call
        self._mask = torch.from_numpy(call.tokens.attention_mask).bool()
        self._inputs = {
            n: torch.from_numpy(np.ascontiguousarray(a)) for n, a in call.inputs.items()
        }
        self._own: dict[Place, dict[str, Tensor]] = {}  # the graph's, run on its own
        self._reference: dict[Place, Tensor] = {}
        self.result = Comparison()

    def layer_done(self, layer: int | None, captured: Captured) -> None:
        """Compare a layer's blocks, then keep its last output alone."""
        places, entry = EMBEDDING_PLACES, entry_of(0)
        if layer is not None:
            places, entry = layer_places(layer), entry_of(layer + 1)
        for place in places:
            self._reference[place] = captured[place.block]
        for place in places:
            self._block(place)
        self._own = {entry: self._own[entry]}
        self._reference = {entry: self._reference[entry]}

    def pool(self, hidden: Tensor) -> None:
        """Compare the pooled vectors."""
        place, last = Place(Block.POOLING), entry_of(self._subject.network.layers)
        self._reference[place] = _pooled(hidden, self._mask, self._weights)
        self._reference[last] = hidden
        self._block(place, (last,))

    @property
    def _weights(self) -> Tensor | None:
        return self._inputs.get(CHUNK_WEIGHTS.name)

    def _block(self, place: Place, inputs: tuple[Place, ...] | None = None) -> None:
        inputs = place.inputs if inputs is None else inputs
        graph = self._subject.graph
        own = {name: value for i in inputs for name, value in self._own[i].items()}
        self._own[place] = graph.compute(place, {**self._inputs, **own})
        given = {
            name: value
            for i in inputs
            for name, value in _as_graph(self._reference[i], self._own[i]).items()
        }
        local = graph.compute(place, {**self._inputs, **given}) if inputs else self._own[place]
        self._compare(place, self._facts(place, inputs, local))

    def _compare(self, place: Place, facts: Facts) -> None:
        reference = facts.tokens(facts.output)
        own, expected = _canonical(self._own[place]), expected_snr(facts)
        hidden = find_below_noise(facts, expected)
        cell = Cell(
            place=place,
            length=self._call.length,
            accumulated=agreement(reference, facts.tokens(own)),
            local=agreement(reference, facts.tokens(facts.engine)),
            expected=expected,
            below_noise=hidden is not None,
        )
        self.result.cells.append(cell)
        if cell.departs and not self.result.findings:
            self.result.findings[place] = find_cause(facts) if hidden is None else hidden

    def _facts(
        self,
        place: Place,
        inputs: tuple[Place, ...],
        local: Mapping[str, Tensor],
    ) -> Facts:
        network, layer, block = self._subject.network, place.layer, place.block
        is_linear = block in LINEAR and layer is not None
        return Facts(
            place=place,
            mask=self._mask,
            inputs={i.block: self._reference[i] for i in inputs},
            output=self._reference[place],
            engine=_canonical(local),
            dtype=_value_type(self._own, (*inputs, place)),
            heads=self._subject.heads,
            stored=stored_of(self._subject.graph, place),
            linear=network.linear(layer, block) if is_linear and layer is not None else None,
            norm=network.norm(layer, block) if block in NORMS else None,
            table=network.rows(self._inputs["input_ids"]) if block is Block.LOOKUP else None,
            chunk_weights=self._weights,
            has_half_sums=self._subject.has_half_sums,
        )


def _value_type(
    own: Mapping[Place, Mapping[str, Tensor]], places: tuple[Place, ...]
) -> torch.dtype:
    """The narrowest type among a block's inputs and outputs."""
    types = {value.dtype for place in places for value in own[place].values()}
    return max(types, key=lambda dtype: torch.finfo(dtype).eps)


def _as_graph(reference: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reference's output as the graph lays it out: in one tensor or two, by heads or not."""
    parts = reference.chunk(len(like), -1)
    result = {}
    for (name, value), part in zip(like.items(), parts, strict=True):
        if value.ndim == 4 and part.ndim == 3:
            part = torch.unflatten(part, -1, (value.shape[1], -1)).transpose(1, 2)
        result[name] = part.to(value.dtype)
    return result


def _canonical(values: Mapping[str, Tensor]) -> Tensor:
    """The graph's output as the reference's is laid out, FP32."""
    parts = [
        v.transpose(1, 2).flatten(-2) if v.ndim == 4 else v
        for v in (x.float() for x in values.values())
    ]
    return torch.cat(parts, -1)


def _pooled(hidden: Tensor, mask: Tensor, weights: Tensor | None) -> Tensor:
    """Unit vectors of texts ``[batch, hidden]``, or of chunks ``[batch, chunks, hidden]``."""
    counted = mask.float().unsqueeze(1) if weights is None else weights
    sums = counted @ (hidden * mask.unsqueeze(-1))
    unit: Tensor = sums / sums.norm(dim=-1, keepdim=True)
    return unit.squeeze(1) if weights is None else unit
