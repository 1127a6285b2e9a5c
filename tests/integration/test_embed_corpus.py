"""``adaptrt embed`` from end to end, with real bundles of a small random checkpoint."""

from __future__ import annotations

import csv
import json
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from runtimes.corpus.folder import Folder
from runtimes.corpus.records import Loading, OnError, Request, Stored, Wanted
from runtimes.corpus.run import Planned, Summary, embed_corpus
from runtimes.corpus.workers import LocalEngine
from runtimes.embedder import Embedder
from runtimes.errors import AdaptrtError, InputError
from runtimes.fingerprint import KEY, Fingerprint
from runtimes.text.chunks import sentence_starts
from tests.support import listing, run_cli

SENTENCE = "the station is near a river where people walk each morning before work"
WORDS = SENTENCE.split()
TEXTS = [" ".join(WORDS[(i * 7 + k) % 13] for k in range(1 + i % 40)) for i in range(600)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    rows = ({"text": text, "n": i, "tag": {"odd": i % 2}} for i, text in enumerate(TEXTS))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def request_of(
    corpus: Path, bundle: Path, out: Path, on_error: OnError = OnError.STOP, **wanted: object
) -> Request:
    asked = Wanted(**{"split_bytes": 20_000, **wanted})  # type: ignore[arg-type]
    return Request(
        input=str(corpus),
        out=out,
        wanted=asked,
        loading=Loading(bundle=bundle, threads=1),
        on_error=on_error,
    )


def embed(request: Request, workers: int = 1) -> Summary:
    return embed_corpus(request, partial(LocalEngine, workers=workers), lambda item: None)


def vectors_of(out: Path) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.stack(pq.read_table(out)["embedding"].to_numpy())


@pytest.fixture(scope="module")
def done(corpus: Path, small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished folder. Not to be changed."""
    out = tmp_path_factory.mktemp("embedded") / "out"
    summary = embed(request_of(corpus, small_bundle, out, keep=("n", "tag")))
    assert (summary.rows, summary.texts, summary.skipped) == (600, 600, 0)
    assert summary.parts == summary.new > 3
    return out


def test_vectors_are_those_of_encode(done: Path, small_bundle: Path) -> None:
    with Embedder.load(small_bundle) as embedder:
        np.testing.assert_allclose(vectors_of(done), embedder.encode(TEXTS), atol=2e-6)


def test_columns_types_and_order(done: Path) -> None:
    table = pq.read_table(done)
    assert table.column_names == ["id", "n", "tag", "embedding"]
    assert table["n"].to_pylist() == [str(i) for i in range(600)]
    assert table["tag"][1].as_py() == '{"odd":1}'
    assert len(set(table["id"].to_pylist())) == 600
    assert table["id"][0].as_py() == "texts.jsonl:0"
    assert table.schema.field("embedding").type == pa.list_(
        pa.field("element", pa.float32(), nullable=False), 64
    )


def test_a_part_carries_the_fingerprint(done: Path, small_bundle: Path) -> None:
    for part in done.glob("*.parquet"):
        one = Fingerprint.from_bytes(pq.read_schema(part).metadata[KEY], part)
        assert (one.task, one.dimensions, one.output) == ("separation", 64, "float32")
    assert run_cli("index", "check", "--bundle", small_bundle, "--index", done) == 0


def test_the_folder_lists_its_parts(done: Path) -> None:
    records = Folder(done).read_parts()
    assert [done / record.part for record in records] == sorted(done.glob("*.parquet"))
    assert sum(record.rows for record in records) == 600
    assert (done / "_adaptrt" / "skipped.jsonl").read_bytes() == b""
    assert {path.name for path in (done / "_adaptrt").iterdir()} == {
        "job.json",
        "lock",
        "parts.jsonl",
        "plan.jsonl",
        "skipped.jsonl",
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_bytes_whoever_makes_them(
    done: Path, corpus: Path, small_bundle: Path, tmp_path: Path, workers: int
) -> None:
    embed(request_of(corpus, small_bundle, tmp_path / "o", keep=("n", "tag")), workers)
    assert listing(tmp_path / "o") == listing(done)


def test_a_job_that_is_done_is_not_done_again(
    done: Path, corpus: Path, small_bundle: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(done, tmp_path / "o"))
    request = request_of(corpus, small_bundle, out, keep=("n", "tag"))
    summary = embed(request)
    assert (summary.new, summary.rows) == (0, 600)
    first, *_ = sorted(out.glob("*.parquet"))
    first.unlink()
    assert embed(request).new == 1
    assert listing(out) == listing(done)


CHANGES: list[tuple[str, dict[str, object]]] = [
    ("keep was", {"keep": ("n",)}),
    ("dimensions was None, now 32", {"dimensions": 32}),
    ("output was 'float32', now 'float16'", {"output": Stored.FLOAT16}),
    ("prefix was True, now False", {"prefix": False}),
    ("strict was False, now True", {"strict": True}),
    ("split_bytes was 20000, now 9999", {"split_bytes": 9999}),
    ("id_column was None, now 'n'", {"id_column": "n", "keep": ("tag",)}),
]


@pytest.mark.parametrize(("message", "changed"), CHANGES, ids=[m for m, _ in CHANGES])
def test_another_job_does_not_go_on(
    done: Path, corpus: Path, small_bundle: Path, message: str, changed: dict[str, object]
) -> None:
    before = listing(done)
    wanted: dict[str, Any] = {"keep": ("n", "tag"), **changed}
    with pytest.raises(InputError, match="has another job's parts") as raised:
        embed(request_of(corpus, small_bundle, done, **wanted))
    assert message in str(raised.value)
    assert listing(done) == before


def test_a_job_without_a_part_leaves_nothing_and_binds_nobody(
    done: Path, corpus: Path, small_bundle: Path, tmp_path: Path
) -> None:
    """A mistyped column is found at the first row: the right one is then asked for in its place."""
    out, wanted = tmp_path / "out", dict[str, Any](keep=("n", "tag"))
    with pytest.raises(InputError, match="has no 'txet'"):
        embed(request_of(corpus, small_bundle, out, column="txet", **wanted))
    assert not out.exists()
    embed(request_of(corpus, small_bundle, out, **wanted))
    assert {path.name for path in out.iterdir()} == {path.name for path in done.iterdir()}


def test_other_threads_do_not_go_on(done: Path, corpus: Path, small_bundle: Path) -> None:
    """With three threads the last bits of some vectors are others (docs/tasks/embed.md)."""
    request = request_of(corpus, small_bundle, done, keep=("n", "tag"))
    other = replace(request, loading=Loading(bundle=small_bundle, threads=3))
    with pytest.raises(InputError, match="threads was 1, now 3"):
        embed(other)


def test_another_bundle_task_or_input_does_not_go_on(
    done: Path, corpus: Path, query_bundle: Path, small_bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"bundle was .*; fingerprint was") as raised:
        embed(request_of(corpus, query_bundle, done, keep=("n", "tag")))
    assert "another job's parts" in str(raised.value)
    other = tmp_path / "texts.jsonl"
    other.write_bytes(corpus.read_bytes() + b'{"text": "more"}\n')
    size = corpus.stat().st_size
    with pytest.raises(
        InputError, match=rf"'texts.jsonl' changed from {size} to {size + 17} bytes"
    ):
        embed(request_of(other, small_bundle, done, keep=("n", "tag")))
    renamed = tmp_path / "sub" / "renamed.jsonl"
    renamed.parent.mkdir()
    renamed.write_bytes(corpus.read_bytes())
    with pytest.raises(InputError, match=r"'renamed.jsonl' is new; .*'texts.jsonl' is gone"):
        embed(request_of(renamed, small_bundle, done, keep=("n", "tag")))


def test_a_folder_with_other_things_is_left_alone(
    corpus: Path, small_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match=r"has 'letter.txt', and no job began there"):
        embed(request_of(corpus, small_bundle, tmp_path))
    assert list(listing(tmp_path)) == ["letter.txt"]


@pytest.mark.parametrize("pattern", ["", "**/*.jsonl"])
def test_a_folder_of_parts_within_the_input_is_no_input(
    corpus: Path, small_bundle: Path, tmp_path: Path, pattern: str
) -> None:
    shutil.copy2(corpus, tmp_path / "texts.jsonl")
    request = request_of(tmp_path / pattern, small_bundle, tmp_path / "parts")
    assert embed(request).rows == 600
    assert embed(request).new == 0


def test_two_runs_do_not_share_a_folder(corpus: Path, small_bundle: Path, tmp_path: Path) -> None:
    with (
        Folder(tmp_path / "o").locked(),
        pytest.raises(InputError, match="another run works in"),
    ):
        embed(request_of(corpus, small_bundle, tmp_path / "o"))


@pytest.mark.parametrize("stored", Stored)
def test_every_type_of_vector(
    corpus: Path, small_bundle: Path, tmp_path: Path, stored: Stored
) -> None:
    embed(request_of(corpus, small_bundle, tmp_path / "o", output=stored, split_bytes=1 << 20))
    with Embedder.load(small_bundle, threads=1) as embedder:
        expected = embedder.encode(TEXTS, output=stored.output)
    got = vectors_of(tmp_path / "o")
    if stored is Stored.FLOAT16:
        assert got.dtype == np.float16
        np.testing.assert_allclose(got, expected, atol=1e-3)
    else:
        assert got.dtype == expected.dtype
        # A value on a border of two steps may fall either way in another call.
        assert (got != expected).mean() < (1 if stored is Stored.FLOAT32 else 0.001)
    row = pq.read_table(tmp_path / "o")["embedding"].type
    assert row.list_size * row.value_type.bit_width // 8 == stored.bytes_per_vector(64)


def test_documents_in_chunks(chunk_bundle: Path, tmp_path: Path) -> None:
    documents = ["One. Two is longer. Three!", "Alone", "Ein Satz. Noch einer."]
    path = tmp_path / "docs.jsonl"
    path.write_text(
        "".join(json.dumps({"key": f"k{i}", "text": d}) + "\n" for i, d in enumerate(documents))
    )
    out = tmp_path / "o"
    request = request_of(
        path, chunk_bundle, out, id_column="key", sentences=1, task="text-matching", dimensions=32
    )
    assert embed(request).rows == 6
    table = pq.read_table(out)
    assert table.column_names == ["id", "chunk", "start", "end", "embedding"]
    assert table["id"].to_pylist() == ["k0"] * 3 + ["k1"] + ["k2"] * 2
    assert table["chunk"].to_pylist() == [0, 1, 2, 0, 0, 1]
    starts = [start for document in documents for start in sentence_starts(document)]
    assert table["start"].to_pylist() == starts
    with Embedder.load(chunk_bundle, threads=1) as embedder:
        expected = [
            embedder.encode_chunks(d, sentences=1, task="text-matching", dimensions=32).vectors
            for d in documents
        ]
    np.testing.assert_array_equal(vectors_of(out), np.concatenate(expected))


def test_rows_that_cannot_be_embedded(small_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([["text"], ["fine"], [""], ["as well"], ["word " * 9000]])
    with pytest.raises(InputError, match=r"texts.csv, at 12: text: empty.*--on-error skip"):
        embed(request_of(path, small_bundle, tmp_path / "o", split_bytes=1))
    # What was asked for may skip from then on: the parts that are there are the same.
    skip = request_of(path, small_bundle, tmp_path / "o", OnError.SKIP, split_bytes=1)
    summary = embed(skip)
    assert (summary.rows, summary.skipped, summary.cut) == (3, 1, 1)
    (line,) = (tmp_path / "o" / "_adaptrt" / "skipped.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "file": "texts.csv",
        "position": 12,
        "reason": "text: empty, expected at least one character",
    }
    strict = request_of(path, small_bundle, tmp_path / "p", OnError.SKIP, strict=True)
    assert embed(strict).rows == 2
    assert "the bundle takes" in (tmp_path / "p" / "_adaptrt" / "skipped.jsonl").read_text()


def test_a_corrupt_file_among_good_ones(small_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abc":
        pq.write_table(
            pa.table({"text": [f"{name} {i}" for i in range(50)]}), folder / f"{name}.parquet"
        )
    (folder / "b.parquet").write_bytes((folder / "b.parquet").read_bytes()[:-300])
    with pytest.raises(InputError, match=r"b\.parquet: cannot be read"):
        embed(request_of(folder, small_bundle, tmp_path / "o"))
    assert not (tmp_path / "o" / "_adaptrt" / "job.json").exists()
    summary = embed(request_of(folder, small_bundle, tmp_path / "p", OnError.SKIP))
    assert (summary.rows, summary.skipped, summary.parts) == (100, 1, 3)
    assert ds.dataset(tmp_path / "p").count_rows() == 100
    (line,) = (tmp_path / "p" / "_adaptrt" / "skipped.jsonl").read_text().splitlines()
    assert (json.loads(line)["file"], json.loads(line)["rest"]) == ("b.parquet", True)


def limit(resource_: int, value: int) -> Callable[[], None]:
    return partial(resource.setrlimit, resource_, (value, value))


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "export.cli", *map(str, arguments)]


def test_a_disk_that_is_full(corpus: Path, small_bundle: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for it; the run goes on once there is room."""
    arguments = command(
        "embed", corpus, "--bundle", small_bundle, "--out", tmp_path / "o", "--threads", 1
    )
    done = subprocess.run(
        arguments, capture_output=True, text=True, preexec_fn=limit(resource.RLIMIT_FSIZE, 60_000)
    )
    assert done.returncode == 1, done.stderr
    assert "ulimit -f" in done.stderr.splitlines()[-1]
    assert list((tmp_path / "o").glob("*.parquet")) == []
    assert list((tmp_path / "o" / "_adaptrt" / "staged").iterdir()) == []
    subprocess.run(arguments, check=True, capture_output=True)
    assert vectors_of(tmp_path / "o").shape == (600, 64)


def test_a_split_that_kills_its_workers_is_given_up(
    done: Path, corpus: Path, small_bundle: Path, tmp_path: Path
) -> None:
    ended = threading.Event()

    def kill_all() -> None:
        while not ended.wait(0.02):
            for worker in active_children():
                worker.kill()

    def watch(item: object) -> None:
        if isinstance(item, Planned):
            threading.Thread(target=kill_all, daemon=True).start()

    request = request_of(corpus, small_bundle, tmp_path / "o", keep=("n", "tag"))
    with pytest.raises(AdaptrtError, match=r"ended at texts\.jsonl with code -9, 3 times in a row"):
        embed_corpus(request, partial(LocalEngine, workers=1), watch)
    ended.set()
    embed(request)
    assert listing(tmp_path / "o") == listing(done)


def test_the_command(
    corpus: Path, small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("embed", corpus, "--bundle", small_bundle, "--threads", 1, "--split-bytes", 9000)
    assert run_cli(*arguments, "--out", tmp_path / "o", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "1 file: about 6" in printed
    assert not (tmp_path / "o").exists()
    assert run_cli(*arguments, "--out", tmp_path / "o") == 0
    assert "600 rows of 600 texts in" in capsys.readouterr().out
    assert run_cli(*arguments, "--out", tmp_path / "o", "--dimensions", 32) == 2
    assert "dimensions was None, now 32" in capsys.readouterr().err


REFUSED: list[tuple[str, tuple[object, ...]]] = [
    ("task: got 'nope'", ("--task", "nope")),
    ("dimensions: got 5", ("--dimensions", 5)),
    ("--output-type: got 'int4'", ("--output-type", "int4")),
    ("--on-error: got 'ask'", ("--on-error", "ask")),
    ("--engine: got 'spark'", ("--engine", "spark")),
    ("--late-chunking: expected with", ("--late-chunking",)),
    ("--late-chunking: expected with", ("--sentences", 2)),
    ("this bundle gives one vector per text", ("--late-chunking", "--sentences", 2)),
    ("--actors: is for --engine ray", ("--actors", "2")),
    ("--workers: is for --engine local", ("--workers", 2, "--engine", "ray")),
    ("--workers: got 0", ("--workers", 0)),
    ("threads: got 0", ("--threads", 0)),
    ("--split-bytes: got -1", ("--split-bytes", -1)),
    ("runtime: got 'magic'", ("--runtime", "magic")),
    ("device: got 'tpu'", ("--device", "tpu")),
    ("has no slot for an adapter", ("--adapter", "none.onnx_adapter")),
    ("this bundle has separation", ("--task", "base")),
]


@pytest.mark.parametrize(("message", "options"), REFUSED, ids=[m for m, _ in REFUSED])
def test_what_is_refused_writes_nothing(
    corpus: Path,
    small_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    message: str,
    options: tuple[object, ...],
) -> None:
    code = run_cli("embed", corpus, "--bundle", small_bundle, "--out", tmp_path / "o", *options)
    (line,) = capsys.readouterr().err.splitlines()
    assert (code, message in line) == (2, True), line
    assert not (tmp_path / "o").exists()
