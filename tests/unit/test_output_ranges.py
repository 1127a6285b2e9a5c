"""Ranges of 8-bit output: from which texts, by task and length, rounded up."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.corpus import Text, load_corpus
from export.build.output_ranges import TEXTS, TOKENS, measured
from runtimes.arrays import Arrays
from runtimes.choices import AdapterMode
from runtimes.errors import GateError
from runtimes.executors.base import RuntimeBase
from runtimes.manifest import Manifest
from tests.support import PREFIX, Array, CallableRuntime, make_manifest, sample_tokenizer

ONE = [Text("en", "one text")]
PLAIN = {"prefix": "", "prefixes": {"retrieval.query": ""}}


def ranges_of(
    row: list[float], corpus: list[Text] = ONE, manifest: Manifest | None = None
) -> dict[str, dict[str, float]]:
    """Where every text's vector is ``row``."""
    runtime = CallableRuntime(lambda ids, _: np.array([row] * len(ids), np.float32))
    return measured(runtime, manifest or make_manifest(**PLAIN), sample_tokenizer(), corpus)


def seen_by(corpus: list[Text], manifest: Manifest) -> list[Array]:
    """The ids of every text that is run, without padding."""
    rows: list[Array] = []

    def vectors(ids: Array, mask: Array) -> Array:
        rows.extend(row[seen == 1] for row, seen in zip(ids, mask, strict=True))
        return np.ones((len(ids), 8), np.float32)

    measured(CallableRuntime(vectors), manifest, sample_tokenizer(), corpus)
    return rows


def test_greatest_magnitude_at_each_length_is_rounded_up_to_four_digits() -> None:
    row = [0.0, 0.5, 0.1, -0.7, 0.1, 0.1, 0.1, 0.12341 * 3]
    # Cut to two values, 0.5 is all there is; to four, the length is √0.75.
    assert ranges_of(row) == {"retrieval.query": {"2": 1.0, "4": 0.8083, "8": 0.7}}
    assert ranges_of([*([0.05] * 7), 0.123401])["retrieval.query"]["8"] == 0.1235
    assert ranges_of([-0.0123] * 8)["retrieval.query"]["8"] == 0.0123


class ByTask(RuntimeBase):
    """Vectors that tell the task."""

    name = "fake"

    def run(self, inputs: Arrays) -> Arrays:
        rows = np.zeros((len(inputs["task_id"]), 8), np.float32)
        rows[:, 0] = 0.25 * (2 + inputs["task_id"])
        return {"sentence_embedding": rows}


def test_a_switchable_bundle_has_ranges_of_every_task_and_of_base() -> None:
    manifest = make_manifest(
        adapter=AdapterMode.SWITCHABLE,
        task="all",
        tasks=("a", "b"),
        prefixes={"a": PREFIX, "b": "", "base": ""},
    )
    ranges = measured(ByTask(), manifest, sample_tokenizer(), ONE)
    assert {task: limits["8"] for task, limits in ranges.items()} == {
        "a": 0.5,
        "b": 0.75,
        "base": 0.25,
    }


def test_texts_are_spread_over_the_corpus_and_cut_behind_the_instruction() -> None:
    corpus = load_corpus(None)
    rows = seen_by(corpus, make_manifest())
    begin, query, colon, _space, end = sample_tokenizer().tokenize([PREFIX])[0].tolist()
    assert len(rows) == TEXTS < len(corpus)
    assert max(map(len, rows)) == 5 + TOKENS
    assert {(*row[:3].tolist(), int(row[-1])) for row in rows} == {(begin, query, colon, end)}
    languages = {text.language for text in corpus}
    chosen = np.linspace(0, len(corpus) - 1, TEXTS).astype(int)
    assert {corpus[i].language for i in chosen} == languages


def test_a_small_corpus_is_run_whole_and_a_long_text_is_not() -> None:
    corpus = [Text("und", "word " * 200_000), Text("und", "x")]
    first, second = sorted(seen_by(corpus, make_manifest(**PLAIN)), key=len, reverse=True)
    assert len(first) == 2 + TOKENS  # and the two special tokens
    assert second.tolist() == sample_tokenizer().tokenize(["x"])[0].tolist()


def test_a_vector_that_is_not_finite_is_refused() -> None:
    with pytest.raises(GateError, match=r"^retrieval.query: .* is not finite; check the weights$"):
        ranges_of([np.nan] * 8)
