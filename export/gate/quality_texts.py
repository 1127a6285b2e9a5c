"""The texts that quantised bundles are judged on by what they are for: which, and by which task.

A bundle with all tasks embeds each side with the task made for it; any other embeds every side with
each task it has, and the passages once, whatever they are used for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from calibration import looks
from calibration.corpus import graded_pairs, questions

# The sides of calibration.quality.SetVectors, which the texts' names begin with, and their tasks.
OWNERS: Mapping[str, str] = {
    "queries": "retrieval.query",
    "passages": "retrieval.passage",
    "negatives": "retrieval.passage",
    "first": "text-matching",
    "second": "text-matching",
    "classed": "classification",
    "clustered": "separation",
}
PASSAGES = ("passages", "classed", "clustered")  # one text, up to three tasks


def side_of(name: str) -> str | None:
    """The side that a text of the gate is of; None for a parity or a held-out text."""
    side = name.split("-")[0]
    return side if side in OWNERS else None


def number_of(name: str) -> int:
    """The number of a side's question or pair in its set."""
    return int(name.split("-")[1].partition(".")[0])


def set_of(name: str) -> tuple[bool, int]:
    """What a side's text belongs to: whether to a graded pair, and the number of that."""
    return name.split("-")[0] in ("first", "second"), number_of(name)


def apart(tasks: Collection[str]) -> bool:
    """Whether each side has a task of its own."""
    return set(OWNERS.values()) <= set(tasks)


def quality_texts(task: str, tasks: Collection[str], look: int) -> list[tuple[str, str]]:
    """Names and texts that ``task`` embeds and that a look, counted from 0, adds to those before.

    A name is the side, the number in its set, and the language: ``queries-007-de``.
    """
    named: list[tuple[str, str]] = []
    for side, texts in _sides(look).items():
        if OWNERS[side] == task if apart(tasks) else side not in PASSAGES[1:]:
            named += [(f"{side}-{name}", text) for name, text in texts]
    return named


def _sides(look: int) -> dict[str, list[tuple[str, str]]]:
    """Every side's texts, each named by number and language."""
    before = looks.LOOKS[look - 1] if look else (0, 0)
    (asked, graded), (more, further) = before, looks.LOOKS[look]
    rows = list(enumerate(questions()))[asked:more]
    pairs = list(enumerate(graded_pairs()))[graded:further]
    passages = [(f"{i:03d}-{q.language}", q.passage) for i, q in rows]
    return {
        "queries": [(f"{i:03d}-{q.language}", q.query) for i, q in rows],
        **dict.fromkeys(PASSAGES, passages),
        "negatives": [
            (f"{i:03d}.{k}-{q.language}", text)
            for i, q in rows
            for k, text in enumerate(q.negatives)
        ],
        "first": [(f"{i:03d}-{p.language}", p.first) for i, p in pairs],
        "second": [(f"{i:03d}-{p.language}", p.second) for i, p in pairs],
    }
