"""What a cause is judged by: how much of a difference a hypothesis explains."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from export.drift.facts import Facts


@dataclass(frozen=True)
class Explanation:
    """A hypothesis about a block's output: the ``share`` of the difference that it explains.

    ``figures`` are the numbers it was decided by, in words.
    """

    share: float
    figures: str


class Evidence:
    """A block's difference in FP64; ``noise`` is the energy that rounding alone would leave."""

    def __init__(self, facts: Facts, expected: float) -> None:
        """``expected`` as :func:`export.drift.noise.expected_snr` gives it, dB."""
        self.facts = facts
        self.reference = facts.tokens(facts.output).double()
        self.engine = facts.tokens(facts.engine).double()
        self.noise = float(self.reference.square().sum()) * 10 ** (-expected / 10)

    @cached_property
    def difference(self) -> Tensor:
        """The graph's output less the reference's, ``[tokens, channels]``."""
        return self.engine - self.reference

    @cached_property
    def energy(self) -> float:
        """Of the difference."""
        return float(self.difference.square().sum())

    @cached_property
    def x(self) -> Tensor:
        """The block's input ``[tokens, channels]``, FP64."""
        return self.facts.tokens(self.facts.x).double()

    @cached_property
    def position(self) -> Tensor:
        """Of each token in its text."""
        return self.facts.mask.nonzero()[:, 1]

    def share(self, hypothesis: Tensor) -> float:
        """What ``hypothesis``, an output, explains of what rounding does not: 1 all, 0 nothing.

        A cause that is there leaves rounding, so a difference of twice its energy counts as
        explained where half of it is.
        """
        left = float((self.engine - hypothesis).square().sum())
        beyond = max(self.energy - self.noise, 0.1 * self.energy)
        return min((self.energy - left) / beyond, 1.0) if self.energy > 0 else 0.0

    def along(self, direction: Tensor) -> float:
        """How often ``direction`` is in the difference (least squares)."""
        size = float(direction.square().sum())
        return float((self.difference * direction).sum()) / size if size > 0 else 0.0


def fitted(values: Tensor, to: Tensor) -> float:
    """The factor by which ``values`` come closest to ``to``."""
    size = float(values.square().sum())
    return float((values * to).sum()) / size if size > 0 else 0.0


def per_channel(values: Tensor, to: Tensor) -> tuple[Tensor, Tensor]:
    """The factor and the summand of each channel that bring ``values`` ``[n, c]`` closest."""
    mean, goal = values.mean(0), to.mean(0)
    centred = values - mean
    spread = centred.square().sum(0).clamp_min(torch.finfo(torch.float64).tiny)
    factor = (centred * (to - goal)).sum(0) / spread
    return factor, goal - factor * mean
