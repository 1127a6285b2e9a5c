"""Every row is in exactly one split, whatever the file and wherever it is cut."""

from __future__ import annotations

import csv
import gzip
import io
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtimes.corpus.columns import input_columns, output_schema
from runtimes.corpus.lines import MAX_LINE, iter_lines, read_rows
from runtimes.corpus.reading import Piece, read_split
from runtimes.corpus.records import (
    Job,
    Loading,
    OnError,
    Request,
    Skipped,
    Split,
    Stored,
    Wanted,
)
from runtimes.corpus.sources import check_unchanged, find_source
from runtimes.corpus.splits import plan_splits
from runtimes.errors import InputError

TEXTS = [f"text {i} " + "é" * (i % 7) for i in range(500)]


def job_of(
    path: Path, *, on_error: OnError = OnError.SKIP, **wanted: object
) -> tuple[Job, Request]:
    """What reading needs of a job."""
    asked = Wanted(**wanted)  # type: ignore[arg-type]
    request = Request(
        input=str(path),
        out=path.parent / "out",
        wanted=asked,
        loading=Loading(bundle=path),
        on_error=on_error,
    )
    source = find_source(str(path))
    columns = input_columns(source, asked, skip=request.skips)
    schema = output_schema(columns, asked, 8)
    return (
        Job(
            root=source.root,
            out=request.out,
            kind=source.kind,
            wanted=asked,
            loading=request.loading,
            columns=columns.serialize().to_pybytes(),
            schema=schema.serialize().to_pybytes(),
            fingerprint=b"",
        ),
        request,
    )


def splits_of(path: Path, **wanted: object) -> tuple[Job, list[Split]]:
    job, request = job_of(path, **wanted)  # type: ignore[arg-type]
    return job, list(plan_splits(find_source(str(path)), request))


def pieces_of(path: Path, **wanted: object) -> list[Piece]:
    job, splits = splits_of(path, **wanted)
    return [piece for split in splits for piece in read_split(job, split)]


def texts_of(path: Path, **wanted: object) -> list[str]:
    return [text for piece in pieces_of(path, **wanted) for text in piece.texts]


def skipped_of(path: Path, **wanted: object) -> list[Skipped]:
    return [one for piece in pieces_of(path, **wanted) for one in piece.skipped]


def write(path: Path, texts: list[str]) -> Path:
    """The texts in the format that the name asks for."""
    name = path.name
    if name.endswith(".parquet"):
        pq.write_table(pa.table({"text": texts}), path, row_group_size=70)
        return path
    if ".csv" in name:
        stream = io.StringIO()
        csv.writer(stream).writerows([["n", "text"], *([i, t] for i, t in enumerate(texts))])
        content = stream.getvalue().encode()
    elif ".jsonl" in name:
        content = "".join(json.dumps({"text": t}) + "\n" for t in texts).encode()
    else:
        content = "".join(f"{t}\n" for t in texts).encode()
    if name.endswith(".gz"):
        content = gzip.compress(content)
    elif name.endswith(".zst"):
        content = pa.compress(content, codec="zstd", asbytes=True)
    path.write_bytes(content)
    return path


NAMES = [
    "a.parquet",
    "a.jsonl",
    "a.jsonl.gz",
    "a.jsonl.zst",
    "a.csv",
    "a.csv.gz",
    "a.txt",
    "a.txt.zst",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("split_bytes", [1, 300, 5000, 1 << 30])
def test_every_text_is_read_once_and_in_order(tmp_path: Path, name: str, split_bytes: int) -> None:
    path = write(tmp_path / name, TEXTS)
    _, splits = splits_of(path, split_bytes=split_bytes)
    assert [split.index for split in splits] == list(range(len(splits)))
    if split_bytes == 300:
        assert len(splits) > 10
    assert texts_of(path, split_bytes=split_bytes) == TEXTS


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1),
        min_size=1,
        max_size=30,
    ),
    split_bytes=st.integers(1, 200),
    kind=st.sampled_from(["csv", "csv.gz", "jsonl", "jsonl.zst"]),
)
def test_any_text_survives_any_cut(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], split_bytes: int, kind: str
) -> None:
    """Line breaks and quotes within CSV's values among them; a lone CR is csv's own line end."""
    texts = [t.replace("\r", " ") for t in texts]
    path = write(tmp_path_factory.mktemp("cut") / f"a.{kind}", texts)
    assert texts_of(path, split_bytes=split_bytes) == texts


def test_a_plan_made_again_is_the_same(tmp_path: Path) -> None:
    for name in NAMES:
        write(tmp_path / name, TEXTS)
        assert splits_of(tmp_path / name, split_bytes=999) == splits_of(
            tmp_path / name, split_bytes=999
        )


