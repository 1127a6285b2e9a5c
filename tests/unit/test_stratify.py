"""Samples by language and length, with the sample's real tokenizer."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from calibration.corpus import Text, load_corpus
from calibration.stratify import LENGTHS, Sample, counts, stratify
from runtimes.errors import InputError
from tests.support import sample_tokenizer

BOS, EOS, UNKNOWN = 0, 2, 3
QUERY = "Represent the query for retrieving evidence documents: "


def chosen(max_tokens: int = 8192, prefix: str = "", **options: Any) -> list[Sample]:
    return stratify(load_corpus(None), sample_tokenizer(), prefix, max_tokens, **options)


@pytest.mark.parametrize("prefix", ["", QUERY])
@pytest.mark.parametrize("max_tokens", [8192, 600])
def test_every_language_and_length_is_there(max_tokens: int, prefix: str) -> None:
    samples = chosen(max_tokens, prefix)
    assert len(samples) == 256
    languages = Counter(s.language for s in samples)
    assert set(languages) == {text.language for text in load_corpus(None)}
    assert set(languages.values()) == {10, 11}
    bounds = [bound for bound in LENGTHS if bound < max_tokens] + [max_tokens]
    assert sorted({s.bucket for s in samples}) == bounds
    for low, high in zip([0, *bounds[:-1]], bounds, strict=True):
        sizes = [len(s.ids) for s in samples if s.bucket == high]
        assert low < min(sizes)
        assert max(sizes) <= high
    assert max(len(s.ids) for s in samples) == max_tokens


def test_longer_classes_have_fewer_texts() -> None:
    assert counts(chosen()).length == {"32": 133, "128": 66, "512": 33, "2048": 16, "8192": 8}


def test_counts_add_up() -> None:
    tokenizer, texts = sample_tokenizer(), load_corpus(None)
    samples = stratify(texts, tokenizer, "", 64, count=30, task="separation")
    samples += stratify(texts, tokenizer, "", 64, count=40, task="classification")
    found = counts(samples)
    assert found.task == {"classification": 40, "separation": 30}
    assert sum(found.language.values()) == sum(found.length.values()) == 70


def test_texts_begin_with_the_prefix_and_end_with_the_end_token() -> None:
    start = sample_tokenizer().encode([QUERY.strip()])[0][:-1].tolist()
    for sample in chosen(2048, QUERY, count=64):
        assert sample.ids[: len(start)].tolist() == start
        assert sample.ids[-1] == EOS
        assert sample.ids.dtype == np.int64


def test_same_seed_gives_the_same_samples_and_another_seed_others() -> None:
    first, again, other = (chosen(512, count=48, seed=seed) for seed in (3, 3, 4))
    assert [s.ids.tolist() for s in first] == [s.ids.tolist() for s in again]
    assert [s.ids.tolist() for s in first] != [s.ids.tolist() for s in other]


def test_short_texts_are_whole_and_not_repeated() -> None:
    whole = {tuple(ids) for ids in sample_tokenizer().encode([t.text for t in load_corpus(None)])}
    short = [tuple(s.ids) for s in chosen() if s.bucket == 128]
    assert set(short) <= whole
    assert len(set(short)) == len(short)


def test_further_texts_are_short_whole_and_others() -> None:
    """None of them was taken whole before, and every language has as many."""
    without, samples = chosen(count=48), chosen(count=48, further=144)
    assert [s.ids.tolist() for s in samples[:48]] == [s.ids.tolist() for s in without]
    further = samples[48:]
    assert Counter(s.language for s in further) == dict.fromkeys({s.language for s in without}, 6)
    assert max(len(s.ids) for s in further) <= 128
    # Scripts that the sample's tokenizer does not know give equal rows of different texts.
    known = [tuple(s.ids) for s in samples if UNKNOWN not in s.ids]
    assert len(set(known)) == len(known) > 100
    assert not {s.bucket for s in further} - {128}


def test_document_holds_one_language() -> None:
    """Joined texts of a language: its words are all among that language's own tokens."""
    tokenizer, texts = sample_tokenizer(), load_corpus(None)
    document = next(s for s in chosen() if s.bucket == 8192)
    rows = tokenizer.encode([t.text for t in texts if t.language == document.language])
    own = {int(i) for row in rows for i in row}
    assert set(document.ids.tolist()) <= own
    assert len(document.ids) == 8192


def test_few_texts_are_repeated_and_long_ones_cut() -> None:
    samples = stratify([Text("und", "one two three " * 40)], sample_tokenizer(), "", 512, count=16)
    assert [len(s.ids) for s in samples if s.bucket == 512][:2] == [512, 256]
    assert all(len(s.ids) <= 32 for s in samples if s.bucket == 32)
    assert {s.language for s in samples} == {"und"}


def test_prefix_longer_than_the_limit_still_gives_samples() -> None:
    samples = stratify([Text("en", "word")], sample_tokenizer(), QUERY, 16, count=4)
    assert [(len(s.ids), s.bucket) for s in samples] == [(16, 16)] * 4


def test_empty_corpus_is_refused() -> None:
    with pytest.raises(InputError, match="it is empty"):
        stratify([], sample_tokenizer(), "", 512)


def test_too_few_samples_are_refused() -> None:
    assert len(chosen(count=24)) == 24
    with pytest.raises(InputError, match="got 23 texts, expected at least 24 for 24 languages"):
        chosen(count=23)
    with pytest.raises(InputError, match=r"got 4 texts, expected at least 5 .* 5 length classes"):
        stratify([Text("en", "a")], sample_tokenizer(), "", 8192, count=4)
