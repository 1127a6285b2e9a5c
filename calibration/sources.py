"""The rows of a user's texts one after the other: lines, JSON lines, Parquet, and folders.

A folder is what ``datasets`` wrote (``Dataset.save_to_disk``), or one with Parquet shards, as the
hub has them. What is held is a line, or some hundred rows of one shard, whatever the size of it
all. Nothing in a folder is executed, and a name in its JSON stands for a file of that folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from runtimes.arguments import expected_name
from runtimes.errors import InputError, MissingError, shown
from runtimes.files import MAX_CONFIG_BYTES, check_regular, read_json
from runtimes.text.lines import parse_object, read_lines

TEXT_COLUMN, LANGUAGE_COLUMN = "text", "language"
_LINE = 16 << 20  # bytes; the longest text in JSON's escapes has 12 MB
_BATCH, _BUFFER = 256, 1 << 20  # rows, and bytes, that are read at once
# What Dataset.save_to_disk and DatasetDict.save_to_disk write beside the shards.
_STATE, _SPLITS = "state.json", "dataset_dict.json"


class Row(NamedTuple):
    """What stands in one row, not yet checked, and where that is."""

    place: str
    text: object
    language: object


def read_rows(path: Path, column: str, source: str) -> Iterator[Row]:
    """The rows of a file or folder that ``source`` named, in the order in which they stand there.

    The text is a JSON object's ``column``, or a table's, and ``language`` its language. Raises
    :class:`InputError` for what cannot be read so, and :class:`MissingError` where pyarrow, which
    reads tables, is not installed.
    """
    if path.is_dir():
        yield from _folder_rows(path, column, source)
        return
    if path.suffix not in _READERS:
        raise InputError(
            f"{source}: got {path.name}, expected a name in {', '.join(_READERS)}, or a "
            "folder with Parquet files or a saved dataset"
        )
    yield from _file_rows(path, column, source)


def _file_rows(path: Path, column: str, source: str) -> Iterator[Row]:
    try:
        check_regular(path)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    yield from _READERS[path.suffix](path, column, f"{source}: {path}")


def _folder_rows(folder: Path, column: str, source: str) -> Iterator[Row]:
    place = f"{source}: {folder}"
    if (folder / _SPLITS).exists():
        folder = folder / _split(folder, place)
    saved = (folder / _STATE).exists()
    shards = _saved_shards(folder, f"{source}: {folder}") if saved else _parquet_files(folder)
    if not shards:
        raise InputError(
            f"{place}: neither {_STATE}, which Dataset.save_to_disk writes, nor a .parquet file in "
            "it; name a folder with one of these"
        )
    for shard in shards:
        yield from _file_rows(shard, column, source)


def _split(folder: Path, place: str) -> str:
    """The only split of a DatasetDict."""
    splits = _json(folder / _SPLITS, place).get("splits")
    names = splits if isinstance(splits, list) else []
    if len(names) != 1:
        raise InputError(
            f"{place}: its splits are {', '.join(map(shown, names)) or 'none'}, expected one; name "
            f"one split's own folder, such as {folder / 'train'}"
        )
    return _inside(names[0], f"{place}/{_SPLITS}")


def _saved_shards(folder: Path, place: str) -> list[Path]:
    """The shards of a saved dataset, in its order."""
    state = _json(folder / _STATE, place)
    files = state.get("_data_files")
    if not isinstance(files, list) or not all(isinstance(f, dict) for f in files):
        raise InputError(f"{place}/{_STATE}: no list _data_files; save the dataset again")
    if state.get("_indices_data_files"):
        raise InputError(
            f"{place}: it is a selection of rows, which an old version of datasets saved apart; "
            "load it, call flatten_indices() and save it again"
        )
    shards = [folder / _inside(f.get("filename"), f"{place}/{_STATE}") for f in files]
    for shard in shards:
        if shard.suffix != ".arrow":
            raise InputError(f"{place}/{_STATE}: {shown(shard.name)}, expected a name in .arrow")
    return shards


def _parquet_files(folder: Path) -> list[Path]:
    """Every Parquet file below, by its path; hidden ones and linked folders are left out."""
    found = []
    for top, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        shards = (name for name in names if name.endswith(".parquet") and name[0] not in "._")
        found += [Path(top, name) for name in shards]
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def _refuse(error: OSError) -> None:
    """Without it, :func:`os.walk` leaves out a folder that cannot be read."""
    raise error


def _json(path: Path, place: str) -> dict[str, Any]:
    try:
        return read_json(path, MAX_CONFIG_BYTES)
    except InputError as error:
        raise InputError(f"{place.partition(': ')[0]}: {error}") from error


def _inside(name: object, place: str) -> str:
    """``name`` where it is that of an entry of the folder itself."""
    plain = isinstance(name, str) and expected_name(name) is None and Path(name).name == name
    if not isinstance(name, str) or not plain or name in ("", ".."):
        raise InputError(
            f"{place}: {shown(name)}, expected the name of something in this folder; save the "
            "dataset again"
        )
    return name


def _txt_rows(path: Path, column: str, place: str) -> Iterator[Row]:
    if column != TEXT_COLUMN:
        raise InputError(f"{place}: a .txt file has no column {shown(column)}; leave it out")
    for where, line in _lines(path, place):
        yield Row(where, line, None)


def _jsonl_rows(path: Path, column: str, place: str) -> Iterator[Row]:
    for where, line in _lines(path, place):
        if line.strip():
            row = parse_object(line, where)
            yield Row(where, row.get(column), row.get(LANGUAGE_COLUMN))


def _lines(path: Path, place: str) -> Iterator[tuple[str, str]]:
    with path.open("rb") as stream:
        lines = iter(partial(stream.readline, _LINE + 1), b"")
        yield from read_lines(_bounded(lines, place), place)


def _bounded(lines: Iterator[bytes], place: str) -> Iterator[bytes]:
    for number, line in enumerate(lines, 1):
        if len(line) > _LINE:
            raise InputError(
                f"{place}, line {number}: more than {_LINE} bytes, expected at most so many; "
                "give a text a line"
            )
        yield line


def _table_rows(open_batches: Callable[..., Iterator[Any]], kind: str) -> Callable[..., Any]:
    """A reader of tables: ``open_batches`` gives a file's record batches, ``kind`` names it."""

    def rows(path: Path, column: str, place: str) -> Iterator[Row]:
        try:
            from pyarrow import ArrowException
        except ImportError as error:
            raise _missing(path, place) from error
        number = 0
        try:
            for batch in open_batches(path, column, place):
                texts, languages = (
                    batch.column(name).to_pylist() if name in batch.schema.names else None
                    for name in (column, LANGUAGE_COLUMN)
                )
                for index, text in enumerate(texts or ()):
                    language = languages[index] if languages else None
                    number += 1
                    # A table's empty cell is a row without a text, as a blank line is.
                    yield Row(f"{place}, row {number}", "" if text is None else text, language)
        except UnicodeDecodeError as error:
            raise InputError(
                f"{place}, after row {number}: a text is not UTF-8; write the column again"
            ) from error
        except (ArrowException, OSError) as error:
            words = shown(" ".join(str(error).split()))
            raise InputError(
                f"{place}: not a usable {kind} file ({words}); write it again"
            ) from error

    return rows


