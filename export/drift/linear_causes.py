"""What goes wrong in products and lookups: scales, biases, adapters, weights, quantisation."""

from __future__ import annotations

import torch
from torch import Tensor

from export.drift.blocks import Block
from export.drift.evidence import Evidence, Explanation, fitted
from export.drift.facts import Stored

_PARTS = {Block.QKV: ("Q", "K", "V")}
_CLIPPED = 1e-3  # share of stored numbers at the type's limit
_USED = 8.0  # levels are unused beyond it: a calibration leaves no more
_OUTLIER = 8.0  # times the range that all other channels need
_ALONE = 0.9  # of a difference's energy, in one channel


def _bias(evidence: Evidence) -> Tensor | None:
    facts = evidence.facts
    if facts.linear is not None:
        return facts.linear.bias.double()
    if facts.table is not None and facts.table.token_type is not None:
        return facts.table.token_type.double().reshape(-1)
    return None


def _adapter(evidence: Evidence) -> Tensor | None:
    """The adapter's part of the output."""
    facts = evidence.facts
    if facts.linear is not None and facts.linear.delta is not None:
        return evidence.x @ facts.linear.delta.double()
    if facts.table is not None and facts.table.delta is not None:
        return facts.tokens(facts.table.delta).double()
    return None


def scale(evidence: Evidence) -> Explanation | None:
    """One factor on the product, or on Q's, K's and V's each; the bias is left alone."""
    bias = _bias(evidence) if evidence.facts.linear is not None else None
    before = 0.0 if bias is None else bias
    parts = _PARTS.get(evidence.facts.place.block, ("",))
    plain = (evidence.reference - before).chunk(len(parts), -1)
    given = (evidence.engine - before).chunk(len(parts), -1)
    factors = [fitted(a, b) for a, b in zip(plain, given, strict=True)]
    guess = torch.cat([a * f for a, f in zip(plain, factors, strict=True)], -1) + before
    told = ", ".join(
        f"{f'{name} ' if name else ''}× {f:.4g}" for name, f in zip(parts, factors, strict=True)
    )
    return Explanation(evidence.share(guess), f"outputs are {told}")


def missing_bias(evidence: Evidence) -> Explanation | None:
    """The output without its bias."""
    if (bias := _bias(evidence)) is None:
        return None
    times = evidence.along(-bias.expand_as(evidence.reference))
    share = evidence.share(evidence.reference - bias)
    return Explanation(share, f"the difference is {-times:+.3g} times the bias")


def other_bias(evidence: Evidence) -> Explanation | None:
    """The same summand for every token, one per channel."""
    mean = evidence.difference.mean(0)
    size = float(mean.norm() / evidence.reference.square().mean(0).sum().sqrt())
    return Explanation(
        evidence.share(evidence.reference + mean),
        f"every token differs by the same vector, {size:.2g} of an output's length",
    )


def missing_adapter(evidence: Evidence) -> Explanation | None:
    """The output without the adapter's product."""
    if (part := _adapter(evidence)) is None:
        return None
    times = evidence.along(part)
    return Explanation(
        evidence.share(evidence.reference - part),
        f"the difference is {times:+.3g} times the adapter's product",
    )


def adapter_strength(evidence: Evidence) -> Explanation | None:
    """The adapter's product, too strong or too weak."""
    if (part := _adapter(evidence)) is None:
        return None
    times = evidence.along(part)
    return Explanation(
        evidence.share(evidence.reference + times * part),
        f"the adapter counts {1 + times:.3g} times",
    )


def swapped_adapter(evidence: Evidence) -> Explanation | None:
    """A and B in each other's place: the transposed product, where it is square."""
    linear = evidence.facts.linear
    if linear is None or linear.delta is None or linear.delta.shape[0] != linear.delta.shape[1]:
        return None
    delta = linear.delta.double()
    share = evidence.share(evidence.reference + evidence.x @ (delta.T - delta))
    return Explanation(share, "the adapter's product is the transposed one's")


def transposed_weight(evidence: Evidence) -> Explanation | None:
    """A square matrix the wrong way round."""
    linear = evidence.facts.linear
    if linear is None or linear.weight.shape[0] != linear.weight.shape[1]:
        return None
    guess = evidence.x @ linear.merged.double().T + linear.bias.double()
    return Explanation(evidence.share(guess), "outputs are those of the transposed matrix")


def one_channel(evidence: Evidence) -> Explanation | None:
    """Nearly all of the difference in one channel of the output."""
    energies = evidence.difference.square().sum(0)
    share, channel = (float(v) for v in (energies / evidence.energy).max(0))
    if share < _ALONE or len(energies) < 4:
        return None
    at = int(channel)
    factor = fitted(evidence.reference[:, at], evidence.engine[:, at])
    return Explanation(
        share, f"channel {at} holds {share:.1%} of the difference; it is × {factor:.3g}"
    )


def clipped_input(evidence: Evidence) -> Explanation | None:
    """An input scale that is too small: stored numbers at the limit of their type."""
    if (found := _requantised(evidence)) is None:
        return None
    stored, steps, guess = found
    clipped = float((steps.abs() > stored.levels).double().mean())
    needed = float(steps.abs().max()) / stored.levels
    if clipped < _CLIPPED and needed < 2:
        return None
    return Explanation(
        evidence.share(guess),
        f"{clipped:.2%} of the input's numbers are beyond the scale, the largest {needed:.3g} "
        "times its limit",
    )


def outlier_channel(evidence: Evidence) -> Explanation | None:
    """One channel of the input takes the range, and the others are left few steps."""
    if (found := _requantised(evidence)) is None:
        return None
    stored, steps, guess = found
    peaks = steps.abs().amax(0)
    largest, channel = (float(v) for v in peaks.max(0))
    others = float(peaks.kthvalue(len(peaks) - 1).values)
    if largest < _OUTLIER * others or largest > 2 * stored.levels:
        return None
    return Explanation(
        evidence.share(guess),
        f"input channel {int(channel)} reaches {largest:.0f} of {stored.levels} levels, "
        f"all others {others:.1f}",
    )


def coarse_input(evidence: Evidence) -> Explanation | None:
    """An input scale that is too large: most levels are never used."""
    if (found := _requantised(evidence)) is None:
        return None
    stored, steps, guess = found
    largest = float(steps.abs().max())
    if largest * _USED > stored.levels:
        return None
    return Explanation(
        evidence.share(guess), f"the input uses {largest:.1f} of {stored.levels} levels"
    )


def _requantised(evidence: Evidence) -> tuple[Stored, Tensor, Tensor] | None:
    """The input in steps of its scale, not rounded, and the output that rounding it gives."""
    facts = evidence.facts
    stored, linear = facts.stored, facts.linear
    if stored is None or linear is None or stored.input_scale is None:
        return None
    factors = 1.0 if stored.factors is None else stored.factors.double()
    steps = evidence.x * factors / stored.input_scale
    if stored.kind is not torch.int8:
        limit = torch.finfo(stored.kind).max
        rounded = steps.clamp(-limit, limit).to(stored.kind).double()
        stored = Stored(kind=stored.kind, input_scale=stored.input_scale, levels=int(limit))
    else:
        rounded = steps.round().clamp(-stored.levels - 1, stored.levels)
    x = rounded * stored.input_scale / factors  # type: ignore[operator]
    return stored, steps, x @ linear.merged.double() + linear.bias.double()
