"""Which tokens are kept, and what becomes of texts with others: with both real tokenizers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from calibration.corpus import own_texts
from export.checkpoint.lora import Adapter, LoraPair
from export.checkpoint.names import WORD
from export.checkpoint.reader import Checkpoint
from export.checkpoint.source import SAMPLE
from export.graph.weights import ROW_OF, Contents, tensor_blocks
from export.vocabulary.pieces import Pieces
from runtimes.choices import Unknown
from runtimes.errors import InputError
from runtimes.text.restricted import restricted_tokenizer
from runtimes.text.tokens import TextTokenizer
from runtimes.text.vocabulary import KeptTokens, read_mask, settle, write_mask
from tests.support import DEEP, Array

VOCAB, PAD = 16000, 1
TOKENIZERS = {"unigram": SAMPLE / "tokenizer.json", "bpe": DEEP / "tokenizer.json"}
GERMAN = own_texts()["de"][:120]
OTHERS = ["Köpeğim bugün çok mutlu.", "Я люблю собак", "Jestem bardzo zmęczony", "한국어"]


def tokenizer_of(
    kind: str, unknown: Unknown | None = Unknown.REPLACE, max_tokens: int = 512
) -> TextTokenizer:
    """A tokenizer that holds what the German texts use; None: every token."""
    tokenizer = TextTokenizer(TOKENIZERS[kind], max_tokens=max_tokens, pad_id=PAD, vocab=VOCAB)
    if unknown is not None:
        tokenizer.kept = KeptTokens(german_mask(kind), unknown)
    return tokenizer


def pieces_of(kind: str) -> Pieces:
    return Pieces.of(TOKENIZERS[kind], VOCAB, PAD)


def german_mask(kind: str) -> Array:
    pieces = pieces_of(kind)
    mask = pieces.margin({"latin"})
    mask[np.concatenate(tokenizer_of(kind, None).tokenize(GERMAN))] = True
    return pieces.closed(mask)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_margin_has_special_tokens_digits_signs_and_letters_of_the_scripts(kind: str) -> None:
    pieces, ids = pieces_of(kind), tokenizer_of(kind, None).vocabulary()
    latin, cyrillic = pieces.margin({"latin"}), pieces.margin({"cyrillic"})
    for name in ("<s>", "<pad>", "</s>", "<unk>", "<mask>", "7", "?", "+"):
        assert (latin[ids[name]], cyrillic[ids[name]]) == (True, True), name
    marked = {"unigram": "▁{}", "bpe": "Ġ{}"}[kind]
    for letter in "aZ":
        for name in (letter, marked.format(letter)):
            assert name not in ids or latin[ids[name]], name
    assert latin[ids["a"]]
    russian = "ж" if kind == "unigram" else "Ð¶"  # the letter's two bytes
    assert cyrillic[ids[russian]]
    assert not latin[ids[russian]]
    word = {"unigram": "▁de", "bpe": "Ġde"}[kind]
    assert not latin[ids[word]]
    assert latin.sum() < VOCAB / 4


def test_byte_symbols_are_kept_whatever_the_scripts() -> None:
    pieces, ids = pieces_of("bpe"), tokenizer_of("bpe", None).vocabulary()
    symbols = [name for name in ids if len(name) == 1]
    assert len(symbols) == 256
    assert pieces.margin(set())[[ids[name] for name in symbols]].all()


def test_what_a_kept_token_is_merged_from_is_kept_too() -> None:
    pieces, ids = pieces_of("bpe"), tokenizer_of("bpe", None).vocabulary()
    mask = pieces.margin(set())
    mask[ids["Ġpackage"]] = True
    closed = pieces.closed(mask)
    parts = [names for names in pieces.merges if closed[names[2]]]
    assert parts
    assert all(closed[a] and closed[b] for a, b, _ in parts)
    assert closed.sum() > mask.sum()
    made = restricted_tokenizer(TOKENIZERS["bpe"], closed).encode(
        "package", add_special_tokens=False
    )
    assert made.tokens == ["Ġpackage"]
    # Without them it cannot be made: that is what the closure is for.
    torn = restricted_tokenizer(TOKENIZERS["bpe"], mask).encode("package", add_special_tokens=False)
    assert len(torn.tokens) > 1


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_covered_texts_keep_their_tokens_under_the_restricted_tokenizer(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    whole, restricted = tokenizer.tokenize(GERMAN), tokenizer.restricted.tokenize(GERMAN)
    assert all(np.array_equal(a, b) for a, b in zip(whole, restricted, strict=True))


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_other_texts_are_segmented_into_kept_tokens_alone(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    assert tokenizer.kept is not None
    before = tokenizer.tokenize(OTHERS)
    assert tokenizer.kept.uncovered(before) == [0, 1, 2, 3]
    settled = settle(tokenizer, before, OTHERS)
    assert tokenizer.kept.uncovered(settled.rows) == []
    assert settled.warning is not None
    assert settled.warning.startswith("vocabulary: ")
    texts = [tokenizer._tokenizer.decode(row.tolist()) for row in settled.rows]
    expected = OTHERS if kind == "bpe" else OTHERS[:1] + OTHERS[2:3]  # bytes lose nothing
    assert set(expected) <= {text.strip() for text in texts}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_error_names_the_first_text_and_its_tokens(kind: str) -> None:
    tokenizer = tokenizer_of(kind, Unknown.ERROR)
    rows = tokenizer.tokenize([GERMAN[0], *OTHERS])
    with pytest.raises(InputError, match=r"^text 1: has the tokens '") as caught:
        settle(tokenizer, rows, None)
    message = str(caught.value)
    kept = int(german_mask(kind).sum())
    assert message.isprintable()
    assert f"(it has {kept} of 16000)" in message
    assert settle(tokenizer, rows[:1], None).rows == rows[:1]


def test_rows_of_many_texts_are_told_apart() -> None:
    kept = KeptTokens(np.arange(10) < 9, Unknown.ERROR)
    rows = [
        np.array([index % 9, 9 if index in (0, 1023, 1024, 2999) else 1]) for index in range(3000)
    ]
    assert kept.uncovered(rows) == [0, 1023, 1024, 2999]
    assert kept.uncovered([]) == []


def test_ids_cannot_be_segmented_anew() -> None:
    tokenizer = tokenizer_of("unigram", Unknown.REPLACE)
    with pytest.raises(InputError, match="row 0: has the tokens"):
        settle(tokenizer, tokenizer.tokenize(OTHERS[:1]), None, "row {}")


def test_a_model_that_is_neither_of_both_is_refused(tmp_path: Path) -> None:
    raw = json.loads(TOKENIZERS["unigram"].read_text())
    raw["model"] = {"type": "WordLevel", "vocab": {"<unk>": 0, "a": 1}, "unk_token": "<unk>"}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(InputError, match="its model is 'WordLevel', expected Unigram or BPE"):
        restricted_tokenizer(path, np.ones(2, bool))


def test_merges_as_texts_are_read_too(tmp_path: Path) -> None:
    raw = json.loads(TOKENIZERS["bpe"].read_text())
    raw["model"]["merges"] = [" ".join(pair) for pair in raw["model"]["merges"]]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(raw))
    mask = german_mask("bpe")
    both = [restricted_tokenizer(p, mask).encode(OTHERS[0]).ids for p in (path, TOKENIZERS["bpe"])]
    assert both[0] == both[1]


def test_more_tokens_than_rows_are_refused() -> None:
    with pytest.raises(InputError, match="has the token id 15999, expected ids below 9000"):
        Pieces.of(TOKENIZERS["unigram"], 9000, PAD)


@pytest.mark.parametrize("count", [1, 8, 9, 16000])
def test_mask_is_a_bit_for_each_token(tmp_path: Path, count: int) -> None:
    mask = np.random.default_rng(0).random(count) < 0.3
    write_mask(tmp_path / "vocabulary.npy", mask)
    assert np.array_equal(read_mask(tmp_path / "vocabulary.npy", count), mask)
    assert (tmp_path / "vocabulary.npy").stat().st_size == 128 + -(-count // 8)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros(1, np.uint8), "holds uint8 [1], expected uint8 [2]"),
        (np.zeros(2, np.int64), "holds int64 [2]"),
        (np.array([0, 1], np.uint8), "keeps tokens beyond the 9 there are"),
        (np.array([{}]), "not an array of bits"),
    ],
)
def test_a_mask_of_other_tokens_is_refused(tmp_path: Path, values: Array, words: str) -> None:
    path = tmp_path / "vocabulary.npy"
    np.save(path, values)
    with pytest.raises(InputError) as caught:
        read_mask(path, 9)
    assert words in str(caught.value)


@pytest.mark.parametrize("rows", [slice(0, 16000), slice(0, 5), slice(15990, 16000)])
def test_table_has_the_kept_rows_in_order_and_the_map_leads_there(
    small: Checkpoint, rows: slice
) -> None:
    """Across the border of two blocks of rows, too."""
    rng = np.random.default_rng(0)
    kept = np.sort(
        rng.choice(np.arange(rows.start, rows.stop), (rows.stop - rows.start) // 2, False)
    )
    hidden = small.config.hidden
    pair = LoraPair(
        rng.standard_normal((16000, 2), np.float32),
        rng.standard_normal((2, hidden), np.float32),
        0.5,
    )
    adapter = Adapter("t", {WORD: pair})
    name = f"{WORD}.weight"
    whole = np.concatenate(list(tensor_blocks(Contents(small, adapter), name, 64)))
    contents = Contents(small, adapter, kept=kept, unknown_id=int(kept[1]))
    assert np.array_equal(np.concatenate(list(tensor_blocks(contents, name, 64))), whole[kept])
    (row_of,) = tensor_blocks(contents, ROW_OF, 64)
    assert row_of.dtype == np.int32
    assert row_of.shape == (16000, 1)
    assert np.array_equal(kept[row_of[kept, 0]], kept)
    others = np.setdiff1d(np.arange(16000), kept)
    assert (row_of[others] == 1).all()
