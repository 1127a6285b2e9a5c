"""How far a block's output may be from the reference's by rounding alone: a model of the precision.

Each number that is rounded adds an independent error. One of a floating type with p bits errs by
0.425·2^-p of itself (root mean square over numbers of every size), one stored in steps by
step/√12. The errors of a sum add up by their squares, so what a product adds is a product of
squares. Steps of the input are those of the stored scale, but not more than ``HEADROOM`` times
what the input at hand needs: a scale beyond that is a defect and no noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from export.drift.blocks import Block
from export.drift.facts import UNIT, Facts, Stored
from export.drift.figures import decibels

RMS = 0.425  # of a rounding error, in units of 2^-p
HEADROOM = 8.0  # a calibration saw larger numbers than these texts have
FLOOR = 16 * UNIT[torch.float32]  # other order of a sum, another exp: relative to the output
SAMPLED = 128  # tokens, or queries, that the model looks at
# Of a scale: a search may clip a block, learned rounding may take the step that is farther away.
_LEARNED = 2.0


def expected_snr(facts: Facts) -> float:
    """The signal to noise, dB, that rounding alone would leave of a block's output."""
    rows = _sample(facts)
    output = facts.tokens(facts.output)[rows].double()
    signal = float(output.square().sum())
    noise = _NOISE.get(facts.place.block, _none)(facts, rows) + (FLOOR * output).square()
    return decibels(signal, float(noise.sum()))


def _sample(facts: Facts) -> Tensor:
    count = len(facts.tokens(facts.output))
    return torch.linspace(0, count - 1, min(count, SAMPLED)).round().long()


def rounding(facts: Facts) -> float:
    """The relative error of a number of the block's own type."""
    return RMS * UNIT[facts.dtype]


def _none(facts: Facts, rows: Tensor) -> Tensor:
    return torch.zeros((), dtype=torch.float64)


def _lookup(facts: Facts, rows: Tensor) -> Tensor:
    if (table := facts.table) is None or (stored := facts.stored) is None:
        return _none(facts, rows)
    base = facts.tokens(table.base)[rows].double()
    words = base if table.delta is None else base + facts.tokens(table.delta)[rows].double()
    unit = RMS * UNIT.get(stored.kind, UNIT[facts.dtype])
    noise = (unit * words).square() + (unit * (words - base)).square()
    if stored.quantised:
        noise = noise + _steps(words, stored).square() * (_LEARNED / 12)
    return noise


def _steps(rows: Tensor, stored: Stored) -> Tensor:
    """The step of each number, of rows ``[n, numbers]`` with a scale each, or one per block."""
    if stored.block is None:
        return (rows.abs().amax(-1, keepdim=True) / stored.levels).expand_as(rows)
    blocks = torch.unflatten(rows, -1, (-1, stored.block))
    return (blocks.abs().amax(-1, keepdim=True) / stored.levels).expand_as(blocks).flatten(-2)


def _product(facts: Facts, rows: Tensor) -> Tensor:
    if (linear := facts.linear) is None or (stored := facts.stored) is None:
        return _none(facts, rows)
    x, weight = facts.tokens(facts.x)[rows].double(), linear.merged.double()
    output = facts.tokens(facts.output)[rows].double()
    unit, squares = rounding(facts), x.square() @ weight.square()
    # In FP32 sums of K products err too, by √K in the worst order; half types are summed in FP32.
    sums = (RMS * UNIT[torch.float32]) ** 2 * x.shape[-1] * squares
    bias = linear.bias.double()
    # The product is rounded, once more with a bank's or a channel's part; the bias; their sum.
    noise = unit**2 * (2 * (output - bias).square() + bias.square() + output.square())
    noise = noise + unit**2 * squares + sums
    if not stored.quantised:
        return noise + unit**2 * squares
    return noise + torch.minimum(
        _quantised(x, weight, stored), 4 * _quantised(x, weight, stored, smoothed=False)
    )


def _quantised(x: Tensor, weight: Tensor, stored: Stored, *, smoothed: bool = True) -> Tensor:
    """What the steps of both operands add."""
    factors = stored.factors.double() if smoothed and stored.factors is not None else None
    scaled = x if factors is None else x * factors
    matrix = weight if factors is None else weight / factors[:, None]
    if stored.kind is torch.float8_e4m3fn:
        unit = RMS * UNIT[stored.kind]
        sides = 1 if stored.input_scale is None else 2
        return sides * unit**2 * (scaled.square() @ matrix.square()) * 1.5  # subnormal ones
    noise = scaled.square() @ (_steps(matrix.T, stored).T.square() * (_LEARNED / 12))
    if stored.input_scale is not None:
        needed = float(scaled.abs().max()) / stored.levels
        step = min(stored.input_scale, HEADROOM * needed)
        noise = noise + step**2 / 12 * matrix.square().sum(0)
    return noise


