"""Files of one text or one JSON object per line, read so that errors name the line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from runtimes.errors import InputError

_BOM = b"\xef\xbb\xbf"


def read_lines(stream: Iterable[bytes], name: str) -> Iterator[tuple[str, str]]:
    """Each line without its end, after its place (``name, line 3``).

    Raises :class:`InputError` at the first line that is not UTF-8.
    """
    for number, line in enumerate(stream, 1):
        place = f"{name}, line {number}"
        raw = line.removeprefix(_BOM) if number == 1 else line
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{place}: not UTF-8 (byte {error.start + 1} is 0x{raw[error.start]:02x}); "
                "convert the file, for example with iconv -t UTF-8"
            ) from error
        yield place, text.removesuffix("\n").removesuffix("\r")


def parse_object(line: str, place: str) -> dict[str, Any]:
    """The JSON object a line holds; raises :class:`InputError` for anything else."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{place}: got a JSON {type(value).__name__}, expected an object")
    return value
