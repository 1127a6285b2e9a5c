"""Splits of files of lines, read row by row: JSON objects, CSV, or a text per line.

What is wrong with a row is said of that row; the ones after it are read.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from runtimes.corpus.sources import CSV, DELIMITERS, JSONL, TEXT, TSV, Source, open_lines
from runtimes.errors import InputError, shown

MAX_LINE = 16 << 20  # bytes of one line, and of a value in CSV
_CHUNK = 1 << 18
_TOO_LONG = f"a line of more than {MAX_LINE} bytes"
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True)
class Row:
    """``values`` are the text and what is kept; ``reason`` is why there are none.

    ``position``: where it begins in the file, in bytes of what is decompressed; ``end`` is after
    it.
    """

    position: int
    end: int
    values: tuple[str | None, ...] = ()
    reason: str | None = None


Line = tuple[int, int, bytes | None]  # where it begins, its end; None: longer than MAX_LINE
# From lines and the names of columns, the text's first; the header is CSV's.
Parse = Callable[[Iterable[Line], Sequence[str], Sequence[str]], Iterator[Row]]


def read_rows(
    root: Path, path: str, kind: str, names: Sequence[str], start: int, stop: int
) -> Iterator[Row]:
    """Rows that begin at ``start`` or later and before ``stop``; ``names`` the text's first."""
    source = Source(root=root, kind=kind, files=())
    header = read_header(source, path) if kind in DELIMITERS else []
    with open_lines(root / path) as stream:
        yield from _PARSERS[kind](iter_lines(stream, start, stop), names, header)


def read_header(source: Source, path: str) -> list[str]:
    """The first row of a CSV file: the columns' names. None where the file is empty."""
    delimiter = DELIMITERS[source.kind]
    with open_lines(source.root / path) as stream:
        lines = [_text(line) for _, _, line in iter_lines(stream, 0, 1) if line is not None]
        try:
            return next(_reader(lines, delimiter), [])
        except csv.Error as error:
            raise InputError(
                f"{source.root / path}: the first line is not valid CSV ({error})"
            ) from error


def iter_lines(stream: io.BufferedReader, start: int, stop: int) -> Iterator[Line]:
    """Lines that begin in ``[start, stop)``, with their ends; at most one of them in memory."""
    if not stream.seekable():
        for at in range(0, start, _CHUNK):
            stream.read(min(_CHUNK, start - at))
    else:
        stream.seek(start)
    at = start
    while at < stop and (line := stream.readline(MAX_LINE + 1)):
        size, last = len(line), line
        while len(last) > MAX_LINE and not last.endswith(b"\n"):
            last = stream.readline(MAX_LINE + 1)
            size += len(last)
        kept = line.removeprefix(_BOM) if at == 0 else line
        yield at, at + size, None if size > MAX_LINE else kept
        at += size


def _json_rows(lines: Iterable[Line], names: Sequence[str], header: Sequence[str]) -> Iterator[Row]:
    for at, end, line in lines:
        if line is None:
            yield Row(position=at, end=end, reason=_TOO_LONG)
            continue
        try:
            yield Row(position=at, end=end, values=_json_values(line, names))
        except InputError as error:
            yield Row(position=at, end=end, reason=str(error))


def _json_values(line: bytes, names: Sequence[str]) -> tuple[str | None, ...]:
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"not valid JSON ({shown(str(error))})") from error
    if not isinstance(value, dict):
        raise InputError(f"a JSON {type(value).__name__}, expected an object")
    text, *kept = names
    if text not in value:
        raise InputError(f"has no {shown(text)}")
    found = value[text]
    if found is not None and not isinstance(found, str):
        raise InputError(f"{shown(text)}: got {type(found).__name__}, expected text")
    return (found, *(_as_text(value.get(name)) for name in kept))


def _as_text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()


def _text_rows(lines: Iterable[Line], names: Sequence[str], header: Sequence[str]) -> Iterator[Row]:
    for at, end, line in lines:
        if line is None:
            yield Row(position=at, end=end, reason=_TOO_LONG)
            continue
        try:
            text = line.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            yield Row(position=at, end=end, reason=_not_utf8(line, error))
        else:
            yield Row(position=at, end=end, values=(text,))


def _not_utf8(line: bytes, error: UnicodeDecodeError) -> str:
    return f"not UTF-8 (byte {error.start + 1} is 0x{line[error.start]:02x})"


def _csv_rows(
    lines: Iterable[Line], names: Sequence[str], header: Sequence[str], *, delimiter: str
) -> Iterator[Row]:
    places = [header.index(name) for name in names if name in header]
    counted = _Counted(lines)
    rows = _reader(counted, delimiter)
    while True:
        counted.begin()
        try:
            fields = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(position=counted.start, end=counted.end, reason=f"not valid CSV ({error})")
            rows = _reader(counted, delimiter)  # without what is left of the broken row
            continue
        if counted.start == 0 or not fields:
            continue  # the header, or an empty line
        row = partial(Row, position=counted.start, end=counted.end)
        if len(places) < len(names):
            yield row(reason=f"the file has no column {shown(names[len(places)])}")
        elif len(fields) != len(header):
            yield row(reason=f"{len(fields)} values, expected {len(header)}")
        elif not all(_is_utf8(fields[place]) for place in places):
            yield row(reason="not UTF-8")
        else:
            yield row(values=tuple(fields[place] for place in places))


class _Counted:
    """Lines as csv takes them, which knows where the row that is being read begins."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._lines = iter(lines)
        self.start, self.end = 0, 0
        self._fresh = True

    def begin(self) -> None:
        """The next line begins a row."""
        self._fresh = True

    def __iter__(self) -> _Counted:
        return self

    def __next__(self) -> str:
        at, self.end, line = next(self._lines)
        if self._fresh:
            self.start, self._fresh = at, False
        if line is None:
            raise csv.Error(_TOO_LONG)
        return _text(line)


def _text(line: bytes) -> str:
    """What is no UTF-8 becomes surrogates, which no text may have."""
    return line.decode("utf-8", errors="surrogateescape")


def _is_utf8(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


def _reader(lines: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    csv.field_size_limit(MAX_LINE)  # of the process; its own is 128 KB
    return csv.reader(lines, delimiter=delimiter, strict=True)


def _separated(kind: str) -> Parse:
    def parse(lines: Iterable[Line], names: Sequence[str], header: Sequence[str]) -> Iterator[Row]:
        return _csv_rows(lines, names, header, delimiter=DELIMITERS[kind])

    return parse


_PARSERS: Mapping[str, Parse] = {
    JSONL: _json_rows,
    TEXT: _text_rows,
    CSV: _separated(CSV),
    TSV: _separated(TSV),
}