def _parquet_batches(path: Path, column: str, place: str) -> Iterator[Any]:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise _missing(path, place) from error
    # With a buffer a column is decoded page by page instead of as a whole row group's.
    with ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
        columns = _columns(file.schema_arrow, column, place)
        yield from file.iter_batches(_BATCH, columns=columns, use_threads=False)


def _arrow_batches(path: Path, column: str, place: str) -> Iterator[Any]:
    import pyarrow as pa

    with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as reader:
        columns = _columns(reader.schema, column, place)
        for batch in reader:  # mapped: a batch is in memory as far as its rows are read
            chosen = batch.select(columns)
            for start in range(0, len(chosen), _BATCH):
                yield chosen.slice(start, _BATCH)


def _columns(schema: Any, column: str, place: str) -> list[str]:
    """The columns to read; :class:`InputError` where the chosen one is missing or no text."""
    names = list(schema.names)
    if names.count(column) != 1:
        raise InputError(
            f"{place}: {names.count(column) or 'no'} columns {shown(column)}, expected one; it has "
            f"{shown(names, 400)}; name one with CALIBRATION_COLUMN, or call it 'text'"
        )
    kind = schema.field(column).type
    if str(kind).removeprefix("dictionary<values=").partition(",")[0] not in _TEXT_TYPES:
        raise InputError(
            f"{place}: column {shown(column)} is {shown(str(kind))}, expected text; name another "
            "with CALIBRATION_COLUMN, or call that 'text'"
        )
    wanted = dict.fromkeys((column, LANGUAGE_COLUMN))
    return [name for name in wanted if names.count(name) == 1]


_TEXT_TYPES = ("string", "large_string", "string_view")


def _missing(path: Path, place: str) -> MissingError:
    return MissingError(
        f"{place}: a {path.suffix} file needs pyarrow; pip install pyarrow, or give the texts as "
        ".jsonl"
    )


_READERS: dict[str, Callable[[Path, str, str], Iterator[Row]]] = {
    ".txt": _txt_rows,
    ".jsonl": _jsonl_rows,
    ".parquet": _table_rows(_parquet_batches, "Parquet"),
    ".arrow": _table_rows(_arrow_batches, "Arrow stream"),
}
