"""JSON files from folders we do not trust as typed records, or one line that says what is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, inspect

from runtimes.errors import InputError, shown
from runtimes.files import read_small

T = TypeVar("T")
JsonObject = dict[str, object]  # read, and not yet checked
# Names and versions that reach a terminal: no control characters, and no text of any length.
Plain = Annotated[str, Meta(pattern=r"^[ -~]{0,200}\Z")]
# msgspec's own: "Expected `int` >= 1, got `str` - at `$.artifacts[0].bytes`"; [...] is any key.
_REFUSAL = re.compile(
    r"(?P<what>.*?)(?:, got `[^`]*`)?(?: - at (?:`key` in )?`\$\.?(?P<where>.*)`)?", re.DOTALL
)
_STEP = re.compile(r"\[(\d+)\]|([^.\[\]]+)")


def read_object(path: Path, hint: str = "copy the bundle again") -> JsonObject:
    """The JSON object in ``path``; NaN and infinite numbers are no JSON.

    ``hint`` is what to do about a file that holds none.
    """
    try:
        value = msgspec.json.decode(read_small(path))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); {hint}") from error
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise InputError(f"{path}: got a JSON {kind}, expected an object; {hint}")
    return value


def as_record(raw: JsonObject, kind: type[T], path: Path, hint: str) -> T:
    """``raw`` as a dataclass; :class:`InputError` names the key, what is there and what should be.

    Keys that ``kind`` does not have are left out (:func:`unknown_keys` lists them).
    """
    try:
        return msgspec.convert(raw, kind, strict=True)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {_refusal(str(error), raw, kind)}; {hint}") from error


def unknown_keys(raw: object, kind: type) -> Iterator[str]:
    """Keys, with the way to them, that a record of this kind has no field for."""
    yield from _unknown(raw, inspect.type_info(kind), "")


def _unknown(value: object, kind: inspect.Type, where: str) -> Iterator[str]:
    match kind:
        case inspect.DataclassType(fields=fields) | inspect.TypedDictType(fields=fields):
            known = {field.encode_name: field.type for field in fields}
            for key, inner in value.items() if isinstance(value, dict) else ():
                if key in known:
                    yield from _unknown(inner, known[key], f"{where}{key}.")
                else:
                    yield f"{where}{key}"
        case inspect.UnionType(types=kinds):
            for one in kinds:
                yield from _unknown(value, one, where)
        case inspect.VarTupleType(item_type=item):
            for index, inner in enumerate(value if isinstance(value, list) else ()):
                yield from _unknown(inner, item, f"{where.removesuffix('.')}[{index}].")


def _refusal(message: str, raw: object, kind: object) -> str:
    """msgspec's message in this project's words, with the value that was refused."""
    matched = _REFUSAL.fullmatch(message)
    if matched is None:
        return message
    what, where = matched["what"].replace("`", ""), matched["where"] or ""
    missing = what.removeprefix("Object missing required field ")
    if missing != what:
        return f"{where}.{missing}".removeprefix(".") + ": missing"
    value = raw
    for index, key in _STEP.findall(where.partition("[...]")[0]):
        value = _step(value, index, key)
    expected = what[:1].lower() + what[1:]
    if what.startswith("Invalid enum value"):
        expected = f"expected one of {', '.join(_members(inspect.type_info(kind), where))}"
    return f"{where or 'the file'}: got {shown(value)}, {expected}"


def _step(value: object, index: str, key: str) -> object:
    if isinstance(value, list):
        return value[int(index)]
    return value[key] if isinstance(value, dict) else value


def _members(kind: inspect.Type, where: str) -> list[str]:
    """The values of the enum that stands at ``where`` in a record of this kind."""
    kinds = [kind]
    for index, key in _STEP.findall(where):
        kinds = [inner for one in _alternatives(kinds) for inner in _inner(one, index, key)]
    enums = (one.cls for one in _alternatives(kinds) if isinstance(one, inspect.EnumType))
    return [str(member.value) for enum in enums for member in enum]


def _alternatives(kinds: list[inspect.Type]) -> Iterator[inspect.Type]:
    for kind in kinds:
        yield from kind.types if isinstance(kind, inspect.UnionType) else (kind,)


def _inner(kind: inspect.Type, index: str, key: str) -> Iterator[inspect.Type]:
    """The type of one step into a record or an array."""
    match kind:
        case inspect.DataclassType(fields=fields) if key:
            yield from (field.type for field in fields if field.encode_name == key)
        case inspect.VarTupleType(item_type=item) if index:
            yield item
