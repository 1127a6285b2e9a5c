"""Which columns are read, and their types in the output.

Parquet's own types are kept. Lines have none that every line shares, so what is kept of them is
text: of JSON a string as it is, anything else as JSON.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from runtimes.corpus.lines import read_header
from runtimes.corpus.records import Stored, Wanted
from runtimes.corpus.sources import DELIMITERS, PARQUET, TEXT, Source
from runtimes.corpus.splits import DAMAGE, is_damage
from runtimes.errors import InputError, shown
from runtimes.outputs import OUTPUTS

_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)


def input_columns(source: Source, wanted: Wanted, *, skip: bool) -> pa.Schema:
    """What is kept of the input, ``id`` first where a column has it.

    Raises :class:`InputError` for a column that no file, or not every file, has, and for one whose
    type differs between files. With ``skip`` files that cannot be read do not count.
    """
    names = [n for n in (wanted.id_column, *wanted.keep) if n is not None]
    if source.kind == TEXT and names:
        raise InputError(f"--id-column, --keep: got {shown(names[0])}; a text file has no columns")
    if source.kind == PARQUET:
        return _parquet_columns(source, wanted.column, names, skip=skip)
    if source.kind in DELIMITERS:
        for file in source.files:
            _check_header(source, file.path, [wanted.column, *names], skip=skip)
    return pa.schema([(name, pa.string()) for name in names])


def output_schema(columns: pa.Schema, wanted: Wanted, width: int) -> pa.Schema:
    """Columns of the parts; vectors of ``width`` dimensions."""
    kept = list(columns)
    identity = kept.pop(0).with_name("id") if wanted.id_column else pa.field("id", pa.string())
    spans = [
        pa.field("chunk", pa.int32(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("end", pa.int64(), nullable=False),
    ]
    return pa.schema(
        [
            identity.with_nullable(False),
            *(spans if wanted.chunked else ()),
            *kept,
            pa.field("embedding", vector_type(wanted.output, width), nullable=False),
        ]
    )


def vector_type(stored: Stored, width: int) -> pa.DataType:
    """A list of fixed size: values, or bytes of eight signs."""
    row = OUTPUTS[stored.output]
    values = pa.float16() if stored is Stored.FLOAT16 else pa.type_for_alias(row.dtype)
    size = width // 8 if row.bits == 1 else width
    return pa.list_(pa.field("element", values, nullable=False), size)


def _check_header(source: Source, path: str, names: Sequence[str], *, skip: bool) -> None:
    """A file without a first row has no rows either."""
    try:
        header = read_header(source, path)
    except DAMAGE as error:
        if not is_damage(error):
            raise
        return  # the plan says it, or skips it
    if header and (missing := [n for n in names if n not in header]) and not skip:
        raise InputError(_lacks(source, path, missing[0], header))


def _parquet_columns(source: Source, column: str, names: Sequence[str], *, skip: bool) -> pa.Schema:
    found: pa.Schema | None = None
    first = ""
    for file in source.files:
        try:
            schema = pq.read_schema(source.root / file.path)
        except DAMAGE as error:
            if not is_damage(error):
                raise
            continue
        missing = [n for n in (column, *names) if n not in schema.names]
        if missing:
            raise InputError(_lacks(source, file.path, missing[0], schema.names))
        if not is_text(schema.field(column).type):
            raise InputError(
                f"--column: {shown(column)} of {file.path} is {schema.field(column).type}, "
                "expected text"
            )
        kept = pa.schema([pa.field(n, _value_type(schema.field(n).type)) for n in names])
        if found is None:
            found, first = kept, file.path
        elif kept != found:
            name = next(n for n in names if kept.field(n) != found.field(n))
            raise InputError(
                f"{shown(name)} is {found.field(name).type} in {first} and "
                f"{kept.field(name).type} in {file.path}, expected one type; give the files "
                "to jobs of their own"
            )
    return pa.schema([(n, pa.string()) for n in names]) if found is None else found


def is_text(kind: pa.DataType) -> bool:
    """Whether values of an Arrow type are texts."""
    return any(test(_value_type(kind)) for test in _TEXTS)


def _value_type(kind: pa.DataType) -> pa.DataType:
    """Dictionaries are of a file; what they stand for is of all."""
    value: pa.DataType = kind.value_type if pa.types.is_dictionary(kind) else kind
    return value


def _lacks(source: Source, path: str, name: str, names: Sequence[str]) -> str:
    known = shown(", ".join(names))
    return f"{source.root / path}: has no column {shown(name)}, only {known}; name another"
