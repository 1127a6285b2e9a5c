"""The Embedder over a fake runtime: order, batches, prefix, dimensions, refusals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from runtimes.embedder import Embedder
from runtimes.errors import InputError
from runtimes.outputs import truncate
from runtimes.text.tokens import TruncationWarning
from tests.runtime_support import PREFIX, Array, CallableRuntime, make_manifest, sample_tokenizer

WIDTH = 8


def vector_of(ids: Array) -> Array:
    """A unit vector that depends on every id and its place."""
    rng = np.random.default_rng([*ids.tolist()])
    vector = rng.standard_normal(WIDTH)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def fake(ids: Array, mask: Array) -> Array:
    return np.stack([vector_of(row[seen == 1]) for row, seen in zip(ids, mask, strict=True)])


def embedder(max_tokens: int = 64, **changes: Any) -> Embedder:
    manifest = make_manifest(max_tokens=max_tokens, **changes)
    return Embedder(manifest, sample_tokenizer(max_tokens), CallableRuntime(fake))


def runtime_of(subject: Embedder) -> CallableRuntime:
    assert isinstance(subject.runtime, CallableRuntime)
    return subject.runtime


def expected(text: str, prefix: str = PREFIX) -> Array:
    return vector_of(sample_tokenizer().encode([prefix + text])[0])


TEXTS = ["five words are in here", "one", " ", "two words", "uno", "a much longer text " * 3, "one"]


def test_rows_are_in_the_order_of_the_texts() -> None:
    subject = embedder()
    vectors = subject.encode(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, np.stack([expected(t) for t in TEXTS]))
    assert len(runtime_of(subject).calls) < len(TEXTS)  # short texts went together


def test_no_texts_give_an_empty_matrix_of_the_right_width() -> None:
    subject = embedder()
    assert subject.encode([]).shape == (0, WIDTH)
    assert subject.encode([], dimensions=4).shape == (0, 4)
    assert runtime_of(subject).calls == []


def test_prefix_is_on_unless_switched_off() -> None:
    subject = embedder()
    np.testing.assert_array_equal(subject.encode(["x"])[0], expected("x"))
    np.testing.assert_array_equal(subject.encode(["x"], prefix=False)[0], expected("x", ""))


@pytest.mark.parametrize("width", [2, 4, 8])
def test_cut_vectors_have_length_one_again(width: int) -> None:
    """Truncated vectors left unnormalised: discussion 60 of the model."""
    vectors = embedder().encode(TEXTS, dimensions=width)
    assert vectors.shape == (len(TEXTS), width)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    full = np.stack([expected(t) for t in TEXTS])[:, :width]
    np.testing.assert_allclose(
        vectors, full / np.linalg.norm(full, axis=1, keepdims=True), atol=1e-6
    )


@pytest.mark.parametrize("width", [0, 1, 3, 9, 256, -2])
def test_unknown_dimension_lists_the_known_ones(width: int) -> None:
    with pytest.raises(InputError, match=f"dimensions: got {width}, expected one of 2, 4, 8"):
        embedder().encode(["x"], dimensions=width)


def test_single_string_is_refused_instead_of_embedding_its_letters() -> None:
    with pytest.raises(InputError, match=r"got one str, expected a list of them"):
        embedder().encode("hello")


def test_generator_is_listed() -> None:
    """It is used up by the first look at it; rows must not vanish in silence."""
    vectors = embedder().encode(text for text in TEXTS)
    np.testing.assert_array_equal(vectors, np.stack([expected(t) for t in TEXTS]))
    tasks = embedder().encode(TEXTS, task=("retrieval.query" for _ in TEXTS))
    np.testing.assert_array_equal(tasks, vectors)


def test_tuple_and_numpy_strings_are_texts_too() -> None:
    rows = np.stack([expected("one"), expected("two")])
    np.testing.assert_array_equal(embedder().encode(("one", "two")), rows)
    np.testing.assert_array_equal(embedder().encode(np.array(["one", "two"])), rows)


def test_long_text_warns_and_is_that_of_its_beginning() -> None:
    with pytest.warns(TruncationWarning, match="text 1: .* the bundle takes 16; the end is cut"):
        vectors = embedder(16).encode(["x", "word " * 40])
    ids = sample_tokenizer().encode([PREFIX + "word " * 40])[0]
    np.testing.assert_array_equal(vectors[1], vector_of(np.array([*ids[:15], 2])))


def test_strict_refuses_a_long_text_before_anything_runs() -> None:
    subject = embedder(16)
    with pytest.raises(InputError, match=r"text 1: .*the bundle takes 16; split the text"):
        subject.encode(["x", "word " * 40], strict=True)
    assert runtime_of(subject).calls == []


@pytest.mark.parametrize("text", ["\ud800", None, 5, b"x", "", "a\0", "é" * 60])
def test_what_is_no_text_is_refused(text: Any) -> None:
    subject = embedder()
    subject.tokenizer.max_bytes = 119
    with pytest.raises(InputError, match="text 1: "):
        subject.encode(["x", text])
    assert runtime_of(subject).calls == []


class Frame:
    """As much of a table of pandas as matters: its items are the names of its columns."""

    ndim = 2

    def __iter__(self) -> Iterator[str]:
        return iter(["text"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": None}, "texts: got None, expected a list of them"),
        ({"texts": 3}, "texts: got 3, expected a list of them"),
        ({"texts": b"abc"}, "texts: got one bytes, expected a list of them"),
        ({"texts": {"a": 1}}, "texts: got one dict, expected a list of them"),
        ({"texts": {"a", "b"}}, "texts: got one set, expected a list of them"),
        ({"texts": np.array("a")}, "texts: got 0 dimensions, expected a list of them"),
        ({"texts": np.array([["a"]])}, "texts: got 2 dimensions, expected a list of them"),
        ({"texts": Frame()}, "texts: got 2 dimensions, expected a list of them"),
        ({"texts": [b"a"]}, "text 0: got bytes, expected str"),
        ({"texts": np.array([b"a"])}, "text 0: got bytes_, expected str"),
        ({"texts": [["a"]]}, "text 0: got list, expected str"),
        ({"task": 3}, "task: got 3, expected a name, or one for each text"),
        ({"task": [3]}, "task 0: got 3, expected a task's name"),
        ({"task": {"retrieval.query": 1}}, "task: got one dict, expected a name"),
        ({"task": ["base", "base"]}, "task: got 2 tasks for 1 texts"),
        ({"dimensions": 4.0}, "dimensions: got 4.0, expected one of 2, 4, 8"),
        ({"dimensions": True}, "dimensions: got True, expected one of 2, 4, 8"),
        ({"dimensions": "4"}, "dimensions: got '4', expected one of 2, 4, 8"),
        ({"dimensions": [4]}, "dimensions: got [4], expected one of 2, 4, 8"),
        ({"prefix": "no"}, "prefix: got 'no', expected True or False"),
        ({"prefix": None}, "prefix: got None, expected True or False"),
        ({"strict": 1}, "strict: got 1, expected True or False"),
        ({"progress": "yes"}, "progress: got 'yes', expected True or False"),
    ],
)
def test_argument_of_another_type_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        embedder().encode(**{"texts": ["x"], **arguments})
    assert str(caught.value).startswith(message)


def test_numpys_numbers_and_flags_are_as_good() -> None:
    options: dict[str, Any] = {"dimensions": np.int64(4), "prefix": np.bool_(False)}
    vectors = embedder().encode(["x"], **options)
    np.testing.assert_array_equal(vectors, embedder().encode(["x"], dimensions=4, prefix=False))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bundle": 5}, "bundle: got 5, expected a path"),
        ({"bundle": None}, "bundle: got None, expected a path"),
        ({"adapter": 5}, "adapter: got 5, expected a path"),
        ({"threads": 0}, "threads: got 0, expected at least 1"),
        ({"threads": True}, "threads: got True, expected a whole number"),
        ({"max_bytes": 0}, "max_bytes: got 0, expected at least 1"),
        ({"max_bytes": 1e6}, "max_bytes: got 1000000.0, expected a whole number"),
        ({"max_bytes": 10**30}, "max_bytes: got 1000"),
    ],
)
def test_argument_of_load_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Embedder.load(**{"bundle": "nowhere", **arguments})
    assert str(caught.value).startswith(message)


def test_warning_points_at_the_callers_line() -> None:
    with pytest.warns(TruncationWarning) as caught:
        embedder(16).encode(["word " * 40])
    assert caught[0].filename == __file__


def test_context_manager_closes_the_runtime() -> None:
    with embedder() as subject:
        assert not runtime_of(subject).closed
    assert runtime_of(subject).closed


def test_dimensions_are_the_manifests() -> None:
    assert embedder().dimensions == (2, 4, 8)


@pytest.mark.parametrize("seed", [0, 1])
def test_order_and_company_do_not_show(seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(TEXTS))
    shuffled = embedder().encode([TEXTS[i] for i in order])
    np.testing.assert_array_equal(shuffled, embedder().encode(TEXTS)[order])
    alone = np.concatenate([embedder().encode([text]) for text in TEXTS])
    np.testing.assert_array_equal(alone, embedder().encode(TEXTS))


def test_progress_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    many = ["word " * 30] * 800
    vectors = embedder().encode(many, progress=True)
    np.testing.assert_array_equal(vectors, embedder().encode(many))
    assert capsys.readouterr().err == ""


def test_full_width_is_passed_through_untouched() -> None:
    rows = np.ones((2, 3), np.float32)
    assert truncate(rows, 3) is rows
