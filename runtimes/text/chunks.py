"""Late chunking: a document is embedded once, its chunks are means of its token vectors.

Chunks are spans of characters. A token belongs to the chunk that holds its first character that is
not white space, so chunks that tile a text share its tokens out among them. What is not text goes
with the edges: the begin token and the task's prefix with a chunk that starts at character 0, the
end token with one that ends with the text. One chunk over the whole text is thus the sentence
embedding.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from runtimes.arguments import check_whole, list_of
from runtimes.arrays import Encoded, Ids, Vectors
from runtimes.errors import InputError, shown
from runtimes.text.tokens import TextTokenizer, check_text

if TYPE_CHECKING:
    from typing_extensions import Self

Span = tuple[int, int]
OVERLAP = 512  # tokens of context before a window's first chunk
MAX_CHUNKS = 1024  # in one pass: 1024 weights for each of 8192 tokens are 32 MB
# A full stop (and closing quotes) before white space, an ideographic full stop, or a new line.
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’»)\]]*\s+|[。！？]+[」』）]*\s*|\n\s*")


@dataclass(frozen=True, kw_only=True)
class Window:
    """One pass of the encoder over ``document[start:end]``; ``tokens`` with special ones."""

    start: int
    end: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class ChunkVectors:
    """``vectors`` ``[chunks, dimensions]`` of length 1, in the order of ``spans``.

    They are FP32, or what ``output`` asked for.

    A document that fits the bundle is one window. A longer one is embedded in several that
    overlap; chunk i was pooled in ``windows[window_of[i]]`` and saw no text outside it.
    """

    vectors: Encoded
    spans: tuple[Span, ...]
    windows: tuple[Window, ...]
    window_of: tuple[int, ...]


class Document:
    """A tokenised document that knows which tokens each span of characters holds."""

    def __init__(self, tokenizer: TextTokenizer, text: str, prefix: str) -> None:
        check_text(text, "document", tokenizer.max_bytes)
        if not text.strip():
            raise InputError("document: holds no text, only white space")
        self.text = text
        self.ids, offsets = tokenizer.tokenize_with_offsets(prefix + text)
        self._offsets = offsets - len(prefix)
        anchors = _next_visible(prefix + text)[offsets[1:-1, 0]] - len(prefix)
        self.head = 1 + int((anchors < 0).sum())  # begin token and prefix
        self.anchors = anchors[self.head - 1 :]  # of the text's own tokens, ascending

    def members(self, span: Span) -> Ids:
        """Indices into ``ids`` of the span's tokens."""
        start, end = span
        if not 0 <= start < end <= len(self.text):
            raise InputError(
                f"chunk ({start}, {end}): expected 0 <= start < end <= {len(self.text)}, "
                "characters of the document"
            )
        inside = np.flatnonzero((self.anchors >= start) & (self.anchors < end)) + self.head
        if not len(inside):  # part of a token: that token
            first, last = self._offsets[self.head : -1].T
            inside = np.flatnonzero((first < end) & (last > start)) + self.head
        if not len(inside) or not self.text[start:end].strip():
            raise InputError(f"chunk ({start}, {end}): holds no text, only white space")
        before = np.arange(self.head if start == 0 else 0)
        after = [len(self.ids) - 1] if end == len(self.text) else []
        return np.concatenate([before, inside, after]).astype(np.int64)

    def character(self, token: int) -> int:
        """Where a token of the text begins; the document's end for the end token."""
        index = token - self.head
        if index <= 0:
            return 0
        return int(self.anchors[index]) if index < len(self.anchors) else len(self.text)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How a document is cut: at given spans, or every so many tokens or sentences."""

    chunks: list[Span] | None
    chunk_tokens: int | None
    sentences: int | None

    @classmethod
    def parse(cls, chunks: object, chunk_tokens: object, sentences: object) -> Self:
        """Raises :class:`InputError` for anything but exactly one of the three."""
        if sum(x is not None for x in (chunks, chunk_tokens, sentences)) != 1:
            raise InputError("chunks: expected exactly one of chunks, chunk_tokens and sentences")
        return cls(
            chunks=None if chunks is None else _list_spans(chunks),
            chunk_tokens=_count("chunk_tokens", chunk_tokens),
            sentences=_count("sentences", sentences),
        )


def _count(name: str, value: object) -> int | None:
    return None if value is None else check_whole(name, value, 1)


def _list_spans(chunks: object) -> list[Span]:
    expected = "a list of (start, end) in characters"
    spans = []
    for index, pair in enumerate(list_of("chunks", chunks, expected, dimensions=2)):
        try:
            start, end = pair
        except (TypeError, ValueError) as error:
            raise InputError(f"chunk {index}: got {shown(pair)}, expected (start, end)") from error
        where = f"chunk {index}"
        spans.append((check_whole(where, start), check_whole(where, end)))
    if not spans:
        raise InputError("chunks: got none, expected at least one (start, end)")
    return spans


def choose_spans(document: Document, cut: Cut) -> list[Span]:
    """The spans asked for: given, so many tokens each, or so many sentences each."""
    if cut.chunks is not None:
        return cut.chunks
    if cut.chunk_tokens is not None:
        starts = np.unique(document.anchors[:: cut.chunk_tokens]).tolist()
    else:
        starts = sentence_starts(document.text)[:: cut.sentences]
    bounds = [0, *starts[1:], len(document.text)]
    return list(pairwise(bounds))


def sentence_starts(text: str) -> list[int]:
    """Where sentences begin; each holds something other than white space."""
    starts = [0]
    for match in _SENTENCE_END.finditer(text):
        if text[starts[-1] : match.end()].strip() and text[match.end() :].strip():
            starts.append(match.end())
    return starts


@dataclass(frozen=True, kw_only=True)
class WindowCall:
    """One pass of the encoder: ``ids`` ``[tokens]`` and what each chunk is the mean of.

    ``weights`` FP32 ``[1, chunks, tokens]``; ``chunks`` are the rows' indices in the document.
    """

    ids: Ids
    weights: Vectors
    chunks: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class WindowPlan:
    """A document's passes, and the windows of text that they see."""

    calls: tuple[WindowCall, ...]
    windows: tuple[Window, ...]
    spans: tuple[Span, ...]

    def gather(self, pooled: Sequence[Vectors]) -> ChunkVectors:
        """Each call's vectors ``[chunks, hidden]`` as those of the whole document."""
        vectors = np.empty((len(self.spans), pooled[0].shape[1]), np.float32)
        window_of = [0] * len(self.spans)
        for number, (call, rows) in enumerate(zip(self.calls, pooled, strict=True)):
            vectors[list(call.chunks)] = rows
            for chunk in call.chunks:
                window_of[chunk] = number
        return ChunkVectors(
            vectors=vectors, spans=self.spans, windows=self.windows, window_of=tuple(window_of)
        )


