"""Text to ids with the sample's real tokenizer: truncation, prefix, padding, refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtimes.errors import InputError
from runtimes.files import MAX_JSON_BYTES
from runtimes.text.panics import panics_unprinted
from runtimes.text.tokens import MAX_BYTES, TextTokenizer, TruncationWarning, check_text, groups
from tests.runtime_support import PAD_ID, SAMPLE, sample_tokenizer

EOS = 2
TEXTS = [
    "Guten Tag",
    " ",
    "\n\t",
    "東京は夜の七時",
    "a\nb\tc",
    "naïve café",
    "🙂🙃",
    "x" * 300,
    "Ünïcödé \u200d joined",
    "</s><pad>",
]


def test_ids_are_those_of_transformers_tokenizer() -> None:
    transformers = pytest.importorskip("transformers")  # not there on Python 3.10
    theirs = transformers.AutoTokenizer.from_pretrained(SAMPLE, local_files_only=True)
    for text, ids in zip(TEXTS, sample_tokenizer().encode(TEXTS), strict=True):
        assert ids.tolist() == theirs(text, truncation=False)["input_ids"], text
        assert ids.dtype == np.int64


def test_no_texts_give_no_rows() -> None:
    assert sample_tokenizer().encode([]) == []


def test_prefix_is_put_before_the_text() -> None:
    tokenizer = sample_tokenizer()
    (prefixed,), (whole,) = (
        tokenizer.encode(["day"], prefix="good "),
        tokenizer.encode(["good day"]),
    )
    assert prefixed.tolist() == whole.tolist()


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
        ("é" * 300_000 + "\udfff", "lone surrogate"),
        ("", "empty, expected at least one character"),
        ("a\0b", "holds a NUL character"),
        (b"bytes", "got bytes, expected str"),
        (None, "got NoneType"),
        (3, "got int"),
        (["nested"], "got list"),
    ],
)
def test_what_is_no_text_is_refused_by_its_index(text: Any, words: str) -> None:
    with pytest.raises(InputError, match=f"text 1: .*{words}"):
        sample_tokenizer().encode(["fine", text])


@pytest.mark.parametrize("text", ["a" * 10, "é" * 5, "日本語a", "🙂🙂ab"])
def test_limit_counts_bytes_of_utf_8(text: str) -> None:
    check_text(text, max_bytes=10)
    message = r"text 7: 11 bytes, expected at most 10; split the text, or raise max_bytes"
    with pytest.raises(InputError, match=message):
        check_text(text + "a", "text 7", max_bytes=10)


def test_bytes_are_counted_right_across_pieces() -> None:
    text = "aé日🙂" * 150_000  # several pieces, which begin at every one of the four
    check_text(text, max_bytes=len(text.encode()))
    with pytest.raises(InputError, match=f"{len(text.encode())} bytes"):
        check_text(text, max_bytes=len(text.encode()) - 1)


def test_text_of_30_mb_is_refused_before_it_is_tokenised() -> None:
    """It took half a minute and 4.5 GB."""
    start = time.perf_counter()
    for text in ("word " * 6_000_000, "Straße " * 4_000_000):
        with pytest.raises(InputError, match=rf"text 1: \d+ bytes, expected at most {MAX_BYTES};"):
            sample_tokenizer().encode(["x", text])
    assert time.perf_counter() - start < 5  # two tokenizers are loaded too


def test_groups_are_neighbours_within_both_bounds() -> None:
    assert list(groups([], 10)) == []
    assert list(groups([0, 0], 10)) == [range(2)]
    sizes = [3, 4, 3, 1, 20, 2, 0, 9, 1]
    found = list(groups(sizes, 10))
    assert found == [range(3), range(3, 4), range(4, 5), range(5, 7), range(7, 9)]
    assert list(groups(sizes, 10, 2))[:2] == [range(2), range(2, 4)]
    assert list(groups([1] * 5, 10, 2)) == [range(2), range(2, 4), range(4, 5)]


def test_texts_of_several_groups_are_tokenised_as_alone() -> None:
    tokenizer = sample_tokenizer()
    texts = [f"{number} " * 60_000 for number in range(6)] + ["x", ""]
    for text, ids in zip(texts, tokenizer.tokenize(texts), strict=True):
        np.testing.assert_array_equal(ids, tokenizer.tokenize([text])[0])


def test_memory_of_large_texts_is_given_back() -> None:
    """The tokenizer's threads kept 600 MB after 8 texts of 1 MB."""
    code = """
import sys
from pathlib import Path
from runtimes.text.tokens import TextTokenizer
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6
tokenizer = TextTokenizer(Path(sys.argv[1]), max_tokens=64, pad_id=1)
tokenizer.tokenize(["x"])
tokenizer.tokenize_with_offsets("x")
before = resident()
text = "The last train leaves at ten. " * 34_000
tokenizer.tokenize([text] * 2)
tokenizer.tokenize_with_offsets(text)
print(resident() - before)
"""
    command = [sys.executable, "-c", code, str(SAMPLE / "tokenizer.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 40  # what was made is gone; a text's encoding alone is 70


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


def template(token: int) -> dict[str, Any]:
    """A post-processor that puts one token before each text."""
    special = {"id": "<s>", "ids": [token], "tokens": ["<s>"]}
    parts = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    second = {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "type": "TemplateProcessing",
        "single": parts,
        "pair": [*parts, second],
        "special_tokens": {"<s>": special},
    }


@pytest.mark.parametrize("content", ["", "{}", "[]", "not json", '{"model": null}'])
def test_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"tokenizer\.json: not a tokenizer file"):
        TextTokenizer(path, max_tokens=64, pad_id=1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "charsmap"),
        ({"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "?"}}, "Missing .UNK."),
        ({"model": {"type": "\n\x1b[2J" * 500}}, "not a tokenizer file"),
        ({"post_processor": template(10**6)}, "gives the id 1000000, expected ids below 16000"),
    ],
    ids=["panic", "no unknown token", "unknown model", "beyond the vocabulary"],
)
def test_tokenizer_that_fails_on_texts_is_refused(
    tmp_path: Path, change: dict[str, Any], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads((SAMPLE / "tokenizer.json").read_text()) | change))
    with pytest.raises(InputError, match=rf"tokenizer\.json: .*{words}") as caught:
        TextTokenizer(path, max_tokens=64, pad_id=1, vocab=16000)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    assert capfd.readouterr().err == ""  # Rust prints a panic, and with RUST_BACKTRACE its stack


