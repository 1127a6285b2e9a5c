"""What goes wrong beside products: overflow, positions, masks, heads, GELU, norms, pooling."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from export.drift.blocks import Block
from export.drift.evidence import Evidence, Explanation, fitted, per_channel
from export.drift.noise import heads_of

_FEW, _SOME = 64, 1024  # tokens that are enough to find an order, or a direction
_CLOSE = 0.1  # of a factor or a length: the same but for noise


def overflow(evidence: Evidence) -> Explanation | None:
    """Numbers that are not finite, or stand at the limit of the block's type."""
    engine, limit = evidence.engine, torch.finfo(evidence.facts.dtype).max
    lost = int((~engine.isfinite()).sum())
    if lost:
        return Explanation(1.0, f"{lost} of {engine.numel()} numbers are infinite or none")
    at_limit = int((engine.abs() >= limit).sum())
    return Explanation(1.0, f"{at_limit} numbers stand at {limit:.4g}") if at_limit else None


def cut_off(evidence: Evidence) -> Explanation | None:
    """Outputs that go no further than some number."""
    limit = float(evidence.engine.abs().max())
    beyond = int((evidence.reference.abs() > limit).sum())
    if not beyond:
        return None
    share = evidence.share(evidence.reference.clamp(-limit, limit))
    return Explanation(share, f"{beyond} numbers are cut off at {limit:.4g}")


def positions(evidence: Evidence) -> Explanation | None:
    """Q and K turned by other angles: the lengths of all pairs are kept."""
    asked = evidence.facts.tokens(evidence.facts.inputs[Block.QKV]).double()
    x = asked[:, : evidence.reference.shape[1]]
    before, right, wrong = (
        _pairs(values, evidence.facts.heads) for values in (x, evidence.reference, evidence.engine)
    )
    where = evidence.position
    turns = torch.zeros((int(where.max()) + 1, before.shape[-1]), dtype=torch.complex128)
    turns.index_add_(0, where, (wrong * right.conj()).sum(1))
    turns = turns / turns.abs().clamp_min(1e-300)
    share = evidence.share(_from_pairs(right * turns[where, None]))
    off = turns.angle().abs().amax(1)
    if len(off) < 2 or float(off.max()) < 1e-6:
        return None
    told = f"angles differ by {float(off[0]):.2g} at position 0, {float(off[1]):.2g} at 1"
    base = _base(before, wrong, where)
    return Explanation(share, told + (f"; the base is about {base:.5g}" if base else ""))


def _pairs(values: Tensor, heads: int) -> Tensor:
    """``[tokens, 2 · hidden]`` as complex numbers ``[tokens, 2 · heads, width / 2]``."""
    real, imaginary = torch.unflatten(values, -1, (2 * heads, -1)).chunk(2, -1)
    return torch.complex(real.contiguous(), imaginary.contiguous())


def _from_pairs(pairs: Tensor) -> Tensor:
    return torch.cat((pairs.real, pairs.imag), -1).flatten(-2)


def _base(before: Tensor, after: Tensor, where: Tensor) -> float | None:
    """RoPE's base, from the angles at position 1."""
    at_one = where == 1
    angles = (after[at_one] * before[at_one].conj()).sum((0, 1)).angle()
    number = torch.arange(1, len(angles), dtype=torch.float64)
    usable = angles[1:] > 1e-9
    if not bool(usable.any()):
        return None
    bases = torch.exp(-torch.log(angles[1:][usable]) * len(angles) / number[usable])
    return float(bases.median())


def wrong_mask(evidence: Evidence) -> Explanation | None:
    """Attention of the same Q, K and V under another mask."""
    facts = evidence.facts
    q, k, v = (x.float() for x in heads_of(facts))
    keys = facts.mask[:, None, None, :]
    count = facts.mask.sum(1)
    last = torch.arange(facts.mask.shape[1]) == (count[:, None] - 1)
    masks: Mapping[str, Tensor] = {
        "padding is attended to": torch.ones_like(keys),
        "tokens see none behind them": keys & torch.ones(2 * keys.shape[-1:]).tril().bool(),
        "the last token is not attended to": keys & ~last[:, None, None, :],
    }
    best = Explanation(-1.0, "")
    for told, mask in masks.items():
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask)
        guess = facts.tokens(mixed.transpose(1, 2).flatten(-2)).double()
        if (share := evidence.share(guess)) > best.share:
            full = (count == facts.mask.shape[1])[facts.mask.nonzero()[:, 0]]
            energies = evidence.difference.square().sum(1)
            in_full = float(energies[full].sum()) / evidence.energy
            best = Explanation(share, f"{told}; texts without padding hold {in_full:.1%} of it")
    return best


