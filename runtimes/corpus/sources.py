"""Which files are read, and as what."""

from __future__ import annotations

import glob
import io
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from runtimes.corpus.records import STATE, File
from runtimes.errors import InputError, shown

PARQUET, JSONL, CSV, TSV, TEXT = "parquet", "jsonl", "csv", "tsv", "text"
KINDS: Mapping[str, str] = {
    ".parquet": PARQUET,
    ".jsonl": JSONL,
    ".ndjson": JSONL,
    ".csv": CSV,
    ".tsv": TSV,
    ".txt": TEXT,
}
COMPRESSIONS: Mapping[str, str] = {".gz": "gzip", ".zst": "zstd"}
DELIMITERS: Mapping[str, str] = {CSV: ",", TSV: "\t"}
_EXPECTED = f"{', '.join(KINDS)}; all but .parquet also with .gz or .zst"
_MAGIC = "*?["


@dataclass(frozen=True, kw_only=True)
class Source:
    """The input: files of one kind below ``root``, in the order of their paths."""

    root: Path
    kind: str
    files: tuple[File, ...]


def find_source(pattern: str, out: Path | None = None) -> Source:
    """A file, a folder with everything in it that has a known ending, or a glob.

    What lies in ``out``, and the notes of other jobs, is no input. Raises :class:`InputError`
    where there is nothing to read, or files of several kinds.
    """
    root, listed = _list(pattern)
    own = None if out is None else out.absolute()
    paths = [p for p in listed if own not in p.absolute().parents and STATE not in p.parts]
    kinds = {path: kind_of(path.name) for path in paths}
    known = sorted(path for path, kind in kinds.items() if kind is not None)
    if not known:
        raise InputError(f"INPUT: {shown(pattern)} has no file that ends in {_EXPECTED}")
    found = sorted({str(kinds[path]) for path in known})
    if len(found) > 1:
        raise InputError(
            f"INPUT: {shown(pattern)} has {' and '.join(found)} files, expected one kind; "
            "name them by a glob, such as 'folder/*.parquet'"
        )
    files = tuple(_describe(root, path) for path in known)
    return Source(root=root, kind=found[0], files=files)


def kind_of(name: str) -> str | None:
    """What a file holds, by its name; None for no kind that is read."""
    return KINDS.get(Path(_bare(name)).suffix.lower())


def compression_of(name: str) -> str | None:
    """How a file is compressed, by its name; Parquet has its own inside."""
    return COMPRESSIONS.get(Path(name).suffix.lower())


@contextmanager
def open_lines(path: Path) -> Iterator[io.BufferedReader]:
    """A file's bytes, decompressed; only those of a plain file can be sought in."""
    compression = compression_of(path.name)
    with path.open("rb") as raw:
        if compression is None:
            yield raw
            return
        with pa.CompressedInputStream(pa.PythonFile(raw), compression) as stream:
            yield io.BufferedReader(stream, 1 << 18)


def check_unchanged(root: Path, file: File) -> None:
    """Raise :class:`InputError` where a file is no longer what it was when the job began."""
    now = _describe(root, root / file.path)
    if now != file:
        what = "size" if now.bytes != file.bytes else "time of change"
        raise InputError(
            f"{root / file.path}: its {what} is another than when the job began; a corpus must "
            "not change while it is read. Begin anew in another folder"
        )


def _list(pattern: str) -> tuple[Path, list[Path]]:
    path = Path(pattern)
    if path.is_dir():
        return path, list(_below(path))
    if path.exists():
        if kind_of(path.name) is None:
            raise InputError(f"INPUT: got {shown(pattern)}, expected a name in {_EXPECTED}")
        return path.parent, [path]
    if any(mark in pattern for mark in _MAGIC):
        fixed = Path(*_before_magic(path))
        found = (Path(p) for p in glob.iglob(pattern, recursive=True))  # noqa: PTH207 - patterns may be absolute
        return fixed, [p for p in found if p.is_file()]
    raise InputError(f"INPUT: {shown(pattern)}: no such file or folder")


def _below(folder: Path) -> Iterator[Path]:
    """Files below a folder, without hidden ones."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in names:
            if not name.startswith("."):
                yield Path(parent, name)


def _before_magic(path: Path) -> list[str]:
    parts = list(path.parts)
    first = next(i for i, part in enumerate(parts) if any(mark in part for mark in _MAGIC))
    return parts[:first]


def _describe(root: Path, path: Path) -> File:
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"INPUT: {path}: cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"INPUT: {path}: expected a regular file or a link to one")
    return File(
        path=path.relative_to(root).as_posix(), bytes=status.st_size, modified=status.st_mtime_ns
    )


def _bare(name: str) -> str:
    return name if compression_of(name) is None else name[: name.rfind(".")]