def test_what_others_print_while_a_tokenizer_is_loaded_is_kept(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with panics_unprinted():
        os.write(2, b"a library's line\n")
    assert capfd.readouterr().err == "a library's line\n"
    panic = b"\nthread 'main' (7) panicked at a.rs:1:2:\nno entry\nstack backtrace:\n  0: f\n"

    def fail() -> None:
        with panics_unprinted():
            os.write(2, b"a library's line\n" + panic)
            raise ValueError("no entry")

    with pytest.raises(ValueError, match="no entry"):
        fail()
    assert capfd.readouterr().err == "a library's line\n"


def test_id_of_a_rare_token_beyond_the_vocabulary_is_refused() -> None:
    tokenizer = TextTokenizer(SAMPLE / "tokenizer.json", max_tokens=64, pad_id=1, vocab=500)
    with pytest.raises(InputError, match=r"gives the id \d+, expected ids below 500"):
        tokenizer.encode(["Where is the station?"])
    with pytest.raises(InputError, match="use the tokenizer"):
        tokenizer.tokenize_with_offsets("Where is the station?")


def test_missing_and_oversized_tokenizers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(InputError, match="no such file"):
        TextTokenizer(path, max_tokens=64, pad_id=1)
    path.write_bytes(b"{}")
    os.truncate(path, MAX_JSON_BYTES + 1)
    with pytest.raises(InputError, match="expected at most"):
        TextTokenizer(path, max_tokens=64, pad_id=1)


def test_what_a_signals_handler_raises_is_no_damaged_tokenizer() -> None:
    """Services end calls that way; only what the library raises says something of its file."""

    class TooLong(Exception):  # noqa: N818
        pass

    def end(number: int, frame: object) -> None:
        raise TooLong

    def tokenize() -> None:
        while True:
            sample_tokenizer().encode(["a word " * 20_000])

    before = signal.signal(signal.SIGALRM, end)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(TooLong):
            tokenize()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