def moved_heads(evidence: Evidence) -> Explanation | None:
    """Heads in another order, or their numbers laid out the other way round."""
    heads = evidence.facts.heads
    groups = evidence.reference.shape[1] * heads // _hidden(evidence)
    plain = torch.unflatten(evidence.reference, -1, (groups, -1))
    given = torch.unflatten(evidence.engine, -1, (groups, -1))
    alike = torch.einsum("tgc,thc->gh", given, plain)
    alike = alike / given.norm(dim=(0, 2))[:, None] / plain.norm(dim=(0, 2))[None]
    order = alike.argmax(1)
    parts = groups // heads
    turned = torch.unflatten(plain, 1, (parts, heads)).transpose(2, 3).flatten(1)
    told = [
        (plain[:, order].flatten(1), f"heads come in the order {_order(order)}"),
        (turned, "heads are laid out by column, not by head"),
    ]
    return max((Explanation(evidence.share(g), t) for g, t in told), key=lambda e: e.share)


def moved_input_heads(evidence: Evidence) -> Explanation | None:
    """The output projection multiplies attention's heads in another order, or transposed."""
    facts = evidence.facts
    if facts.linear is None:
        return None
    weight, bias = facts.linear.merged.double(), facts.linear.bias.double()
    heads = torch.unflatten(evidence.x, -1, (facts.heads, -1))
    rows = torch.unflatten(weight, 0, (facts.heads, -1))
    some = slice(None, None, -(-len(heads) // _FEW))
    parts = torch.einsum("thc,gco->hgto", heads[some], rows)  # head h by the rows of head g
    order = _matched(parts, (evidence.engine - bias)[some])
    guess = heads[:, order].flatten(1) @ weight + bias
    turned = heads.transpose(1, 2).flatten(1) @ weight + bias
    told = [
        (guess, f"rows of the matrix meet heads in the order {_order(order)}"),
        (turned, "heads are laid out by column, not by head"),
    ]
    return max((Explanation(evidence.share(g), t) for g, t in told), key=lambda e: e.share)


def _matched(parts: Tensor, goal: Tensor) -> Tensor:
    """For each head's rows the head that they meet: pairs are exchanged while it helps."""
    count = len(parts)
    order, places = torch.arange(count), torch.arange(count)
    left = goal - parts[order, places].sum(0)
    for _ in range(2):
        for a in range(count):
            for b in range(a):
                change = (
                    parts[order[b], a]
                    + parts[order[a], b]
                    - parts[order[a], a]
                    - parts[order[b], b]
                )
                if float((left - change).square().sum()) < float(left.square().sum()):
                    left = left - change
                    order[[a, b]] = order[[b, a]]
    return order


def _order(order: Tensor) -> str:
    moved = [f"{int(to)} for {at}" for at, to in enumerate(order) if int(to) != at]
    return ", ".join(moved[:4]) + (", …" if len(moved) > 4 else "")


def _hidden(evidence: Evidence) -> int:
    block, width = evidence.facts.place.block, evidence.reference.shape[1]
    return width // {Block.QKV: 3, Block.ROPE: 2}.get(block, 1)


_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "tanh's approximation": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "x · sigmoid(1.702 x)": lambda x: x * torch.sigmoid(1.702 * x),
    "ReLU": torch.relu,
}


def other_gelu(evidence: Evidence) -> Explanation | None:
    """Another function of the same input."""
    found = [
        Explanation(evidence.share(function(evidence.x)), f"outputs are those of {name}")
        for name, function in _ACTIVATIONS.items()
    ]
    return max(found, key=lambda e: e.share)


def gelu_below_noise(evidence: Evidence) -> Explanation | None:
    """Another GELU that rounding hides number by number, but not over all of them.

    Its difference is looked for in the whole output at once: it is there once, give or take a
    tenth, or it is not. None where it cannot be told.
    """
    some = slice(None, None, -(-len(evidence.x) // _SOME))
    x, reference = evidence.x[some], evidence.reference[some]
    noise = evidence.noise / evidence.reference.numel()
    for name, function in _ACTIVATIONS.items():
        change = function(x) - reference
        size = float(change.square().sum())
        doubt = math.sqrt(noise / size) if size else math.inf
        times = fitted(change, evidence.engine[some] - reference)
        if doubt < _CLOSE and abs(times - 1) < 2 * _CLOSE + 2 * doubt:
            told = f"the difference of {name} is in the output {times:.3g} ± {doubt:.1g} times"
            return Explanation(1.0, told)
    return None


def epsilon(evidence: Evidence) -> Explanation | None:
    """A LayerNorm with another epsilon: rows shrink by their own variance."""
    if (norm := evidence.facts.norm) is None:
        return None
    facts, beta = evidence.facts, norm.beta.double()
    total = torch.stack([facts.tokens(x).double() for x in facts.inputs.values()]).sum(0)
    variance = total.var(-1, unbiased=False)
    plain, given = evidence.reference - beta, evidence.engine - beta
    ratios = (plain * given).sum(1) / plain.square().sum(1)
    value = float(((variance + norm.epsilon) / ratios.square() - variance).median())
    factor = ((variance + norm.epsilon) / (variance + value).clamp_min(1e-30)).sqrt()
    guess = plain * factor[:, None] + beta
    told = f"epsilon is about {value:.3g}, the reference's {norm.epsilon:.3g}"
    return Explanation(evidence.share(guess), told)


def gamma(evidence: Evidence) -> Explanation | None:
    """A LayerNorm with another gamma: channels are stretched around beta."""
    if (norm := evidence.facts.norm) is None:
        return None
    beta = norm.beta.double()
    plain, given = evidence.reference - beta, evidence.engine - beta
    factors = (plain * given).sum(0) / plain.square().sum(0).clamp_min(1e-300)
    found = norm.gamma.double() * factors
    off = float((factors - 1).abs().median())
    is_one = float((found - 1).abs().mean()) < _CLOSE * float((norm.gamma - 1).abs().mean())
    told = "gamma is 1 everywhere" if is_one else f"gamma is off by {off:.2%} in half the channels"
    return Explanation(evidence.share(plain * factors + beta), told)


def beta(evidence: Evidence) -> Explanation | None:
    """A LayerNorm with another beta: channels are moved."""
    if (norm := evidence.facts.norm) is None:
        return None
    moved = evidence.difference.mean(0)
    left = float((norm.beta.double() + moved).norm() / norm.beta.norm().clamp_min(1e-30))
    told = "beta is missing" if left < _CLOSE else f"beta differs by {float(moved.norm()):.2g}"
    return Explanation(evidence.share(evidence.reference + moved), told)


def gamma_and_beta(evidence: Evidence) -> Explanation | None:
    """Both: another norm's, for one."""
    if evidence.facts.norm is None or len(evidence.reference) < 8:
        return None
    factor, summand = per_channel(evidence.reference, evidence.engine)
    share = evidence.share(evidence.reference * factor + summand)
    return Explanation(share, "every channel is stretched and moved by numbers of its own")


def pooling(evidence: Evidence) -> Explanation | None:
    """Another way to make one vector of token vectors."""
    facts = evidence.facts
    if facts.chunk_weights is not None:
        return _chunk_pooling(evidence, facts.chunk_weights.double())
    hidden, mask = facts.x.double(), facts.mask.double()[:, :, None]
    last = (facts.mask.sum(1) - 1)[:, None, None].expand(-1, 1, hidden.shape[-1])
    mean = (hidden * mask).sum(1) / mask.sum(1)
    pooled: Mapping[str, Tensor] = {
        "the first token's vector stands for the text": _unit(hidden[:, 0]),
        "padding counts in the mean": _unit(hidden.mean(1)),
        "the last token's vector stands for the text": _unit(hidden.gather(1, last)[:, 0]),
        "the greatest numbers stand for the text": _unit(
            hidden.masked_fill(mask == 0, -math.inf).amax(1)
        ),
        "vectors are not brought to length 1": mean,
    }
    return _best(evidence, pooled)


def _chunk_pooling(evidence: Evidence, weights: Tensor) -> Explanation:
    hidden = evidence.facts.x.double()
    sums = weights @ hidden
    first = hidden[:, :1].expand_as(sums)
    pooled: Mapping[str, Tensor] = {
        "the first token's vector stands for each chunk": _unit(first),
        "chunks are not told apart": _unit(sums.mean(1, keepdim=True).expand_as(sums)),
        "vectors are not brought to length 1": sums,
    }
    return _best(evidence, pooled)


def _best(evidence: Evidence, pooled: Mapping[str, Tensor]) -> Explanation:
    lengths = evidence.engine.norm(dim=-1)
    told = f"lengths {float(lengths.min()):.3g} to {float(lengths.max()):.3g}"
    found = [
        Explanation(evidence.share(guess), f"{name} ({told})") for name, guess in pooled.items()
    ]
    return max(found, key=lambda e: e.share)


def _unit(vectors: Tensor) -> Tensor:
    unit: Tensor = vectors / vectors.norm(dim=-1, keepdim=True)
    return unit


def any_scale(evidence: Evidence) -> Explanation | None:
    """One factor on all outputs."""
    factor = fitted(evidence.reference, evidence.engine)
    share = evidence.share(evidence.reference * factor)
    return Explanation(share, f"outputs are × {factor:.4g}")
