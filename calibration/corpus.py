"""The texts that ranges are computed from, and those that only gates see.

The project's own texts are described in ``data/README.md``. A user's file replaces the
calibration texts, never the gates'.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

from calibration.sources import TEXT_COLUMN, Row, read_rows
from runtimes.errors import InputError, shown
from runtimes.text.lines import parse_object, read_lines
from runtimes.text.tokens import check_text

TEXTS = Path(__file__).parent / "data" / "texts.jsonl"
RETRIEVAL = Path(__file__).parent / "data" / "retrieval.jsonl"
QUESTIONS = Path(__file__).parent / "data" / "questions.jsonl"
GRADED = Path(__file__).parent / "data" / "graded.jsonl"
UNDETERMINED = "und"  # ISO 639-2's code, for texts whose language is not given
# Of a larger corpus so much is kept: some thousand texts are enough, and these fit beside a model.
MOST_TEXTS, MOST_CHARACTERS = 1 << 17, 64 << 20
_LONGEST = 1 << 20  # characters of one text; 8192 tokens are a tenth of that


@dataclass(frozen=True)
class Text:
    """One text; ``language`` is ISO 639-1, or ``und``."""

    language: str
    text: str


@dataclass(frozen=True)
class Pair:
    """A query, and the one passage among all pairs' that answers it."""

    language: str
    query: str
    passage: str


@dataclass(frozen=True)
class Question:
    """A query, the one passage that answers it, and passages on its subject that do not."""

    language: str
    topic: str
    query: str
    passage: str
    negatives: tuple[str, ...]


@dataclass(frozen=True)
class GradedPair:
    """Two sentences, and how much they mean the same: 0, unrelated, to 5."""

    language: str
    score: int
    first: str
    second: str


def load_corpus(
    path: Path | None, source: str = "CALIBRATION_DATA", column: str = TEXT_COLUMN
) -> list[Text]:
    """The project's calibration texts, or those at a user's ``path``, which ``source`` named.

    ``.txt`` holds a text per line, ``.jsonl`` an object per line with ``column`` and perhaps
    ``language``, ``.parquet`` columns of these names; a folder, such files or a saved dataset
    (:mod:`calibration.sources`). Blank texts are skipped. Of more than ``MOST_TEXTS`` texts or
    ``MOST_CHARACTERS`` characters a sample is kept, spread evenly, the same for the same texts in
    whatever file. Raises :class:`InputError` for what cannot be read so or holds no text, and
    :class:`MissingError` where the reader of tables is not installed.
    """
    if path is None:
        return _own("calibration")
    kept, count = _Sample(), 0
    for text in read_corpus(path, source, column):
        kept.add(text)
        count += 1
    if not count:
        raise InputError(f"{source}: {path}: no text in it, expected at least one")
    texts = kept.texts()
    if len(texts) < count:
        log = logging.getLogger("adaptrt")
        log.info("%s: %d texts, of which %d, spread evenly, are used", source, count, len(texts))
    return texts


def read_corpus(path: Path, source: str, column: str = TEXT_COLUMN) -> Iterator[Text]:
    """Every text at ``path`` that is not blank, one after the other; raises as reading does."""
    for row in read_rows(path, column, source):
        text = _text(row, column)
        if text.text.strip():
            yield text


def own_texts() -> dict[str, list[str]]:
    """All texts of the project's own by language, each once: few of each, in a fixed order."""
    by_language: dict[str, dict[str, None]] = {}
    sides = [
        *((t.language, t.text) for t in (*_own("calibration"), *_own("held_back"))),
        *((q.language, text) for q in questions() for text in (q.query, q.passage, *q.negatives)),
        *((p.language, text) for p in graded_pairs() for text in (p.first, p.second)),
        *((p.language, text) for p in retrieval_pairs() for text in (p.query, p.passage)),
    ]
    for language, text in sides:
        by_language.setdefault(language, {})[text] = None
    return {language: list(texts) for language, texts in by_language.items()}


class _Sample:
    """Texts of a stream of any length, each with the same chance, as many as the limits allow.

    Every text draws a key, and those with the least keys are kept (bottom-k sampling), so that
    memory is bounded and the choice is a function of the texts' order and sizes alone.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Text]] = []  # the greatest key is on top, negated
        self._random, self._limit = random.Random(0), 1.0
        self._index = self._characters = 0

    def add(self, text: Text) -> None:
        key, self._index = self._random.random(), self._index + 1
        if key >= self._limit:
            return
        heappush(self._heap, (-key, self._index, text))
        self._characters += len(text.text)
        while len(self._heap) > MOST_TEXTS or self._characters > MOST_CHARACTERS:
            negated, _, dropped = heappop(self._heap)
            self._characters -= len(dropped.text)
            self._limit = -negated

    def texts(self) -> list[Text]:
        """In the order in which they came."""
        return [text for _, _, text in sorted(self._heap, key=lambda item: item[1])]


def held_back() -> list[Text]:
    """Texts for accuracy gates; no calibration sees them."""
    return _own("held_back")


def retrieval_pairs() -> list[Pair]:
    """Queries and passages in several languages, in a fixed order."""
    return [
        Pair(r["language"], r["query"], r["passage"])
        for _, r in _objects(RETRIEVAL, str(RETRIEVAL))
    ]


def questions() -> list[Question]:
    """In a fixed order: a multiple of 24 from the beginning has every language as often."""
    return [
        Question(r["language"], r["topic"], r["query"], r["passage"], tuple(r["negatives"]))
        for _, r in _objects(QUESTIONS, str(QUESTIONS))
    ]


def graded_pairs() -> list[GradedPair]:
    """In a fixed order, as :func:`questions`."""
    return [
        GradedPair(r["language"], r["score"], r["first"], r["second"])
        for _, r in _objects(GRADED, str(GRADED))
    ]


def corpus_sha256(texts: Iterable[Text]) -> str:
    """Identifies a corpus by its texts, in whatever kind of file they came."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(json.dumps([text.language, text.text]).encode("ascii") + b"\n")
    return digest.hexdigest()


def _own(split: str) -> list[Text]:
    return [
        Text(r["language"], r["text"])
        for _, r in _objects(TEXTS, str(TEXTS))
        if r["split"] == split
    ]


def _text(row: Row, column: str) -> Text:
    text, language = row.text, row.language or UNDETERMINED
    for name, value in ((column, text), ("language", language)):
        if not isinstance(value, str):
            raise InputError(
                f"{row.place}: {shown(name)} is {type(value).__name__}, expected a string"
            )
    if text:  # an empty one is skipped with the blank ones
        check_text(text, row.place)
    if (size := len(str(text))) > _LONGEST:
        raise InputError(
            f"{row.place}: {size} characters, expected at most {_LONGEST}; split the text, as no "
            "more than its beginning would be run"
        )
    return Text(str(language), str(text))


def _objects(path: Path, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open("rb") as stream:
        for where, line in read_lines(stream, place):
            if line.strip():
                yield where, parse_object(line, where)
