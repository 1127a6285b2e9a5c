"""Spans of characters to tokens, pooling weights, windows; with a fake encoder."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from runtimes import Embedder, InputError
from runtimes.executors.base import RuntimeBase
from runtimes.heads import ChunkHead
from runtimes.text.batching import Budget
from runtimes.text.chunks import ChunkVectors, Cut, Document, choose_spans, sentence_starts
from tests.runtime_support import Array, cosines, make_manifest, sample_tokenizer

TEXT = "Foo bar. Baz qux!\n\nNeue  Zeile 😀 ﬁne… 東京は雨です。また明日。 end"
PREFIX = "Represent: "
WIDTH = 8


def token_vector(number: int) -> Array:
    return np.random.default_rng(number).standard_normal(WIDTH)


class FakeChunkHead(RuntimeBase):
    """Token vectors that depend on the id alone, pooled by the weights given."""

    name = "fake"
    budget = Budget()

    def __init__(self) -> None:
        self.calls: list[dict[str, Array]] = []

    def run(self, inputs: Any) -> dict[str, Array]:
        self.calls.append(dict(inputs))
        assert inputs["input_ids"].shape[1] <= 64
        tokens = np.stack([[token_vector(i) for i in row] for row in inputs["input_ids"]])
        sums = inputs["chunk_weights"] @ tokens
        unit = sums / np.linalg.norm(sums, axis=-1, keepdims=True)
        return {"chunk_embedding": unit.astype(np.float32)}


@pytest.fixture
def subject() -> Embedder:
    manifest = make_manifest(head="chunks", prefixes={"retrieval.query": PREFIX})
    return Embedder(manifest, sample_tokenizer(64), ChunkHead(FakeChunkHead()))


def document(text: str = TEXT, prefix: str = PREFIX) -> Document:
    return Document(sample_tokenizer(), text, prefix)


@pytest.mark.parametrize("prefix", ["", PREFIX, "query:"])
@pytest.mark.parametrize("cuts", [[], [8], [9], [9, 30], [3, 17, 28], [8, 19, 20, 29]])
def test_chunks_that_tile_a_text_share_its_tokens_out(prefix: str, cuts: list[int]) -> None:
    subject = document(prefix=prefix)
    bounds = [0, *cuts, len(TEXT)]
    shares = [subject.members(span).tolist() for span in pairwise(bounds)]
    assert [member for share in shares for member in share] == list(range(len(subject.ids)))


def test_span_takes_the_tokens_of_its_words() -> None:
    subject = document()
    for start, end, words in [(0, 8, "Foo bar."), (9, 17, "Baz qux!"), (8, 17, "Baz qux!")]:
        ids = subject.ids[[m for m in subject.members((start, end)) if m >= subject.head]]
        alone = sample_tokenizer().tokenize([words])[0][1:-1]
        assert ids.tolist() == alone.tolist()


def test_part_of_a_token_is_that_token() -> None:
    subject = document("internationalisation", "")
    offsets = sample_tokenizer().tokenize_with_offsets("internationalisation")[1]
    index = next(i for i, (a, b) in enumerate(offsets) if b - a > 2)
    assert subject.members((int(offsets[index][0]) + 1, int(offsets[index][1]))).tolist() == [index]


@pytest.mark.parametrize("span", [(-1, 3), (3, 3), (5, 3), (0, 1000), (17, 19)])
def test_impossible_span_is_refused(span: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"chunk \(-?\d+, \d+\): (expected 0 <=|holds no text)"):
        document().members(span)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_document_without_text_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"document: (empty|holds no text)"):
        document(text)


def test_sentences_end_where_they_should() -> None:
    starts = sentence_starts(TEXT)
    sentences = [TEXT[a:b] for a, b in zip(starts, [*starts[1:], len(TEXT)], strict=True)]
    assert sentences == [
        "Foo bar. ",
        "Baz qux!\n\n",
        "Neue  Zeile 😀 ﬁne… ",
        "東京は雨です。",
        "また明日。 ",
        "end",
    ]
    assert sentence_starts("no end 3.14 e.g.") == [0]
    assert sentence_starts("\n\n a.\n ") == [0]


@pytest.mark.parametrize("count", [1, 3, 100])
def test_chunk_tokens_are_so_many(count: int) -> None:
    subject = document("one two three four five six seven", "")
    spans = choose_spans(subject, Cut.parse(None, count, None))
    sizes = [int((subject.members(s) % (len(subject.ids) - 1) > 0).sum()) for s in spans]
    assert all(size == count for size in sizes[:-1])
    assert sum(sizes) == len(subject.ids) - 2


@pytest.mark.parametrize(
    "cut",
    [(None, None, None), ([(0, 1)], 3, None), ([], None, None), (None, 0, None), (None, None, -1)],
)
def test_how_to_cut_must_be_said_once(cut: Any) -> None:
    with pytest.raises(InputError, match=r"expected (exactly|at least) one|expected at least 1"):
        Cut.parse(*cut)


def test_one_chunk_over_the_whole_text_is_the_sentence_embedding(subject: Embedder) -> None:
    text = TEXT[:40]
    found = subject.encode_chunks(text, [(0, len(text))])
    np.testing.assert_allclose(found.vectors, subject.encode([text]), atol=1e-6)
    assert len(found.windows) == 1
    assert (found.windows[0].start, found.windows[0].end) == (0, len(text))


def test_chunk_is_the_mean_of_its_tokens(subject: Embedder) -> None:
    found = subject.encode_chunks(TEXT[:40], [(9, 17), (0, 8)], dimensions=4, prefix=False)
    ids = sample_tokenizer().tokenize(["Baz qux!"])[0][1:-1]
    mean = np.mean([token_vector(int(i)) for i in ids], axis=0)[:4]
    assert cosines(found.vectors[:1], mean[None])[0] > 0.999999
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-6)


LONG = " ".join(f"word{i}." for i in range(80))


def windows_of(subject: Embedder, **cut: Any) -> ChunkVectors:
    found = subject.encode_chunks(LONG, **cut)
    assert all(window.tokens <= 64 for window in found.windows)
    for span, number in zip(found.spans, found.window_of, strict=True):
        window = found.windows[number]
        assert window.start <= span[0]
        assert LONG[window.end : span[1]].strip() == ""
    return found


def test_long_document_is_embedded_in_overlapping_windows(subject: Embedder) -> None:
    found = windows_of(subject, sentences=5, overlap=16)
    assert len(found.windows) > 3
    for before, after in pairwise(found.windows):
        assert before.start < after.start < before.end
    # The fake's token vectors know no context: windows must not change a chunk's mean.
    for span, vector in list(zip(found.spans, found.vectors, strict=True))[1:-1]:
        ids = sample_tokenizer().tokenize([LONG[slice(*span)].strip()])[0][1:-1]
        mean = np.mean([token_vector(int(i)) for i in ids], axis=0)
        assert cosines(vector[None], mean[None])[0] > 0.9999


def test_order_of_chunks_is_kept_and_they_may_overlap(subject: Embedder) -> None:
    spans = [(300, 360), (0, 20), (350, 400), (10, 25), (300, 360)]
    found = windows_of(subject, chunks=spans)
    assert found.spans == tuple(spans)
    np.testing.assert_array_equal(found.vectors[0], found.vectors[4])
    apart = windows_of(subject, chunks=spans[2:3])
    np.testing.assert_allclose(found.vectors[2], apart.vectors[0], atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"chunks": 5}, r"chunks: got 5, expected a list of \(start, end\)"),
        ({"chunks": "ab"}, "chunks: got one str, expected a list"),
        ({"chunks": {1: 2}}, "chunks: got one dict, expected a list"),
        ({"chunks": [3]}, r"chunk 0: got 3, expected \(start, end\)"),
        ({"chunks": [(0, 1), (1, 2, 3)]}, r"chunk 1: got \(1, 2, 3\), expected \(start, end\)"),
        ({"chunks": [(0, 1.5)]}, r"chunk 0: got 1\.5, expected a whole number"),
        ({"chunks": ["ab"]}, "chunk 0: got 'a', expected a whole number"),
        ({"chunks": np.array([0, 1])}, "chunks: got 1 dimensions, expected a list"),
        ({"sentences": True}, "sentences: got True, expected a whole number"),
        ({"chunk_tokens": 2.0}, r"chunk_tokens: got 2\.0, expected a whole number"),
        ({"sentences": 1, "overlap": -1}, "overlap: got -1, expected at least 0"),
        ({"sentences": 1, "overlap": 1.5}, r"overlap: got 1\.5, expected a whole number"),
        ({"sentences": 1, "prefix": "no"}, "prefix: got 'no', expected True or False"),
        ({"sentences": 1, "task": 3}, "task: got 3"),
        ({"sentences": 1, "dimensions": 4.0}, r"dimensions: got 4\.0, expected one of"),
        ({"sentences": 1, "document": None}, "document: got NoneType, expected str"),
        ({"sentences": 1, "document": ["a"]}, "document: got list, expected str"),
        ({"sentences": 1, "document": "a\0"}, "document: holds a NUL character"),
        ({"sentences": 1, "document": "x" * ((1 << 20) + 1)}, "document: 1048577 bytes, expected"),
    ],
)
def test_argument_of_another_type_is_named(
    subject: Embedder, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        subject.encode_chunks(**{"document": LONG, **arguments})


def test_spans_may_be_an_array_or_a_generator(subject: Embedder) -> None:
    spans = [(0, 20), (20, 60)]
    expected = subject.encode_chunks(LONG, spans)
    others: list[Any] = [np.array(spans), (s for s in spans), [list(s) for s in spans]]
    for chunks in others:
        found = subject.encode_chunks(LONG, chunks)
        assert found.spans == expected.spans
        np.testing.assert_array_equal(found.vectors, expected.vectors)


def test_chunk_longer_than_a_window_is_refused(subject: Embedder) -> None:
    with pytest.raises(InputError, match=r"chunk 1: \d+ tokens, a window of the bundle holds"):
        subject.encode_chunks(LONG, [(0, 10), (0, len(LONG))])


def test_other_bundles_say_what_to_build() -> None:
    with pytest.raises(InputError, match="HEAD=chunks"):
        Embedder(make_manifest(), sample_tokenizer(64), FakeChunkHead()).encode_chunks(
            "x", [(0, 1)]
        )
