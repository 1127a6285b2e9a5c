"""Users' tables and folders, written by pyarrow as ``datasets`` writes them, and what is wrong."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calibration import corpus
from calibration.corpus import Text, corpus_sha256, load_corpus
from runtimes.errors import InputError, MissingError

TEXTS = [f"text {number} ü" for number in range(700)]  # more than are read at once
TABLE = pa.table({"id": range(len(TEXTS)), "body": TEXTS, "language": ["de"] * len(TEXTS)})


def loaded(path: Path, column: str = "body") -> list[str]:
    return [text.text for text in load_corpus(path, column=column)]


def refused(path: Path, words: str, column: str = "body") -> None:
    with pytest.raises(InputError, match=f"^CALIBRATION_DATA: .*{words}"):
        load_corpus(path, column=column)


def write_arrow(path: Path, table: Any = TABLE) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=300)


def save(folder: Path, names: list[Any], **state: Any) -> Path:
    """As ``Dataset.save_to_disk``: a part of the table in each Arrow file, and ``state.json``."""
    folder.mkdir(parents=True)
    size = -(-len(TEXTS) // len(names))
    for number, name in enumerate(names):
        if str(name).isprintable() and str(name).endswith(".arrow") and "/" not in name:
            write_arrow(folder / name, TABLE.slice(number * size, size))
    files = [{"filename": name} for name in names]
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_split": None} | state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


SHARDS = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]


def test_every_kind_of_file_and_folder_gives_the_same_texts_and_hash(tmp_path: Path) -> None:
    lines = (json.dumps({"body": text, "language": "de"}) for text in TEXTS)
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    pq.write_table(TABLE, tmp_path / "a.parquet", row_group_size=100)
    write_arrow(tmp_path / "a.arrow")
    save(tmp_path / "saved", SHARDS)
    hub = tmp_path / "hub" / "data"
    hub.mkdir(parents=True)
    for number in (1, 0):
        part = TABLE.slice(number * 350, 350)
        pq.write_table(part, hub / f"train-{number:05}-of-00002.parquet")
    (tmp_path / "hub" / "README.md").write_text("---\n---\n")
    (tmp_path / "hub" / ".cache").mkdir()
    pq.write_table(TABLE, tmp_path / "hub" / ".cache" / "old.parquet")
    expected = [Text("de", text) for text in TEXTS]
    for name in ("a.jsonl", "a.parquet", "a.arrow", "saved", "hub", "hub/data"):
        texts = load_corpus(tmp_path / name, column="body")
        assert texts == expected, name
        assert corpus_sha256(texts) == corpus_sha256(expected)


def test_links_of_a_hubs_cache_are_followed_but_no_linked_folders(tmp_path: Path) -> None:
    pq.write_table(TABLE.slice(0, 2), tmp_path / "blob")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "a.parquet").symlink_to(tmp_path / "blob")
    (tmp_path / "snapshot" / "up").symlink_to(tmp_path)
    assert loaded(tmp_path / "snapshot") == TEXTS[:2]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), "str")])
def test_types_of_text(tmp_path: Path, kind: Any) -> None:
    table = pa.table({"text": pa.array(["a", None, " ", "b"]).cast(kind)})
    write_arrow(tmp_path / "a.arrow", table)
    assert load_corpus(tmp_path / "a.arrow") == [Text("und", "a"), Text("und", "b")]


def test_the_language_column_can_be_the_texts(tmp_path: Path) -> None:
    write_arrow(tmp_path / "a.arrow", TABLE.slice(0, 1))
    assert loaded(tmp_path / "a.arrow", "language") == ["de"]


def test_only_split_of_several_kinds_is_read(tmp_path: Path) -> None:
    save(tmp_path / "d" / "train", SHARDS)
    splits = tmp_path / "d" / "dataset_dict.json"
    splits.write_text('{"splits": ["train"]}')
    assert loaded(tmp_path / "d") == TEXTS
    splits.write_text('{"splits": ["train", "test"]}')
    refused(tmp_path / "d", r"its splits are 'train', 'test', expected one; .*/d/train")
    assert loaded(tmp_path / "d" / "train") == TEXTS
    for content, words in (
        ("{}", "its splits are none"),
        ("[]", "got a JSON list"),
        ("{", "not valid JSON"),
        ('{"splits": ["../d/train"]}', "'../d/train', expected the name of something in this"),
    ):
        splits.write_text(content)
        refused(tmp_path / "d", words)


@pytest.mark.parametrize(
    "name", ["../a.arrow", "/etc/passwd", "x/a.arrow", "..", "", "a\0.arrow", None, 3], ids=repr
)
def test_no_name_in_a_folder_leads_out_of_it(tmp_path: Path, name: Any) -> None:
    write_arrow(tmp_path / "a.arrow")
    save(tmp_path / "saved", [name])
    refused(tmp_path / "saved", r"state\.json: .*, expected the name of something in this folder")


def test_a_saved_dataset_names_arrow_files_alone(tmp_path: Path) -> None:
    save(tmp_path / "saved", ["a.txt"])
    refused(tmp_path / "saved", r"'a\.txt', expected a name in \.arrow")


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"_data_files": None}, "no list _data_files"),
        ({"_data_files": ["a"]}, "no list _data_files"),
        ({"_data_files": []}, "neither state.json"),
        ({"_indices_data_files": [{"filename": "i.arrow"}]}, r"call flatten_indices\(\)"),
    ],
)
def test_damaged_states_are_refused(tmp_path: Path, state: dict[str, Any], words: str) -> None:
    refused(save(tmp_path / "saved", SHARDS, **state), words)


def test_missing_shard_and_empty_folder_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "saved", SHARDS)
    (tmp_path / "saved" / SHARDS[1]).unlink()
    refused(tmp_path / "saved", "data-00001-of-00002.arrow: no such file")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("a")
    refused(tmp_path / "empty", "neither state.json")
    (tmp_path / "empty" / "a.parquet").mkdir()
    refused(tmp_path / "empty", "neither state.json")
    os.mkfifo(tmp_path / "empty" / "b.parquet")
    refused(tmp_path / "empty", "is a FIFO")  # and is not waited for


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_truncated_tables_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    pq.write_table(TABLE, path) if path.suffix == ".parquet" else write_arrow(path)
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - len(whole) // 8):
        path.write_bytes(whole[:size])
        refused(path, r"not a usable (Parquet|Arrow stream) file \(")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_cannot_be_read_is_no_empty_one(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "a.parquet")
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(PermissionError):
        load_corpus(tmp_path, column="body")


def test_an_arrow_file_of_the_other_format_is_refused(tmp_path: Path) -> None:
    """Feather: the same suffix is in use for it."""
    path = str(tmp_path / "a.arrow")
    with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, TABLE.schema) as writer:
        writer.write_table(TABLE)
    refused(tmp_path / "a.arrow", "not a usable Arrow stream file")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("text", r"no columns 'text', expected one; it has \['id', 'body', .*CALIBRATION_COLUMN"),
        ("id", "column 'id' is 'int64', expected text"),
        ("words", "column 'words' is 'list<.*', expected text"),
        ("bytes", "column 'bytes' is 'binary', expected text"),
    ],
)
def test_columns_that_are_missing_or_no_text(
    tmp_path: Path, name: str, column: str, words: str
) -> None:
    more = {"words": [["a"]], "bytes": [b"a"]}
    table = pa.table({**TABLE.slice(0, 1).to_pydict(), **more})
    path = tmp_path / name
    pq.write_table(table, path) if path.suffix == ".parquet" else write_arrow(path, table)
    refused(path, words, column)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    write_arrow(tmp_path / "a.arrow", pa.table([["a"], ["b"]], names=["body", "body"]))
    refused(tmp_path / "a.arrow", "2 columns 'body', expected one")


def test_a_language_that_is_a_number_is_refused(tmp_path: Path) -> None:
    write_arrow(tmp_path / "a.arrow", pa.table({"body": ["a"], "language": [3]}))
    refused(tmp_path / "a.arrow", "row 1: 'language' is int, expected a string")


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    data = pa.py_buffer(b"ok\xff\xfe")
    offsets = pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 2, 4)))
    array = pa.Array.from_buffers(pa.string(), 2, [None, offsets, data])
    write_arrow(tmp_path / "a.arrow", pa.table({"body": array}))
    refused(tmp_path / "a.arrow", "a text is not UTF-8")


def test_plain_text_has_no_columns(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    refused(tmp_path / "a.txt", "a .txt file has no column 'body'")


def test_json_lines_without_the_column(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}')
    refused(tmp_path / "a.jsonl", "line 1: 'body' is NoneType, expected a string")


@pytest.mark.parametrize("module", ["pyarrow", "pyarrow.parquet"])
def test_tables_without_their_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    pq.write_table(TABLE, tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingError, match=r"a \.parquet file needs pyarrow; pip install pyarrow"):
        load_corpus(tmp_path / "a.parquet")


def test_large_corpora_are_sampled_evenly_and_the_same_in_every_kind_of_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pq.write_table(TABLE, tmp_path / "a.parquet")
    save(tmp_path / "saved", SHARDS)
    whole = load_corpus(tmp_path / "a.parquet", column="body")
    assert len(whole) == 700
    monkeypatch.setattr(corpus, "MOST_TEXTS", 100)
    with caplog.at_level(logging.INFO, "adaptrt"):
        sample = load_corpus(tmp_path / "a.parquet", column="body")
    assert "CALIBRATION_DATA: 700 texts, of which 100, spread evenly, are used" in caplog.messages
    assert load_corpus(tmp_path / "saved", column="body") == sample
    assert len(sample) == 100
    positions = [whole.index(text) for text in sample]
    assert positions == sorted(set(positions))
    assert all(15 <= sum(p // 175 == quarter for p in positions) <= 35 for quarter in range(4))


READING = """
import resource, sys
from pathlib import Path
import pyarrow.parquet
from calibration import corpus
corpus.MOST_CHARACTERS = 1 << 20
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
texts = corpus.load_corpus(Path(sys.argv[1]))
print(len(texts), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """One row group of 150 MB; 18 MiB more were held (2026-11-29), texts of 1 MiB among them."""
    body = "wort " * 300
    table = pa.table({"text": [f"{number} {body}" for number in range(100_000)]})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, compression="none", use_dictionary=False, row_group_size=100_000)
    assert path.stat().st_size > 150e6
    done = subprocess.run(
        [sys.executable, "-c", READING, path], capture_output=True, text=True, check=True
    )
    count, grown = done.stdout.split()
    assert 600 < int(count) < 700
    assert float(grown) < 60


def test_characters_are_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("\n".join(("x" * 99, "y" * 10)[i % 2] for i in range(200)))
    monkeypatch.setattr(corpus, "MOST_CHARACTERS", 2000)
    sample = [text.text[0] for text in load_corpus(tmp_path / "a.txt")]
    assert 2000 - 99 <= 99 * sample.count("x") + 10 * sample.count("y") <= 2000
    assert sample.count("x") >= 10
    assert sample.count("y") >= 10  # length has no part in the choice