def _rotation(facts: Facts, rows: Tensor) -> Tensor:
    """Three roundings of each of two products, and of their sum."""
    output = facts.tokens(facts.output)[rows].double()
    width = output.shape[-1] // (2 * facts.heads)
    pairs = torch.unflatten(output, -1, (-1, 2, width // 2))
    size = pairs.square().sum(-2, keepdim=True).expand_as(pairs).flatten(-3)
    return 3 * rounding(facts) ** 2 * size


def _attention(facts: Facts, rows: Tensor) -> Tensor:
    """Scores err by their operands' rounding, weights by their scores', sums by their values'.

    An operand is rounded twice: as a value, and when its part of the scale is multiplied in. That
    part is rounded too, which makes all scores too large or too small: 0.25 % for BF16 and 32 wide.
    """
    unit = rounding(facts)
    q, k, v = heads_of(facts)
    where = facts.mask.nonzero()[rows]
    noise = []
    for text in range(len(facts.mask)):
        at = where[where[:, 0] == text, 1]
        keys = facts.mask[text]
        asked, held, values = q[text][:, at], k[text][:, keys], v[text][:, keys]
        size = 1 / math.sqrt(q.shape[-1])
        scores = asked @ held.mT * size
        weights = torch.softmax(scores, -1)
        mixed = weights @ values
        told = weights * scores
        shift = (told @ values - told.sum(-1, keepdim=True) * mixed) * _scale_error(facts, size)
        errors = 4 * unit**2 * (asked.square() @ held.square().mT) * size**2
        if facts.has_half_sums:
            sums = asked.abs() @ held.abs().mT * size
            errors = errors + q.shape[-1] / 16 * (RMS * UNIT[torch.float16] * sums).square()
        spread = weights.square() * (errors + 2 * unit**2)
        own = (
            spread @ values.square()
            - 2 * mixed * (spread @ values)
            + mixed.square() * (spread.sum(-1, keepdim=True))
        )
        rest = 2 * unit**2 * (mixed.square() + weights.square() @ values.square())
        noise.append((own + rest + shift.square()).transpose(0, 1).flatten(-2))
    return torch.cat(noise)


def _scale_error(facts: Facts, size: float) -> float:
    """By how much the scale ``size`` is off where its root is rounded to the block's type."""
    root = torch.tensor(math.sqrt(size), dtype=torch.float64).to(facts.dtype).double()
    return float(root.square()) / size - 1


def heads_of(facts: Facts) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated Q and K, and V, of the reference, FP64 ``[batch, heads, sequence, width]``."""
    q, k = facts.inputs[Block.ROPE].double().chunk(2, -1)
    v = facts.inputs[Block.QKV].double().chunk(3, -1)[2]
    q, k, v = (torch.unflatten(x, -1, (facts.heads, -1)).transpose(1, 2) for x in (q, k, v))
    return q, k, v


def _norm(facts: Facts, rows: Tensor) -> Tensor:
    if (norm := facts.norm) is None or facts.place.layer is None:
        return _none(facts, rows)  # the embeddings are summed and normed in FP32
    terms = [facts.tokens(x)[rows].double() for x in facts.inputs.values()]
    total = torch.stack(terms).sum(0)
    errors = rounding(facts) ** 2 * torch.stack([term.square() for term in terms]).sum(0)
    deviation = total.var(-1, keepdim=True, unbiased=False) + norm.epsilon
    return errors / deviation * norm.gamma.double().square()


def _gelu(facts: Facts, rows: Tensor) -> Tensor:
    x = facts.tokens(facts.x)[rows].double()
    density = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)
    slope = (1 + torch.erf(x / math.sqrt(2))) / 2 + x * density
    output = facts.tokens(facts.output)[rows].double()
    return rounding(facts) ** 2 * ((x * slope).square() + output.square())


_NOISE: Mapping[Block, Callable[[Facts, Tensor], Tensor]] = {
    Block.LOOKUP: _lookup,
    Block.EMBEDDING_NORM: _norm,
    Block.QKV: _product,
    Block.ROPE: _rotation,
    Block.ATTENTION: _attention,
    Block.OUT: _product,
    Block.NORM1: _norm,
    Block.FC1: _product,
    Block.GELU: _gelu,
    Block.FC2: _product,
    Block.NORM2: _norm,
}