def test_positions_are_where_rows_begin(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", TEXTS)
    content = path.read_bytes()
    for piece in pieces_of(path, split_bytes=700):
        for text, at in zip(piece.texts, piece.positions, strict=True):
            assert json.loads(content[at:].split(b"\n", 1)[0])["text"] == text
    positions = [
        p for piece in pieces_of(write(tmp_path / "a.parquet", TEXTS)) for p in piece.positions
    ]
    assert positions == list(range(len(TEXTS)))


def test_bytes_add_up_to_the_files_size(tmp_path: Path) -> None:
    for name in NAMES:
        path = write(tmp_path / name, TEXTS)
        _, splits = splits_of(path, split_bytes=2000)
        assert sum(split.bytes for split in splits) == pytest.approx(path.stat().st_size, abs=20)


BAD_LINES = [
    (b'{"text": "ok"', "not valid JSON"),
    (b"[1]", "a JSON list, expected an object"),
    (b'{"other": "x"}', "has no 'text'"),
    (b'{"text": 5}', "got int, expected text"),
    (b'{"text": null}', "null, expected a text"),
    (b'{"text": ""}', "text: empty"),
    (b'{"text": "a\\u0000b"}', "holds a NUL"),
    (b'{"text": "\xff"}', "not valid JSON"),
    (b'{"text": "\\ud800"}', "not valid JSON"),
    (b"", "not valid JSON"),
    (b'{"text": "' + b"x" * (1 << 20) + b'x"}', "1048577 bytes, expected at most 1048576"),
    (b'{"text": "' + b"x" * MAX_LINE + b'"}', f"a line of more than {MAX_LINE} bytes"),
    (b"[" * 100_000, "not valid JSON"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_LINES, ids=[r for _, r in BAD_LINES])
def test_a_bad_line_is_said_and_the_others_are_read(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    good = b'{"text": "good"}'
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([good, line, good, good]))
    (skipped,) = skipped_of(path)
    assert reason in skipped.reason
    assert (skipped.file, skipped.position, skipped.rest) == ("a.jsonl", len(good) + 1, False)
    assert texts_of(path) == ["good"] * 3
    assert texts_of(path, split_bytes=5) == ["good"] * 3


BAD_CSV = [
    (b"1,a,b", "3 values, expected 2"),
    (b"1", "1 values, expected 2"),
    (b'1,"a"b', "not valid CSV"),
    (b"1,\xff", "not UTF-8"),
    (b"1,", "text: empty"),
]


@pytest.mark.parametrize(("row", "reason"), BAD_CSV, ids=[r for _, r in BAD_CSV])
def test_a_bad_row_of_csv_is_said_and_the_others_are_read(
    tmp_path: Path, row: bytes, reason: str
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\n".join([b"\xef\xbb\xbfn,text", b"0,good", row, b"2,good", b""]))
    (skipped,) = skipped_of(path)
    assert reason in skipped.reason
    assert texts_of(path) == ["good", "good"]


def test_nulls_and_bad_bytes_in_parquet(tmp_path: Path) -> None:
    raw = pa.array([b"good", b"\xff\xfe", b"fine"], pa.binary())
    bad = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    path = tmp_path / "a.parquet"
    texts = pa.chunked_array([bad, pa.array([None, ""], pa.string())])
    pq.write_table(pa.table({"text": texts, "n": [1, 2, 3, 4, 5]}), path)
    assert texts_of(path) == ["good", "fine"]
    assert [s.reason[:8] for s in skipped_of(path)] == ["not UTF-", "null, ex", "text: em"]
    kept = [n for piece in pieces_of(path, keep=("n",)) for n in piece.kept["n"].to_pylist()]
    assert kept == [1, 3]


def test_an_id_must_not_be_null(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", "b"], "key": pa.array([None, 7], pa.int32())}), path)
    (skipped,) = skipped_of(path, id_column="key")
    assert skipped.reason == "'key': null, expected an id"
    assert texts_of(path, id_column="key") == ["b"]


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_every_type_of_text(tmp_path: Path, kind: pa.DataType) -> None:
    path = tmp_path / "a.parquet"
    column = pa.array(["a", "b", "a"])
    column = column.dictionary_encode() if pa.types.is_dictionary(kind) else column.cast(kind)
    pq.write_table(pa.table({"text": column, "same": column}), path)
    assert texts_of(path, keep=("same",)) == ["a", "b", "a"]
    (kept,) = {piece.kept.schema.field("same").type for piece in pieces_of(path, keep=("same",))}
    assert not pa.types.is_dictionary(kept)


def damage(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at : at + 40] = bytes(40)
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_a_truncated_file_is_left_out(tmp_path: Path, name: str) -> None:
    """Where it is read through once to be cut, it is found out before anything is embedded."""
    path = write(tmp_path / name, TEXTS)
    path.write_bytes(path.read_bytes()[:-200])
    (skipped,) = skipped_of(path)
    assert (skipped.rest, skipped.position) == (True, 0)
    _, request = job_of(path, on_error=OnError.STOP)
    with pytest.raises(InputError, match=r"a\.jsonl.*cannot be read.*--on-error skip"):
        list(plan_splits(find_source(str(path)), request))


def test_a_damaged_page_ends_its_split_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"text": TEXTS}),
        path,
        row_group_size=100,
        use_dictionary=False,
        write_page_checksum=True,
        compression="none",
    )
    group = pq.read_metadata(path).row_group(2).column(0)
    damage(path, group.data_page_offset + 200)
    (skipped,) = skipped_of(path, split_bytes=1000)
    assert skipped.rest
    assert "cannot be read" in skipped.reason
    read = texts_of(path, split_bytes=1000)
    assert set(TEXTS[:200] + TEXTS[300:]) <= set(read)
    assert len(read) == len(set(read))


def test_a_file_that_is_no_parquet_is_one_split_that_says_so(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", TEXTS)
    (tmp_path / "b.parquet").write_bytes(b"no Parquet at all")
    (skipped,) = skipped_of(tmp_path)
    assert (skipped.file, skipped.rest) == ("b.parquet", True)
    assert texts_of(tmp_path) == TEXTS


def test_a_disk_that_fails_is_no_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", TEXTS)
    job, (split,) = splits_of(path)
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        list(read_split(job, split))


def test_a_file_that_changed_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", TEXTS)
    job, (split,) = splits_of(path)
    check_unchanged(job.root, split.file)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(InputError, match="its size is another"):
        list(read_split(job, split))
    older = replace(split.file, bytes=path.stat().st_size, modified=split.file.modified - 1)
    with pytest.raises(InputError, match="time of change"):
        check_unchanged(job.root, older)


def test_lines_are_read_one_at_a_time(tmp_path: Path) -> None:
    """One line of 200 MB costs no more memory than the longest that is taken."""
    path = tmp_path / "a.txt"
    with path.open("wb") as stream:
        for _ in range(3):
            stream.write(b"x" * (MAX_LINE // 2))
        stream.write(b"\ngood")
    with path.open("rb") as stream:
        lines = list(iter_lines(stream, 0, 1 << 60))
    assert [line for _, _, line in lines] == [None, b"good"]
    assert [
        row.reason is None for row in read_rows(tmp_path, "a.txt", "text", ["-"], 0, 1 << 60)
    ] == [
        False,
        True,
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "a.jsonl", ["a"])
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub" / "b.ndjson.gz", ["b"])
    write(tmp_path / "sub" / ".hidden.jsonl", ["c"])
    (tmp_path / "readme.md").write_text("no texts")
    return tmp_path


def test_a_folder_gives_the_files_of_its_kind(folder: Path) -> None:
    source = find_source(str(folder))
    assert [file.path for file in source.files] == ["a.jsonl", "sub/b.ndjson.gz"]
    assert [file.path for file in find_source(f"{folder}/*/*.gz").files] == ["sub/b.ndjson.gz"]
    assert [file.path for file in find_source(f"{folder}/**/*.*").files] == [
        "a.jsonl",
        "sub/b.ndjson.gz",
    ]
    (one,) = find_source(str(folder / "a.jsonl")).files
    assert one.path == "a.jsonl"


def test_what_cannot_be_an_input(folder: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        find_source(str(folder / "none"))
    with pytest.raises(InputError, match="expected a name in"):
        find_source(str(folder / "readme.md"))
    with pytest.raises(InputError, match="has no file that ends in"):
        find_source(f"{folder}/*.md")
    write(folder / "c.csv", ["c"])
    with pytest.raises(InputError, match=r"csv and jsonl files, expected one kind"):
        find_source(str(folder))


def test_columns_that_files_do_not_have(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a text file has no columns"):
        job_of(write(tmp_path / "a.txt", TEXTS), keep=("n",))
    path = write(tmp_path / "a.csv", TEXTS)
    with pytest.raises(InputError, match="has no column 'other', only 'n, text'"):
        job_of(path, column="other", on_error=OnError.STOP)
    parquet = tmp_path / "p"
    parquet.mkdir()
    pq.write_table(pa.table({"text": ["a"], "n": [1]}), parquet / "a.parquet")
    with pytest.raises(InputError, match="has no column 'key'"):
        job_of(parquet, id_column="key")
    with pytest.raises(InputError, match=r"'n' of a\.parquet is int64, expected text"):
        job_of(parquet, column="n")
    pq.write_table(pa.table({"text": ["a"], "n": ["1"]}), parquet / "b.parquet")
    with pytest.raises(InputError, match=r"'n' is int64 in a\.parquet and string in b\.parquet"):
        job_of(parquet, keep=("n",))


def test_what_cannot_be_wanted() -> None:
    for keep in (("embedding",), ("id",), ("a", "a")):
        with pytest.raises(InputError, match="--keep: got"):
            Wanted(keep=keep)
    with pytest.raises(InputError, match="got both"):
        Wanted(chunk_tokens=3, sentences=1)
    with pytest.raises(InputError, match="--sentences: got 0"):
        Wanted(sentences=0)
    with pytest.raises(InputError, match="--split-bytes"):
        Wanted(split_bytes=0)


def test_sizes_of_vectors() -> None:
    sizes = {kind.value: kind.bytes_per_vector(64) for kind in Stored}
    assert sizes == {
        "float32": 256,
        "float16": 128,
        "int8": 64,
        "uint8": 64,
        "binary": 8,
        "ubinary": 8,
    }
