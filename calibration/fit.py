"""How far two corpora are apart, and whether that is more than chance.

Counts differ by chance too. Halves of a corpus of n texts differ by what 4/n gives, corpora of n
and m texts by 1/n + 1/m, so a quarter of both halves' sum is what texts of one kind would give.
``tests/unit/test_fit.py`` draws from the project's own texts and holds the rule to its errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from calibration.profile import KINDS, Profile, divergence
from runtimes.errors import InputError, one_line

LEAST = 0.05  # of a divergence that is worth a warning
# By the smaller corpus's number of texts, how often what chance gives has to be exceeded.
_TIMES = ((64, 2.0), (0, 4.0))
_NAMED = 3  # classes that differ most


@dataclass(frozen=True, kw_only=True)
class Class:
    """One class's share of each side, 0 to 1; None: a token that is not among its frequent ones."""

    name: str
    first: float | None
    second: float | None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One of :data:`KINDS`: the divergence (0 to 1), what chance gives, and what differs most."""

    kind: str
    divergence: float
    chance: float
    differs: bool
    most: tuple[Class, ...]


def differences(first: Profile, second: Profile) -> tuple[Difference, ...]:
    """A row per kind; :class:`InputError` where the tokens are not of the same vocabulary."""
    if first.vocabulary != second.vocabulary:
        raise InputError(
            "calibration: the texts were counted with another tokenizer, expected the same; "
            "compare within one model, or name it with MODEL"
        )
    smaller = min(first.texts, second.texts)
    times = next(times for texts, times in _TIMES if smaller >= texts)
    rows = []
    for kind in KINDS:
        one, other = first.of(kind), second.of(kind)
        chance = (one.noise + other.noise) / 4
        value = divergence(one.counts, other.counts)
        named = (
            (first.frequent, second.frequent) if kind == "tokens" else (one.counts, other.counts)
        )
        rows.append(
            Difference(
                kind=kind,
                divergence=round(value, 4),
                chance=round(chance, 4),
                differs=value - chance > max(LEAST, times * chance),
                most=_most(kind, *named),
            )
        )
    return tuple(rows)


def difference_lines(rows: tuple[Difference, ...]) -> list[str]:
    """A table, with what differs most where that is more than chance."""
    lines = [f"{'texts':10} {'divergence':>10} {'by chance':>10}"]
    for row in rows:
        told = f"  differs: {_told(row)}" if row.differs else ""
        lines.append(f"{row.kind:10} {row.divergence:10.3f} {row.chance:10.3f}{told}")
    return lines


def warning_of(rows: tuple[Difference, ...], what: str) -> str | None:
    """One sentence where corpora differ: ``what`` names them; None where they do not."""
    told = [f"{r.kind} {r.divergence:.2f} ({_told(r)})" for r in rows if r.differs]
    if not told:
        return None
    return (
        f"{what}, by Jensen-Shannon divergence (0 to 1): {'; '.join(told)}; ranges may clip what "
        "they have not seen: calibrate on texts like yours (CALIBRATION_DATA), or merge (MERGE)"
    )


def _told(row: Difference) -> str:
    return ", ".join(
        f"{_NAMES[row.kind].format(one_line(c.name))} {_share(c.first)} and {_share(c.second)}"
        for c in row.most
    )


_NAMES = {"length": "up to {} tokens", "script": "{}", "tokens": "“{}”"}


def _share(share: float | None) -> str:
    return "rare" if share is None else f"{share:.1%}"


def _most(kind: str, first: Mapping[str, float], second: Mapping[str, float]) -> tuple[Class, ...]:
    """The classes whose shares differ most. Of tokens the frequent ones alone are known."""
    absent = None if kind == "tokens" else 0.0
    totals = (1.0, 1.0) if kind == "tokens" else (sum(first.values()), sum(second.values()))

    def share(side: Mapping[str, float], total: float, name: str) -> float | None:
        return side[name] / total if name in side else absent

    rows = [
        Class(name=n, first=share(first, totals[0], n), second=share(second, totals[1], n))
        for n in first.keys() | second.keys()
    ]
    rows.sort(key=lambda row: (-abs((row.first or 0) - (row.second or 0)), row.name))
    return tuple(rows[:_NAMED])
