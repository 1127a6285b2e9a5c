"""How much a scheme loses against FP32, and how surely: paired bootstrap over a set's units.

A figure is computed from the units of one set (queries, graded pairs, labelled texts), once from
FP32's vectors and once from the scheme's. Resampling the units, both sides on the same ones, says
what the loss would have been on other texts (Efron and Tibshirani, "An Introduction to the
Bootstrap", 1993, chapter 13: percentile intervals). A loss is accepted where its upper bound is
within the limit, refused where its lower bound is above it, and else not decided.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from calibration.retrieval import Doubles, Indices

RESAMPLES = 2000
_LEAST_SPREAD = 1e-6  # a variance of ranks

# From how often each unit is drawn, [resamples, units], to the figure of each resample.
Statistic = Callable[[Doubles], Doubles]


class Outcome(StrEnum):
    """What the texts say of a loss."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNDECIDED = "not decided"
    NOT_JUDGED = "not judged"  # FP32 itself finds too little for a loss to mean anything


@dataclass(frozen=True, kw_only=True)
class Loss:
    """One figure: FP32's, the scheme's, and what is lost between them.

    ``low`` and ``high`` are one-sided bounds of the loss, each at ``confidence``. It is judged
    where FP32 reaches ``least``. ``task`` embedded the texts; empty where each set has one of its
    own.
    """

    figure: str
    units: int
    confidence: float
    exact: float
    ours: float
    loss: float
    low: float
    high: float
    limit: float
    least: float = 0.0
    task: str = ""

    @property
    def outcome(self) -> Outcome:
        """Numbers that are not finite are refused."""
        if self.exact < self.least:
            return Outcome.NOT_JUDGED
        if self.high <= self.limit:
            return Outcome.ACCEPTED
        return Outcome.UNDECIDED if self.low <= self.limit < self.high else Outcome.REFUSED

    @property
    def allowed(self) -> bool:
        """Whether nothing speaks against the scheme."""
        return self.outcome in (Outcome.ACCEPTED, Outcome.NOT_JUDGED)

    @property
    def closeness(self) -> float:
        """The upper bound as a share of the limit: above 1 it is not accepted."""
        return float(np.nan_to_num(self.high / self.limit, nan=np.inf))

    def __str__(self) -> str:
        by = f" by {self.task}" if self.task else ""
        return (
            f"{self.figure}{by}: {self.ours:.4f} of {self.exact:.4f}, loss {self.loss:.4f}, below "
            f"{self.high:.4f} with {self.confidence:.1%} confidence (limit {self.limit}): "
            f"{self.outcome}"
        )


def worst(losses: Sequence[Loss], outcome: Outcome) -> Loss | None:
    """The loss with this outcome that is furthest above its limit; None where none has it."""
    having = [loss for loss in losses if loss.outcome is outcome]
    return max(having, key=lambda loss: loss.closeness, default=None)


def paired_loss(
    figure: str,
    units: int,
    sides: tuple[Statistic, Statistic],
    limit: float,
    confidence: float = 0.95,
    least: float = 0.0,
) -> Loss:
    """The loss from the first side (FP32's) to the second, in the figure's own unit."""
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(units, np.full(units, 1 / units), size=RESAMPLES).astype(np.float64)
    whole = np.ones((1, units))
    exact, ours = (float(side(whole)[0]) for side in sides)
    losses = sides[0](drawn) - sides[1](drawn)
    low, high = np.quantile(losses, (1 - confidence, confidence))
    return Loss(
        figure=figure,
        units=units,
        confidence=confidence,
        exact=exact,
        ours=ours,
        loss=exact - ours,
        low=float(low),
        high=float(high),
        limit=limit,
        least=least,
    )


def lost_to_nan(figure: str, units: int, limit: float, confidence: float) -> Loss:
    """A figure that cannot be computed, since the vectors hold numbers that are not finite."""
    nan = float("nan")
    return Loss(
        figure=figure,
        units=units,
        confidence=confidence,
        exact=nan,
        ours=nan,
        loss=nan,
        low=nan,
        high=nan,
        limit=limit,
    )


def mean_of(values: Doubles) -> Statistic:
    """The mean of a number per unit."""
    return lambda drawn: drawn @ values / drawn.sum(axis=1)


def correlation_of(grades: Doubles, values: Doubles) -> Statistic:
    """Spearman's; ranks are those among all units, however often a resample draws one."""
    x, y = ranks(grades), ranks(values)

    def correlation(drawn: Doubles) -> Doubles:
        share = drawn / drawn.sum(axis=1, keepdims=True)
        means = share @ x, share @ y
        spreads = [share @ (r * r) - m * m for r, m in zip((x, y), means, strict=True)]
        product = share @ (x * y) - means[0] * means[1]
        # Where all values are equal, which rounding may hide, it is NaN, and nothing accepts that.
        square = np.where(np.min(spreads, axis=0) > _LEAST_SPREAD, np.prod(spreads, axis=0), np.nan)
        found: Doubles = product / np.sqrt(square)
        return found

    return correlation


def ranks(values: Doubles) -> Doubles:
    """From 1; equal values have the mean of theirs."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    middle: Doubles = last - (counts - 1) / 2
    return middle[which]


def v_measure_of(labels: Indices, clusters: Indices) -> Statistic:
    """Rosenberg and Hirschberg's V-measure (2007): homogeneity and completeness, balanced."""
    cells, which = np.unique(np.stack([labels, clusters]), axis=1, return_inverse=True)
    members = np.eye(cells.shape[1])[which]

    def measure(drawn: Doubles) -> Doubles:
        joint = drawn @ members / drawn.sum(axis=1, keepdims=True)
        sides = [joint @ (cells[i][:, None] == np.unique(cells[i])) for i in (0, 1)]
        of_labels, of_clusters = map(_entropy, sides)
        shared = of_labels + of_clusters - _entropy(joint)
        found: Doubles = 2 * shared / (of_labels + of_clusters)
        return found

    return measure


def _entropy(shares: Doubles) -> Doubles:
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    total: Doubles = -(shares * logs).sum(axis=1)
    return total
