"""The project's own texts, and users' files with everything that can be wrong in them."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calibration import corpus
from calibration.corpus import (
    Text,
    corpus_sha256,
    graded_pairs,
    held_back,
    load_corpus,
    questions,
    retrieval_pairs,
)
from export.gate.texts import TEXTS as PARITY_TEXTS
from runtimes.errors import InputError, MissingError


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refused(path: Path, words: str) -> None:
    with pytest.raises(InputError, match=f"CALIBRATION_DATA: .*{words}"):
        load_corpus(path)


def test_own_corpus_is_large_and_multilingual() -> None:
    counts = Counter(text.language for text in load_corpus(None))
    assert len(counts) == 24
    assert set(counts.values()) == {37}
    assert Counter(text.language for text in held_back()) == dict.fromkeys(counts, 8)


def test_no_text_serves_both_calibration_and_a_gate() -> None:
    mine = {text.text for text in load_corpus(None)}
    parity = {json.loads(line)["text"] for line in PARITY_TEXTS.read_text("utf-8").splitlines()}
    gates = {text.text for text in held_back()}
    pairs = {side for pair in retrieval_pairs() for side in (pair.query, pair.passage)}
    assert len(mine) == 888
    assert not mine & (parity | gates | pairs)


def test_retrieval_pairs_are_distinct() -> None:
    pairs = retrieval_pairs()
    assert Counter(pair.language for pair in pairs).most_common()[-1][1] == 10
    assert len({pair.query for pair in pairs}) == len({pair.passage for pair in pairs}) == 120


def test_evaluation_sets_have_every_language_as_often_from_the_beginning() -> None:
    asked, graded = questions(), graded_pairs()
    languages = {text.language for text in load_corpus(None)}
    assert (len(asked), len(graded)) == (26 * 24, 24 * 24)
    for rows in (asked, graded):
        for size in (24, 96, 288, len(rows)):
            assert Counter(row.language for row in rows[: size // 24 * 24]) == dict.fromkeys(
                languages, size // 24
            )
    assert set(Counter(pair.score for pair in graded).values()) == {96}
    assert min(Counter(question.topic for question in asked).values()) >= 48
    assert {len(question.negatives) for question in asked} == {3}


def test_every_row_of_the_evaluation_sets_says_where_it_is_from() -> None:
    for file in (corpus.QUESTIONS, corpus.GRADED):
        text = file.read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines()]
        assert {row["source"] for row in rows} == {"written for adaptrt"}
        assert unicodedata.is_normalized("NFC", text)


def test_evaluation_sets_repeat_nothing() -> None:
    """Negatives share words with their query on purpose; other questions' rows share no phrase."""
    texts = [(q.language, t) for q in questions() for t in (q.query, q.passage, *q.negatives)]
    texts += [(p.language, t) for p in graded_pairs() for t in (p.first, p.second)]
    assert len({" ".join(text.casefold().split()) for _, text in texts}) == len(texts)
    groups = [(q.language, (q.query, q.passage, *q.negatives)) for q in questions()]
    groups += [(p.language, (p.first, p.second)) for p in graded_pairs()]
    owners: dict[str, int] = {}
    for number, (language, group) in enumerate(groups):
        for phrase in phrases(language, *group):
            assert owners.setdefault(phrase, number) == number, phrase


def test_nothing_of_the_evaluation_sets_is_calibrated_on() -> None:
    mine = [*load_corpus(None), *held_back()]
    calibrated = {phrase for text in mine for phrase in phrases(text.language, text.text)}
    longest = max(mine, key=lambda text: len(text.text))
    assert phrases(longest.language, longest.text[3:]) & calibrated  # a leak would be found
    for question in questions():
        texts = (question.query, question.passage, *question.negatives)
        assert not phrases(question.language, *texts) & calibrated
    for pair in graded_pairs():
        assert not phrases(pair.language, pair.first, pair.second) & calibrated


def phrases(language: str, *texts: str) -> set[str]:
    """Every run of so many characters: some words of scripts with letters, fewer of the others."""
    size = 24 if language in ("zh", "ja", "ko", "th") else 40
    flat = [" ".join(text.casefold().split()) for text in texts]
    return {text[i : i + size] for text in flat for i in range(len(text) - size + 1)}


