"""An index's fingerprint: from Parquet files as ``adaptrt embed`` writes them, or a JSON file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.arguments import check_path
from runtimes.errors import IndexMismatchError, InputError, MissingError, shown
from runtimes.fingerprint import IDENTITY, KEY, Fingerprint
from runtimes.outputs import OUTPUTS

COLUMN = "embedding"  # of the vectors
_HINT = "expected a folder of Parquet files that adaptrt embed wrote, or one of them, or a .json"


@dataclass(frozen=True, kw_only=True)
class Index:
    """What is known of an index without its vectors. ``parts`` are its Parquet files, if any."""

    path: Path
    fingerprint: Fingerprint
    parts: tuple[Path, ...] = ()


def read_index(path: str | Path) -> Index:
    """The index at ``path``.

    Of several Parquet files each has to have the same fingerprint, and vectors as it says.
    Raises :class:`InputError` for what holds none, :class:`IndexMismatchError` for files of
    several kinds of vectors, and :class:`MissingError` where pyarrow is needed and missing.
    """
    place = check_path("index", path)
    if not place.exists():
        raise InputError(f"index: {shown(str(place))}: no such file or folder; {_HINT}")
    if place.is_file() and place.suffix == ".json":
        return Index(path=place, fingerprint=Fingerprint.read(place))
    parts = tuple(_parts(place)) if place.is_dir() else (place,)
    first: Fingerprint | None = None
    checked: set[bytes] = set()
    for part in parts:
        if not part.is_file():  # a FIFO would be waited for
            raise InputError(f"index: {shown(str(part))}: no file; {_HINT}")
        schema = read_schema(part)
        content = _metadata(part, schema)
        if content not in checked:  # usually once
            one = Fingerprint.from_bytes(content, part)
            first = one if first is None else first
            _require_same(one, part, first, parts[0])
            checked.add(content)
        if first is not None:
            _check_column(part, schema, first)
    if first is None:
        raise InputError(f"index: {place} holds no .parquet file; {_HINT}")
    return Index(path=place, fingerprint=first, parts=parts)


def _parts(folder: Path) -> Iterator[Path]:
    """Parquet files below it, in order; hidden ones and those of a job under way are left out."""
    for path in sorted(folder.rglob("*.parquet")):
        names = path.relative_to(folder).parts
        if not any(name.startswith((".", "_")) for name in names):
            yield path


def arrow() -> Any:
    """``pyarrow.parquet``; :class:`MissingError` where it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingError(
            f"pyarrow is not installed ({error}), which reads Parquet files; pip install "
            "'adaptrt[embed]', or copy what `adaptrt index export` writes, a JSON file"
        ) from error
    return pyarrow.parquet


def read_schema(part: Path) -> Any:
    """A Parquet file's schema; :class:`InputError` for anything else."""
    parquet = arrow()
    import pyarrow

    try:
        return parquet.read_schema(part)
    except (pyarrow.ArrowException, OSError) as error:
        words = " ".join(str(error).split())
        raise InputError(f"index: {part}: not a usable Parquet file ({words}); {_HINT}") from error


def _metadata(part: Path, schema: Any) -> bytes:
    content: bytes | None = (schema.metadata or {}).get(KEY)
    if content is None:
        raise InputError(
            f"index: {part} has no {KEY.decode()} in its metadata, so it cannot be told what made "
            "its vectors; make it with adaptrt embed, or name the canaries that `adaptrt index "
            "export` wrote"
        )
    return content


def _require_same(one: Fingerprint, part: Path, first: Fingerprint, former: Path) -> None:
    """Canaries may differ in their last bits, nothing else."""
    if one.digest == first.digest:
        return
    names = (*IDENTITY, "precision", "target", "range", "max_tokens")
    differ = [n for n in names if getattr(one, n) != getattr(first, n)] or ["executed"]
    values = ", ".join(
        f"{n} {shown(getattr(first, n))} and {shown(getattr(one, n))}" for n in differ
    )
    raise IndexMismatchError(f"index: {former} and {part} hold vectors of two kinds: {values}")


def _check_column(part: Path, schema: Any, one: Fingerprint) -> None:
    """The vectors' column is as wide and of the type that the fingerprint says.

    float32 may be stored as float16, which is the same vectors rounded.
    """
    row = OUTPUTS[one.output]
    width = one.dimensions * row.bits // (8 * np.dtype(row.dtype).itemsize)
    if COLUMN not in schema.names:
        raise InputError(f"index: {part} has no column {COLUMN!r}; {_HINT}")
    kind = schema.field(COLUMN).type
    size = getattr(kind, "list_size", None)
    got = None if size is None else np.dtype(kind.value_type.to_pandas_dtype())
    types = [np.dtype(row.dtype), *([np.dtype(np.float16)] if row.bits == 32 else [])]
    if size != width or got not in types:
        raise IndexMismatchError(
            f"index: {part}: column {COLUMN} is {shown(str(kind))}, but its fingerprint says "
            f"{one.dimensions} dimensions as {one.output}: {width} of {row.dtype}"
        )
