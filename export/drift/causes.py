"""Why a block departs: a table of causes, each a hypothesis about the block's output.

Each row makes the output that its cause would give of the reference's inputs, or fits one number
or one per channel, and is judged by how much of the difference that explains. The first row that
explains as much as any other is the likely cause: rows that fit more numbers stand below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from export.drift import linear_causes, other_causes
from export.drift.blocks import LINEAR, NORMS, Block
from export.drift.evidence import Evidence, Explanation
from export.drift.facts import Facts
from export.drift.noise import expected_snr

UNKNOWN = "not known"
ANOTHER_GELU = "another GELU"
_ENOUGH = 0.6  # of what rounding does not explain
_EQUAL = 0.03  # less than what a lower row explains, and still the cause

_PRODUCTS, _NORMS = tuple(LINEAR), tuple(NORMS)
_HEADS = (Block.QKV, Block.ROPE, Block.ATTENTION)
_TOKENS = tuple(block for block in Block if block is not Block.POOLING)


@dataclass(frozen=True)
class Cause:
    """A row: what it is called, where it can be, and how a difference is tested for it."""

    name: str
    blocks: tuple[Block, ...]
    test: Callable[[Evidence], Explanation | None]


CAUSES = (
    Cause("overflow", tuple(Block), other_causes.overflow),
    Cause("wrong positions", (Block.ROPE,), other_causes.positions),
    Cause("wrong mask", (Block.ATTENTION,), other_causes.wrong_mask),
    Cause(ANOTHER_GELU, (Block.GELU,), other_causes.other_gelu),
    Cause("another pooling", (Block.POOLING,), other_causes.pooling),
    Cause("another epsilon", _NORMS, other_causes.epsilon),
    Cause("heads permuted", _HEADS, other_causes.moved_heads),
    Cause("heads permuted", (Block.OUT,), other_causes.moved_input_heads),
    Cause("weight transposed", _PRODUCTS, linear_causes.transposed_weight),
    Cause("adapter missing", (Block.LOOKUP, *_PRODUCTS), linear_causes.missing_adapter),
    Cause("A and B swapped", _PRODUCTS, linear_causes.swapped_adapter),
    Cause("bias missing", _PRODUCTS, linear_causes.missing_bias),
    Cause("token type missing", (Block.LOOKUP,), linear_causes.missing_bias),
    Cause("input scale too small", _PRODUCTS, linear_causes.clipped_input),
    Cause("outlier channel", _PRODUCTS, linear_causes.outlier_channel),
    Cause("input scale too large", _PRODUCTS, linear_causes.coarse_input),
    Cause("wrong scale", _TOKENS, linear_causes.scale),
    Cause("adapter's strength", (Block.LOOKUP, *_PRODUCTS), linear_causes.adapter_strength),
    Cause("one channel", _TOKENS, linear_causes.one_channel),
    Cause("outputs cut off", _TOKENS, other_causes.cut_off),
    Cause("another beta", _NORMS, other_causes.beta),
    Cause("another bias", (Block.LOOKUP, *_PRODUCTS), linear_causes.other_bias),
    Cause("another gamma", _NORMS, other_causes.gamma),
    Cause("another gamma and beta", _NORMS, other_causes.gamma_and_beta),
)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The likely cause, the share of the difference that it explains, 0 to 1, and its figures."""

    cause: str
    share: float
    figures: str


def find_cause(facts: Facts) -> Finding:
    """The likely cause of a block's difference; ``UNKNOWN`` where no row explains enough."""
    found = list(_explanations(facts))
    best = max((share for _, share, _ in found), default=0.0)
    for name, share, figures in found:
        if share >= max(_ENOUGH, best - _EQUAL):
            return Finding(cause=name, share=max(share, 0.0), figures=figures)
    told = max(found, key=lambda entry: entry[1], default=("nothing", 0.0, "no test applies"))
    return Finding(
        cause=UNKNOWN,
        share=max(told[1], 0.0),
        figures=f"closest is {told[0]}, which explains {max(told[1], 0.0):.0%}",
    )


def find_below_noise(facts: Facts, expected: float) -> Finding | None:
    """A cause whose difference is smaller than rounding's and yet there; None for most blocks.

    Only a function of each number alone is looked for: rounding's errors are as many and have no
    part in it, so that one in ten thousand of their energy is seen.
    """
    if facts.place.block is not Block.GELU:
        return None
    found = other_causes.gelu_below_noise(Evidence(facts, expected))
    if found is None:
        return None
    return Finding(cause=ANOTHER_GELU, share=found.share, figures=found.figures)


def _explanations(facts: Facts) -> Iterator[tuple[str, float, str]]:
    evidence = Evidence(facts, expected_snr(facts))
    for row in CAUSES:
        if facts.place.block not in row.blocks:
            continue
        if (found := row.test(evidence)) is not None:
            yield row.name, found.share, found.figures
            if row.test is other_causes.overflow:
                return  # nothing can be fitted to what is not finite
