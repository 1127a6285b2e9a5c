"""The texts that ranges are computed from, and those that only gates see.

The project's own texts are described in ``data/README.md``. A user's file replaces the
calibration texts, never the gates'.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtimes.errors import InputError, MissingError
from runtimes.text.lines import parse_object, read_lines
from runtimes.text.tokens import check_text

TEXTS = Path(__file__).parent / "data" / "texts.jsonl"
RETRIEVAL = Path(__file__).parent / "data" / "retrieval.jsonl"
QUESTIONS = Path(__file__).parent / "data" / "questions.jsonl"
GRADED = Path(__file__).parent / "data" / "graded.jsonl"
UNDETERMINED = "und"  # ISO 639-2's code, for texts whose language is not given
MAX_BYTES = 256 << 20  # a few thousand texts are enough; this many fit beside the model
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


def load_corpus(path: Path | None, source: str = "CALIBRATION_DATA") -> list[Text]:
    """The project's calibration texts, or those of a user's file, which ``source`` named.

    ``.txt`` holds a text per line, ``.jsonl`` an object per line with ``text`` and perhaps
    ``language``, ``.parquet`` columns of these names. Blank texts are skipped. Raises
    :class:`InputError` for a file that cannot be read so or holds no text, and
    :class:`MissingError` where Parquet's reader is not installed.
    """
    if path is None:
        return _own("calibration")
    readers = {".txt": _read_txt, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise InputError(f"{source}: got {path.name}, expected a name in {', '.join(readers)}")
    place = f"{source}: {path}"
    if not path.is_file():
        raise InputError(f"{place}: no such file")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise InputError(
            f"{place}: {size} bytes, expected at most {MAX_BYTES}; "
            "some thousand texts are enough, take a sample"
        )
    texts = [text for text in readers[path.suffix](path, place) if text.text.strip()]
    if not texts:
        raise InputError(f"{place}: no text in it, expected at least one")
    return texts


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


def _read_txt(path: Path, place: str) -> Iterator[Text]:
    for where, line in _lines(path, place):
        yield _text({"text": line}, where)


def _read_jsonl(path: Path, place: str) -> Iterator[Text]:
    for where, row in _objects(path, place):
        yield _text(row, where)


def _read_parquet(path: Path, place: str) -> Iterator[Text]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingError(
            f"{place}: a .parquet file needs pyarrow; pip install pyarrow, or give the texts as "
            ".jsonl"
        ) from error
    try:
        with ParquetFile(path) as file:
            columns = [c for c in ("text", "language") if c in file.schema_arrow.names]
            rows = file.read(columns).to_pylist()
    except (ArrowException, OSError) as error:
        raise InputError(f"{place}: not a Parquet file ({error})") from error
    for number, row in enumerate(rows, 1):
        yield _text(row, f"{place}, row {number}")


def _text(row: Mapping[str, Any], place: str) -> Text:
    text, language = row.get("text"), row.get("language") or UNDETERMINED
    for name, value in (("text", text), ("language", language)):
        if not isinstance(value, str):
            raise InputError(f"{place}: {name!r} is {type(value).__name__}, expected a string")
    if text:  # an empty one is skipped with the blank ones
        check_text(text, place)
    if (size := len(str(text))) > _LONGEST:
        raise InputError(
            f"{place}: {size} characters, expected at most {_LONGEST}; split the text, as no more "
            "than its beginning would be run"
        )
    return Text(str(language), str(text))


def _objects(path: Path, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for where, line in _lines(path, place):
        if line.strip():
            yield where, parse_object(line, where)


def _lines(path: Path, place: str) -> Iterator[tuple[str, str]]:
    with path.open("rb") as stream:
        yield from read_lines(stream, place)
