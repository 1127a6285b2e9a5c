"""Text to ids with the sample's real tokenizer: truncation, prefix, padding, refusals."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from export.source import SAMPLE
from runtimes.errors import InputError
from runtimes.files import MAX_JSON_BYTES
from runtimes.tokens import TextTokenizer, TruncationWarning
from tests.support import PAD_ID, sample_tokenizer

BOS, EOS = 0, 2
TEXTS = ["Guten Tag", " ", "東京は夜の七時", "a\nb\tc", "naïve café", "🙂🙃", "x" * 300,
         "Ünïcödé \u200d joined", "</s><pad>"]  # fmt: skip


def test_ids_are_those_of_transformers_tokenizer() -> None:
    theirs = AutoTokenizer.from_pretrained(SAMPLE, local_files_only=True)
    for text, ids in zip(TEXTS, sample_tokenizer().encode(TEXTS), strict=True):
        assert ids.tolist() == theirs(text, truncation=False)["input_ids"], text
        assert ids.dtype == np.int64


def test_no_texts_give_no_rows() -> None:
    assert sample_tokenizer().encode([]) == []


def test_empty_text_is_refused_and_white_space_is_not() -> None:
    assert (
        sample_tokenizer().encode([" "])[0].tolist()
        == sample_tokenizer().tokenize([" "])[0].tolist()
    )
    with pytest.raises(InputError, match="text 1: empty, expected at least one character"):
        sample_tokenizer().encode(["x", ""])
    with pytest.raises(InputError, match="text 0: holds a NUL character"):
        sample_tokenizer().encode(["a\0b"])


def test_prefix_is_put_before_the_text() -> None:
    tokenizer = sample_tokenizer()
    (prefixed,), (whole,) = (
        tokenizer.encode(["day"], prefix="good "),
        tokenizer.encode(["good day"]),
    )
    assert prefixed.tolist() == whole.tolist()
    assert (
        tokenizer.encode([" "], prefix="good")[0].tolist()
        == tokenizer.encode(["good "])[0].tolist()
    )


def test_stored_truncation_and_padding_are_switched_off() -> None:
    """The sample's tokenizer.json truncates at 64 tokens: long texts lost their ends in silence."""
    stored = json.loads((SAMPLE / "tokenizer.json").read_text())
    assert stored["truncation"]["max_length"] == 64
    rows = sample_tokenizer().encode(["word " * 500, "word"])
    assert len(rows[0]) > 400
    assert len(rows[1]) < 10


def test_long_text_keeps_its_beginning_and_its_end_token_and_warns() -> None:
    text = "one two three four five six seven eight nine ten " * 4
    whole = sample_tokenizer().encode([text])[0]
    with pytest.warns(
        TruncationWarning, match=rf"text 1: {len(whole)} tokens, the bundle takes 16"
    ):
        _, cut = sample_tokenizer(16).encode(["short", text])
    assert cut.tolist() == [*whole[:15].tolist(), EOS]


def test_text_of_exactly_the_limit_is_whole_and_silent() -> None:
    whole = sample_tokenizer().encode(["one two three four five six"])[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row = sample_tokenizer(len(whole)).encode(["one two three four five six"])[0]
    assert row.tolist() == whole.tolist()


def test_prefix_counts_towards_the_limit() -> None:
    with pytest.warns(TruncationWarning):
        row = sample_tokenizer(16).encode(["short"], prefix="a long instruction " * 10)[0]
    assert len(row) == 16


def test_strict_refuses_a_long_text() -> None:
    with pytest.raises(InputError, match=r"text 1: \d+ tokens, the bundle takes 16; split"):
        sample_tokenizer(16).encode(["short", "long " * 100], strict=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\ud800", "lone surrogate"),
        ("ok \udfff", "lone surrogate"),
        (b"bytes", "got bytes, expected str"),
        (None, "got NoneType"),
        (3, "got int"),
        (["nested"], "got list"),
    ],
)
def test_what_is_no_text_is_refused_by_its_index(text: Any, words: str) -> None:
    with pytest.raises(InputError, match=f"text 1: .*{words}"):
        sample_tokenizer().encode(["fine", text])


def test_padding_is_on_the_right_with_a_mask() -> None:
    rows = [np.array([0, 9, 2]), np.array([0, 2]), np.array([0, 7, 8, 9, 2])]
    tokens = sample_tokenizer().pad(rows)
    assert tokens.input_ids.tolist() == [[0, 9, 2, 1, 1], [0, 2, 1, 1, 1], [0, 7, 8, 9, 2]]
    assert tokens.attention_mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]
    assert tokens.input_ids.dtype == tokens.attention_mask.dtype == np.int64
    assert tokens.inputs().keys() == {"input_ids", "attention_mask"}


def test_pad_id_is_the_models() -> None:
    tokenizer = TextTokenizer(SAMPLE / "tokenizer.json", max_tokens=64, pad_id=5)
    tokens = tokenizer.pad([np.array([0, 2]), np.array([0, 3, 2])])
    assert tokens.input_ids[0].tolist() == [0, 2, 5]


def test_real_token_with_the_padding_id_stays_unmasked() -> None:
    """A literal <pad> in a text is a token; only padding is masked."""
    (row,) = sample_tokenizer().encode(["a <pad> b"])
    tokens = sample_tokenizer().pad([row, row[:2]])
    assert tokens.attention_mask[0].all()
    assert PAD_ID in row.tolist()


@pytest.mark.parametrize("content", ["", "{}", "[]", "not json", '{"model": null}'])
def test_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"tokenizer\.json: not a tokenizer file"):
        TextTokenizer(path, max_tokens=64, pad_id=1)


def test_missing_and_oversized_tokenizers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(InputError, match="no such file"):
        TextTokenizer(path, max_tokens=64, pad_id=1)
    path.write_bytes(b"{}")
    os.truncate(path, MAX_JSON_BYTES + 1)
    with pytest.raises(InputError, match="expected at most"):
        TextTokenizer(path, max_tokens=64, pad_id=1)