def plan_windows(
    document: Document, spans: Sequence[Span], max_tokens: int, overlap: int
) -> WindowPlan:
    """The passes over a document, of ``max_tokens`` at most; nothing runs yet.

    Raises :class:`InputError` for a span outside the document, without text, or longer than one
    pass.
    """
    members = [document.members(span) for span in spans]
    calls: list[WindowCall] = []
    windows: list[Window] = []
    for first, last, chunks in _plan(document, members, max_tokens, overlap):
        head, end = np.arange(document.head), [len(document.ids) - 1]
        tokens = np.concatenate([head, np.arange(first, last), end]).astype(np.int64)
        weights = np.zeros((1, len(chunks), len(tokens)), np.float32)
        for row, chunk in enumerate(chunks):
            weights[0, row, np.searchsorted(tokens, members[chunk])] = 1 / len(members[chunk])
        calls.append(WindowCall(ids=document.ids[tokens], weights=weights, chunks=tuple(chunks)))
        windows.append(
            Window(
                start=document.character(first), end=document.character(last), tokens=len(tokens)
            )
        )
    return WindowPlan(calls=tuple(calls), windows=tuple(windows), spans=tuple(spans))


def _plan(
    document: Document, members: Sequence[Ids], max_tokens: int, overlap: int
) -> list[tuple[int, int, list[int]]]:
    """Windows as (first token, end, chunks): each chunk whole in one, with context before it."""
    head, last = document.head, len(document.ids) - 1
    room = max_tokens - head - 1
    if last - head <= room:
        every = list(range(len(members)))
        starts = range(0, len(members), MAX_CHUNKS)
        return [(head, last, every[start : start + MAX_CHUNKS]) for start in starts]
    bounds = [_own(m, head, last) for m in members]
    for index, (low, high) in enumerate(bounds):
        if high - low > room:
            raise InputError(
                f"chunk {index}: {high - low} tokens, a window of the bundle holds {room}; "
                "split the chunk"
            )
    waiting = sorted(range(len(members)), key=lambda i: bounds[i])
    plan = []
    while waiting:
        low, high = bounds[waiting[0]]
        first = max(head, low - overlap, high - room)
        end = min(last, first + room)
        chunks = [i for i in waiting if bounds[i][1] <= end and bounds[i][0] >= first]
        chunks = chunks[:MAX_CHUNKS]
        plan.append((first, end, chunks))
        waiting = [i for i in waiting if i not in set(chunks)]
    return plan


def _own(members: Ids, head: int, last: int) -> tuple[int, int]:
    """First and end index of a chunk among the text's own tokens."""
    own = members[(members >= head) & (members < last)]
    return int(own[0]), int(own[-1]) + 1


def _next_visible(text: str) -> Ids:
    """For every position the next one at or after it that is not white space; the last at most."""
    visible = np.array([not c.isspace() for c in text])
    positions = np.where(visible, np.arange(len(text)), len(text) - 1)
    nearest: Ids = np.minimum.accumulate(positions[::-1])[::-1]
    return nearest
