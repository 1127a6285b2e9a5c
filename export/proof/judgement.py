"""The judgement of a proof: is what was computed the checkpoint, or something near it?

Cosines do not see a vector's norm, and a coarse gate lets a model pass that is slightly wrong. So
norms are judged too, and where a wrong model is at hand, whether the vectors lie nearer to the
right one. The same judgement has to pass the bundle and to refuse every negative control.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from export.gate.compare import row_cosines
from runtimes.arrays import Vectors
from runtimes.tables import Gate

# Rows are scaled to length 1 in FP32, or in BF16's steps of 2^-8 by a graph that ends in them.
NORM = 4e-3
NEARER = 0.5  # half-way between the right model and a wrong one
# A control has to move vectors by more than FP32 itself does, else it is none.
DISTINCT = 1e-4


@dataclass(frozen=True, kw_only=True)
class Judged:
    """How vectors compare with the reference's: 1 - cosine, and how far norms are from 1.

    NaN anywhere makes the figures NaN, which no limit passes.
    """

    texts: int
    worst: float
    mean: float
    norm: float

    def refused_by(self, gate: Gate) -> tuple[str, ...]:
        """The limits that are not kept."""
        limits = (
            ("worst cosine", self.worst, 1 - gate.min_cosine),
            ("mean cosine", self.mean, 1 - gate.mean_cosine),
            ("norm", self.norm, NORM),
        )
        return tuple(name for name, value, limit in limits if not value <= limit)


def errors(exact: Vectors, ours: Vectors) -> Vectors:
    """1 - cosine of each pair of rows."""
    found: Vectors = np.asarray(1 - row_cosines(exact, ours))
    return found


def judged(exact: Vectors, ours: Vectors) -> Judged:
    """Compare rows ``[texts, width]``, the reference's and what is judged."""
    if exact.shape != ours.shape or not len(exact):
        raise ValueError(f"shapes {exact.shape} and {ours.shape}")
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        gaps = errors(exact, ours)
        norms = np.abs(np.linalg.norm(ours.astype(np.float64), axis=1) - 1)
    return Judged(
        texts=len(exact),
        worst=float(gaps.max()),
        mean=float(gaps.mean()),
        norm=float(norms.max()),
    )


def position(exact: Vectors, ours: Vectors, wrong: Vectors) -> float:
    """Where vectors lie between the right model's (0) and a wrong one's (1), over all texts.

    The projection of ours - exact on wrong - exact, by the squared length of the latter. An error
    that has nothing to do with the wrong model leaves it near 0 however large it is.
    """
    way = wrong.astype(np.float64) - exact
    return float(((ours.astype(np.float64) - exact) * way).sum() / np.square(way).sum())


def distance(exact: Vectors, wrong: Vectors) -> float:
    """Root mean square of the distance of two models' vectors of one text."""
    return float(np.sqrt(np.square(wrong.astype(np.float64) - exact).sum(axis=1).mean()))


def refused_by(exact: Vectors, ours: Vectors, wrong: Vectors, gate: Gate) -> tuple[str, ...]:
    """Everything that speaks against ``ours`` where ``wrong`` is what it could be instead.

    The gate's cosines, the norms, and being nearer to the wrong model. A wrong model that is
    the right one is near nothing: only the first two can refuse then.
    """
    found = judged(exact, ours).refused_by(gate)
    if distance(exact, wrong) > DISTINCT and not position(exact, ours, wrong) < NEARER:
        found = (*found, "nearer to the wrong model")
    return found
