"""What callers of the public interface pass, checked: what was got, what was expected."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from runtimes.errors import InputError, shown

_INT32 = 2**31 - 1


def check_flag(name: str, value: object) -> bool:
    """True or False; a text such as "no" would be true."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name}: got {shown(value)}, expected True or False")
    return bool(value)


def is_whole(value: object) -> TypeGuard[int]:
    """Whether it is an integer; NumPy's are, True and 32.0 are not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_whole(name: str, value: object, low: int | None = None) -> int:
    """A whole number, at least ``low``, that fits 32 bits."""
    if not is_whole(value):
        raise InputError(f"{name}: got {shown(value)}, expected a whole number")
    if low is not None and value < low:
        raise InputError(f"{name}: got {shown(value)}, expected at least {low}")
    if not -_INT32 <= value <= _INT32:
        raise InputError(f"{name}: got {shown(value)}, expected at most {_INT32}")
    return int(value)


def check_path(name: str, value: object) -> Path:
    """A path or its text."""
    if not isinstance(value, str | os.PathLike):
        raise InputError(f"{name}: got {shown(value)}, expected a path")
    return Path(value)


def expected_name(text: str) -> str | None:
    """What is expected instead of ``text`` as a file's name; None where it can be one.

    ONNX Runtime and safetensors open none that is not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return "a name in UTF-8"
    return "a name without NUL characters" if "\0" in text else None


def list_of(name: str, values: object, expected: str, dimensions: int = 1) -> list[Any]:
    """The items of any iterable that has an order: lists, arrays, columns, generators.

    An array, or a table, of other ``dimensions`` is refused.
    """
    unordered = isinstance(values, str | bytes | bytearray | Mapping | Set)
    if unordered or not isinstance(values, Iterable):
        raise InputError(f"{name}: got {_kind(values)}, expected {expected}")
    if (dims := getattr(values, "ndim", dimensions)) != dimensions:
        raise InputError(f"{name}: got {dims} dimensions, expected {expected}")
    return list(values)


def list_texts(texts: object) -> list[Any]:
    """Texts as a list, not yet checked one by one."""
    return list_of("texts", texts, "a list of them: encode([text])")


def list_tasks(task: object, count: int) -> list[str] | None:
    """A task for each of ``count`` texts: one name for all, or one each; None for none given."""
    if task is None or isinstance(task, str):
        return None if task is None else [task] * count
    tasks = list_of("task", task, "a name, or one for each text")
    if len(tasks) != count:
        raise InputError(f"task: got {len(tasks)} tasks for {count} texts")
    for index, name in enumerate(tasks):
        if not isinstance(name, str):
            raise InputError(f"task {index}: got {shown(name)}, expected a task's name")
    return tasks


def _kind(value: object) -> str:
    """None and numbers as they are; of what can be long, the type."""
    short = value is None or isinstance(value, int | float)
    return shown(value) if short else f"one {type(value).__name__}"
