"""What texts look like, how far corpora are apart, and that chance alone gives no warning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from calibration.corpus import Text, held_back, load_corpus, questions
from calibration.fit import difference_lines, differences, warning_of
from calibration.profile import KINDS, Profile, divergence, merged_profile, profile, scripts
from runtimes.errors import InputError
from runtimes.text.tokens import TextTokenizer
from tests.support import sample_tokenizer

TOKENIZER = sample_tokenizer()
OWN = load_corpus(None)
BY_LANGUAGE = {
    language: [
        Text(language, text)
        for q in questions()
        if q.language == language
        for text in (q.query, q.passage, *q.negatives)
    ]
    for language in ("en", "de", "es", "pt", "ru")
}


@pytest.fixture(scope="module")
def own() -> Profile:
    return profile(OWN, TOKENIZER)


def found(first: Profile, second: Profile) -> list[str]:
    """The kinds in which two corpora differ."""
    return [row.kind for row in differences(first, second) if row.differs]


def some(texts: Sequence[Text], count: int, rng: np.random.Generator) -> list[list[Text]]:
    """Two parts without a text in common."""
    chosen = [texts[i] for i in rng.permutation(len(texts))[: 2 * count]]
    return [chosen[:count], chosen[count:]]


def test_divergence_is_jensen_and_shannons() -> None:
    assert divergence({"a": 3, "b": 1}, {"a": 6, "b": 2}) == 0
    assert divergence({"a": 3}, {"b": 1}) == 1
    p, q = (0.75, 0.25), (0.25, 0.75)
    entropy = -sum(x * math.log2(x) for x in p)
    assert divergence({"a": 3, "b": 1}, {"a": 1, "b": 3}) == pytest.approx(1 - entropy)
    assert divergence({"a": q[0], "b": q[1]}, {"a": 3, "b": 1}) == pytest.approx(1 - entropy)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Grüße, Ｗｅｌｔ!", {"latin": 9, "other": 2}),
        ("Привет", {"cyrillic": 6}),
        ("漢字とカナー", {"cjk": 2, "hiragana": 1, "katakana": 3}),
        ("ﾊﾝｶｸ", {"katakana": 4}),
        ("हिन्दी", {"devanagari": 6}),  # vowel signs and the virama too
        ("한국어", {"hangul": 3}),
        ("1 + 2\n", {"other": 3}),
        (" \u200b", {"other": 1}),
        ("", {}),
        ("\ue000\U0003fffd", {"other": 2}),  # without a name
    ],
)
def test_scripts(text: str, expected: dict[str, int]) -> None:
    assert scripts(text) == expected


def test_profile_counts_what_there_is() -> None:
    texts = [Text("und", t) for t in ("hello hello", "привет " * 400, "a")]
    found = profile(texts, TOKENIZER)
    assert found.texts == 3
    assert sum(found.length.counts.values()) == 3
    assert found.length.counts["8"] == 2
    assert set(found.script.counts) == {"latin", "cyrillic"}
    assert max(found.frequent.values()) > 0.1
    assert sum(found.frequent.values()) == pytest.approx(1, abs=1e-4)
    assert found == profile(texts, TOKENIZER)


def test_a_single_text_says_nothing_of_chance(own: Profile) -> None:
    one = profile([Text("und", "漢字")], TOKENIZER)
    assert {one.of(kind).noise for kind in KINDS} == {1.0}
    assert found(own, one) == []


def test_long_corpora_and_texts_are_counted_in_part() -> None:
    many = profile([Text("und", f"text {i}") for i in range(5000)], TOKENIZER)
    assert many.texts == 2048
    long = profile([Text("und", "word " * 200_000)], TOKENIZER)  # 1 MB
    assert sum(long.tokens.counts.values()) == 512
    assert long.length.counts == {"8192": 1}


@pytest.mark.parametrize("count", [8, 64, 444])
def test_parts_of_one_corpus_do_not_differ(count: int) -> None:
    """Of 100 draws of each size at most 1 was told apart (2026-11-29)."""
    rng = np.random.default_rng(count)
    for _ in range(5):
        first, second = some(OWN, count, rng)
        assert found(profile(first, TOKENIZER), profile(second, TOKENIZER)) == []


def test_held_back_texts_fit_the_calibration_texts(own: Profile) -> None:
    assert found(own, profile(held_back(), TOKENIZER)) == []


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [("en", "de", ["tokens"]), ("es", "pt", ["tokens"]), ("en", "ru", ["script", "tokens"])],
)
def test_another_language_differs(first: str, second: str, expected: list[str]) -> None:
    one, other = (profile(BY_LANGUAGE[name][:120], TOKENIZER) for name in (first, second))
    assert [kind for kind in found(one, other) if kind != "length"] == expected


def test_even_few_texts_of_one_language_are_not_the_projects_24(own: Profile) -> None:
    rng = np.random.default_rng(0)
    part, _ = some(BY_LANGUAGE["en"], 16, rng)
    assert "script" in found(own, profile(part, TOKENIZER))


@pytest.mark.parametrize("share", [4, 8])
def test_other_lengths_differ(own: Profile, share: int) -> None:
    cut = [replace(text, text=text.text[: len(text.text) // share]) for text in OWN]
    assert found(own, profile(cut, TOKENIZER)) == ["length"]
    longer = [replace(text, text=" ".join([text.text] * share)) for text in OWN]
    assert found(own, profile(longer, TOKENIZER)) == ["length"]


def test_other_tokens_of_the_same_script_and_length_differ() -> None:
    """Code and prose: the same letters in other pieces."""
    rng = np.random.default_rng(0)
    words = [f"{a}{b}" for a in "qwxz" for b in "kvjq"]
    prose = BY_LANGUAGE["en"]
    other = [Text("en", " ".join(rng.choice(words, 12))) for _ in prose]
    assert "tokens" in found(profile(prose, TOKENIZER), profile(other, TOKENIZER))


def test_the_warning_says_what_differs_and_what_to_do(own: Profile) -> None:
    russian = profile(BY_LANGUAGE["ru"], TOKENIZER)
    rows = differences(own, russian)
    warning = warning_of(rows, "A and B differ")
    assert warning is not None
    assert warning.startswith("A and B differ, by Jensen-Shannon divergence (0 to 1): ")
    assert "script 0.7" in warning
    assert "cyrillic" in warning
    assert "calibrate on texts like yours (CALIBRATION_DATA), or merge (MERGE)" in warning
    lines = difference_lines(rows)
    assert len(lines) == 4
    assert "differs: cyrillic" in lines[2]
    assert warning_of(differences(own, own), "x") is None
    assert all("differs" not in line for line in difference_lines(differences(own, own)))


def test_tokens_cannot_write_to_the_terminal(own: Profile) -> None:
    forged = replace(own, frequent={"\x1b[2J\n": 0.9})
    rows = differences(replace(forged, texts=1000), profile(BY_LANGUAGE["ru"], TOKENIZER))
    assert "\\x1b[2J\\n” 90.0% and rare" in str(warning_of(rows, "x"))


def test_another_tokenizer_is_refused(own: Profile) -> None:
    with pytest.raises(InputError, match="counted with another tokenizer, expected the same"):
        differences(own, replace(own, vocabulary="0" * 64))


class Small(TextTokenizer):
    """Another vocabulary on the same file."""

    def vocabulary(self) -> dict[str, int]:
        return {"a": 0}


def test_the_vocabulary_identifies_a_tokenizer() -> None:
    small = Small(TOKENIZER.path, max_tokens=64, pad_id=1)
    one, other = (profile(OWN[:9], tokenizer) for tokenizer in (TOKENIZER, small))
    assert one.vocabulary != other.vocabulary
    assert one.vocabulary == profile(OWN[9:12], sample_tokenizer(64)).vocabulary


def test_merged_profiles_are_those_of_all_texts(own: Profile) -> None:
    parts = OWN[::2], OWN[1::2]
    merged = merged_profile([profile(part, TOKENIZER) for part in parts])
    assert merged is not None
    assert merged.texts == own.texts
    for kind in KINDS:
        assert merged.of(kind).counts == own.of(kind).counts
        assert merged.of(kind).noise == pytest.approx(own.of(kind).noise, rel=0.35)
    assert list(merged.frequent)[:8] == list(own.frequent)[:8]
    assert found(merged, own) == []


def test_profiles_that_are_not_known_or_of_others_do_not_merge(own: Profile) -> None:
    assert merged_profile([own, None]) is None
    assert merged_profile([own, replace(own, vocabulary="0" * 64)]) is None