def test_plain_text_is_a_text_per_line(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", "\ufeffGuten Tag\n\n  \nनमस्ते\r\nlast")
    assert load_corpus(path) == [Text("und", t) for t in ("Guten Tag", "नमस्ते", "last")]


def test_json_lines_may_name_a_language(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "a.jsonl",
        '{"text": "a", "language": "en", "more": 1}\n\n{"text": "b"}\n'
        '{"text": " "}\n{"text": "c", "language": null}',
    )
    assert load_corpus(path) == [Text("en", "a"), Text("und", "b"), Text("und", "c")]


@pytest.mark.parametrize("languages", [["en", None], None])
def test_parquet_columns(tmp_path: Path, languages: list[str | None] | None) -> None:
    columns: dict[str, Any] = {"id": [1, 2], "text": ["a", "b"]}
    if languages:
        columns["language"] = languages
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    first = "en" if languages else "und"
    assert load_corpus(tmp_path / "a.parquet") == [Text(first, "a"), Text("und", "b")]


def test_parquet_without_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingError, match="pip install pyarrow"):
        load_corpus(tmp_path / "a.parquet")


def test_parquet_without_a_text_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["a"]}), tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", "'text'")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "a.csv",
            "text\na",
            r"a.csv, expected a name in \.txt, .* \.arrow, or a folder",
        ),
        ("a.txt", "", "no text in it"),
        ("a.txt", " \n\t\n", "no text in it"),
        ("a.txt", b"ok\n\xff\xfe", "not UTF-8"),
        ("a.jsonl", "", "no text in it"),
        ("a.jsonl", '{"text": ""}', "no text in it"),
        ("a.jsonl", '{"text": "a"}\nnot json', "line 2: not valid JSON"),
        ("a.jsonl", "[" * 100_000, "line 1: not valid JSON"),
        ("a.jsonl", '["a"]', "line 1: got a JSON list"),
        ("a.jsonl", '{"txt": "a"}', "line 1: 'text' is NoneType"),
        ("a.jsonl", '{"text": 3}', "line 1: 'text' is int"),
        ("a.jsonl", '{"text": "a", "language": ["en"]}', "'language' is list"),
        ("a.jsonl", '{"text": "\\ud800"}', "line 1: holds a lone surrogate"),
        ("a.txt", "ok\na\0b", "line 2: holds a NUL character"),
        ("a.txt", "ok\n" + "x" * ((1 << 20) + 1), "line 2: 1048577 characters, expected at most"),
        ("a.txt", b"ok\n\xff\xfe", "line 2: not UTF-8"),
        ("a.parquet", "PAR1 and no more", "not a usable Parquet file"),
    ],
)
def test_unusable_files_are_refused(
    tmp_path: Path, name: str, content: str | bytes, words: str
) -> None:
    refused(written(tmp_path, name, content), words)


def test_missing_file_and_endless_line_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none.txt", "no such file")
    path = written(tmp_path, "a.txt", "a\n")
    os.truncate(path, 1 << 40)  # a hole of 1 TiB, which is one line
    refused(path, "line 2: more than 16777216 bytes")


def test_corpus_hash_is_of_the_texts_and_not_of_the_file(tmp_path: Path) -> None:
    lines = written(tmp_path, "a.txt", "a\n\nb\n")
    records = written(tmp_path, "a.jsonl", '{"text": "a"}\n{"text": "b"}')
    assert (
        corpus_sha256(load_corpus(lines))
        == corpus_sha256(load_corpus(records))
        == (corpus_sha256([Text("und", "a"), Text("und", "b")]))
    )


@pytest.mark.parametrize(
    "other",
    [
        [Text("und", "b"), Text("und", "a")],
        [Text("und", "a")],
        [Text("en", "a"), Text("und", "b")],
        [Text("und", 'a"]\n["und", "b')],
    ],
)
def test_corpus_hash_sees_every_change(other: list[Text]) -> None:
    assert corpus_sha256(other) != corpus_sha256([Text("und", "a"), Text("und", "b")])
