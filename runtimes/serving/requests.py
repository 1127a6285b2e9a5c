"""What a request to the served model means: named arrays in, the right embedder, vectors out.

Runs inside the server, behind :mod:`export.triton.models.embed`; the client shares its names.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtimes.arrays import Arrays, Vectors
from runtimes.choices import AdapterMode, HeadName
from runtimes.embedder import Embedder
from runtimes.errors import InputError, shown
from runtimes.text.chunks import Span
from runtimes.text.tokens import MAX_BYTES, check_size, check_text

if TYPE_CHECKING:
    from typing_extensions import Self

MODEL = "embed"
FINGERPRINTS = "fingerprints"  # its parameter: what determines the vectors of each task
TEXT, TASK, DIMENSIONS, PREFIX, TRUNCATE = "TEXT", "TASK", "DIMENSIONS", "PREFIX", "TRUNCATE"
LATE_CHUNKING, CHUNKS = "LATE_CHUNKING", "CHUNKS"
CHUNK_TOKENS, SENTENCES = "CHUNK_TOKENS", "SENTENCES"
EMBEDDING, WARNINGS, SPANS, WINDOWS = "EMBEDDING", "WARNINGS", "SPANS", "WINDOWS"
MOST_TEXTS = 16384  # in one request: their vectors take 64 MB at 1024 dimensions
REQUEST_TEXTS = 16  # of the greatest length: what the texts of one request have together at most


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request, decoded and checked as far as that needs no model."""

    texts: list[str]
    tasks: list[str] | None
    dimensions: int | None
    prefix: bool
    truncate: bool
    late_chunking: bool
    chunks: list[Span] | None
    chunk_tokens: int | None
    sentences: int | None

    @classmethod
    def parse(cls, inputs: Arrays, max_bytes: int = MAX_BYTES) -> Self:
        """Raises :class:`InputError` for what cannot be embedded as asked."""
        # Triton counts inputs where some are optional: another one alone passes for TEXT.
        texts = _texts(inputs.get(TEXT, np.empty(0, np.object_)), max_bytes)
        spans = inputs.get(CHUNKS)
        request = cls(
            texts=texts,
            tasks=_tasks(inputs.get(TASK), len(texts)),
            dimensions=_integer(inputs, DIMENSIONS),
            prefix=_flag(inputs, PREFIX, True),
            truncate=_flag(inputs, TRUNCATE, False),
            late_chunking=_flag(inputs, LATE_CHUNKING, False),
            chunks=None if spans is None else [(int(start), int(end)) for start, end in spans],
            chunk_tokens=_integer(inputs, CHUNK_TOKENS),
            sentences=_integer(inputs, SENTENCES),
        )
        if not request.late_chunking and request.cut:
            raise InputError(f"{request.cut}: needs {LATE_CHUNKING}=true")
        if request.cut and len(texts) != 1:
            raise InputError(f"{request.cut}: got {len(texts)} texts, expected one document")
        if request.late_chunking and len(set(request.tasks or ())) > 1:
            raise InputError(f"{TASK}: late chunking embeds one document, expected one task")
        return request

    @property
    def cut(self) -> str | None:
        """Which input says where the document is cut; without any, each text is a chunk."""
        cuts = {CHUNKS: self.chunks, CHUNK_TOKENS: self.chunk_tokens, SENTENCES: self.sentences}
        return next((name for name, value in cuts.items() if value is not None), None)

    def document(self) -> tuple[str, list[Span] | None]:
        """The document of late chunking and its spans: the texts joined by spaces, by default."""
        if self.cut:
            return self.texts[0], self.chunks
        ends = np.cumsum([len(text) + 1 for text in self.texts])
        spans = [
            (int(end) - len(t) - 1, int(end) - 1) for t, end in zip(self.texts, ends, strict=True)
        ]
        return " ".join(self.texts), spans


class Router:
    """Sends each text to the embedder that has its task."""

    def __init__(self, embedders: Sequence[Embedder], max_bytes: int = MAX_BYTES) -> None:
        """Where several bundles have a task, a merged one goes first, then the sentence head.

        ``max_bytes`` is the limit of one text; those of a request have 16 times as much together.
        """
        self._max_bytes = max_bytes
        self._texts: dict[str, Embedder] = {}
        self._chunks: dict[str, Embedder] = {}
        for embedder in sorted(embedders, key=_rank):  # the last one wins
            for task in embedder.manifest.prefixes:
                self._texts[task] = embedder
                if embedder.manifest.head is HeadName.CHUNKS:
                    self._chunks[task] = embedder

    def answer(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """The outputs of one request by name."""
        request = Request.parse(inputs, self._max_bytes)
        return self._late(request) if request.late_chunking else self._embed(request)

    def _embed(self, request: Request) -> dict[str, NDArray[Any]]:
        tasks = self._named(request, self._texts)
        vectors: dict[int, Vectors] = {}
        messages: list[bytes] = []
        for embedder in dict.fromkeys(self._texts[task] for task in tasks):
            rows = [i for i, task in enumerate(tasks) if self._texts[task] is embedder]
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                encoded = _encode_rows(embedder, request, tasks, rows)
            vectors |= dict(zip(rows, encoded, strict=True))
            messages += [renumber(str(w.message), rows).encode() for w in caught]
        return {
            EMBEDDING: np.stack([vectors[i] for i in range(len(tasks))]),
            WARNINGS: np.array(messages, np.object_),
        }

    def _late(self, request: Request) -> dict[str, NDArray[Any]]:
        if not self._chunks:
            raise InputError(f"{LATE_CHUNKING}: no bundle served here was built with HEAD=chunks")
        task = self._named(request, self._chunks)[0]
        document, spans = request.document()
        late = self._chunks[task].encode_chunks(
            document,
            spans,
            chunk_tokens=request.chunk_tokens,
            sentences=request.sentences,
            task=task,
            dimensions=request.dimensions,
            prefix=request.prefix,
        )
        windows = [(w.start, w.end, w.tokens) for w in late.windows]
        return {
            EMBEDDING: late.vectors,
            SPANS: np.array(
                [(*s, w) for s, w in zip(late.spans, late.window_of, strict=True)], np.int32
            ),
            WINDOWS: np.array(windows, np.int32),
        }

    def _named(self, request: Request, served: Mapping[str, Embedder]) -> list[str]:
        """A task for every text; where one task alone is served, nobody needs to name it."""
        if request.tasks is None:
            if len(served) > 1:
                raise InputError(f"{TASK}: none given, expected one of {', '.join(served)}")
            return list(served) * len(request.texts)
        for task in request.tasks:
            if task not in served:
                raise InputError(f"{TASK}: got {shown(task)}, expected one of {', '.join(served)}")
        return request.tasks


def _rank(embedder: Embedder) -> tuple[bool, bool]:
    manifest = embedder.manifest
    return manifest.adapter is AdapterMode.MERGED, manifest.head is HeadName.SENTENCE


def _encode_rows(
    embedder: Embedder, request: Request, tasks: Sequence[str], rows: Sequence[int]
) -> Vectors:
    try:
        return embedder.encode(
            [request.texts[i] for i in rows],
            task=[tasks[i] for i in rows],
            dimensions=request.dimensions,
            prefix=request.prefix,
            strict=not request.truncate,
        )
    except InputError as error:
        raise InputError(renumber(str(error), rows)) from error


def renumber(message: str, rows: Sequence[int]) -> str:
    """An error about text i of some rows as one about the text that row is."""
    return re.sub(
        r"^(text|TEXT|TASK) (\d+):", lambda match: f"{match[1]} {rows[int(match[2])]}:", message
    )


def _texts(values: NDArray[Any], max_bytes: int) -> list[str]:
    """Sizes first: nothing is decoded of a request that is too large."""
    if len(values) > MOST_TEXTS:
        raise InputError(
            f"{TEXT}: {len(values)} in one request, expected at most {MOST_TEXTS}; "
            "send fewer at a time"
        )
    for index, value in enumerate(values):
        check_size(f"{TEXT} {index}", len(value), max_bytes)
    if (total := sum(map(len, values))) > REQUEST_TEXTS * max_bytes:
        raise InputError(
            f"{TEXT}: {total} bytes in one request, expected at most {REQUEST_TEXTS * max_bytes}; "
            "send fewer texts at a time"
        )
    texts = decode(TEXT, values)
    for index, text in enumerate(texts):
        check_text(text, f"{TEXT} {index}")
    return texts


def decode(name: str, values: NDArray[Any]) -> list[str]:
    """A string tensor ``[n]``; :class:`InputError` where it is empty or not UTF-8."""
    if not len(values):
        raise InputError(f"{name}: got no text, expected at least one")
    return [_decode(name, index, value) for index, value in enumerate(values)]


def _tasks(values: NDArray[Any] | None, count: int) -> list[str] | None:
    if values is None:
        return None
    tasks = decode(TASK, values)
    if len(tasks) not in (1, count):
        raise InputError(f"{TASK}: got {len(tasks)} for {count} texts, expected 1 or {count}")
    return tasks * count if len(tasks) == 1 else tasks


def _decode(name: str, index: int, value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name} {index}: not valid UTF-8 at byte {error.start} ({error.reason})"
        ) from error


def _integer(inputs: Arrays, name: str) -> int | None:
    return int(inputs[name][0]) if name in inputs else None


def _flag(inputs: Arrays, name: str, default: bool) -> bool:
    return bool(inputs[name][0]) if name in inputs else default
