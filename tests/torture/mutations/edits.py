"""How bytes, JSON and folders are changed, each by a seeded generator; no knowledge of any file."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

_SPARSE = 3 << 30  # bytes that a sparse file claims; on the disk it has none
_EXTREMES = (
    *(0, 1, -1, 2, 7, 255, 2**31 - 1, 2**31, -(2**31) - 1, 2**32, 2**53 + 1, 2**63 - 1, 2**63),
    *(-(2**63), 2**64, 10**30, 0.0, -0.0, 0.5, 1e-320, 1e308, -1e308),
)
# What json.dumps does not write.
_LITERALS = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" + "0" * 400, "1" * 5000, "0x10"),
    *(
        "01",
        "+1",
        ".5",
        "'x'",
        "[1,]",
        '"\\ud800"',
        '"\\u0000"',
        '"\x01"',
        "nul",
        "",
        "1.5e",
        "--1",
    ),
)
_TEXTS = (
    *("", " ", "\0", "\n", "x\nerror: all is well", "\x1b[2K", "\u202e", "\ud7ff", "é", "e\u0301"),
    *(
        "💥",
        "\ufeff",
        "\U0010ffff",
        "a" * 100_000,
        "%s%n",
        "{}",
        "{0.__class__}",
        "$(id)",
        "__class__",
    ),
    *("../../x", "/etc/passwd", "/dev/zero", "C:\\x", "..", ".", "a/b", "model.safetensors/", "~"),
    *(
        "null",
        "true",
        "-1",
        "(a+)+$",
        "[",
        "\\",
        "(?<",
        "Roberta",
        "float64",
        "http://localhost:1/x",
    ),
)


def some(rng: Random) -> int:
    """How many changes: mostly one."""
    return rng.choice((1, 1, 1, 1, 2, 3, 5))


def edit_bytes(rng: Random, raw: bytes) -> tuple[bytes, str]:
    """Some bytes flipped, put in, taken out, copied from elsewhere, or the rest cut off."""
    content, said = bytearray(raw), []
    for _ in range(some(rng)):
        at = _position(rng, len(content))
        end = min(len(content), at + rng.choice((1, 1, 2, 4, 16, 256)))
        name = rng.choice(("flip", "flip", "set", "insert", "delete", "truncate", "splice", "zero"))
        match name:
            case "flip" if content:
                content[at] ^= 1 << rng.randrange(8)
            case "set" if content:
                content[at] = rng.choice((0, 0x7F, 0x80, 0xFF, 0x22, 0x7B, rng.randrange(256)))
            case "insert":
                content[at:at] = rng.randbytes(end - at + 1)
            case "delete":
                del content[at:end]
            case "truncate":
                del content[at:]
            case "splice":
                source = _position(rng, len(content))
                content[at:end] = content[source : source + rng.choice((1, 8, 64, 1024))]
            case "zero":
                content[at:end] = bytes(end - at)
        said.append(f"{name} at {at}")
    return bytes(content), ", ".join(said)


def edit_in_place(rng: Random, raw: bytes) -> tuple[bytes, str]:
    """Some bits or bytes changed, and not the size: what a disk, or a careful hand, does."""
    content, said = bytearray(raw), []
    for _ in range(some(rng) if raw else 0):
        at = rng.randrange(len(content))
        match rng.choice(("flip", "flip", "set", "zero", "swap")):
            case "flip":
                content[at] ^= 1 << rng.randrange(8)
            case "set":
                content[at] = rng.randrange(256)
            case "zero":
                end = min(len(content), at + rng.choice((1, 16, 4096)))
                content[at:end] = bytes(end - at)
            case "swap":
                other = rng.randrange(len(content))
                content[at], content[other] = content[other], content[at]
        said.append(f"bytes at {at}")
    return bytes(content), ", ".join(said)


def _position(rng: Random, size: int) -> int:
    """Beginnings and ends hold what readers look at first."""
    near = rng.choice((16, 256, 4096, size))
    at = rng.randrange(min(near, size) + 1)
    at = size - at if rng.random() < 0.2 else at
    return min(at, max(0, size - 1))


def any_value(rng: Random, depth: int = 3) -> Any:
    """Any JSON value."""
    makers: tuple[Callable[[], Any], ...] = (
        lambda: None,
        lambda: rng.random() < 0.5,
        lambda: rng.choice(_EXTREMES),
        lambda: rng.choice(_TEXTS),
        lambda: [any_value(rng, depth - 1) for _ in range(rng.randrange(3))] if depth else [],
        lambda: {rng.choice(_TEXTS): any_value(rng, depth - 1)} if depth else {},
    )
    return rng.choice(makers)()


def edit_json(rng: Random, raw: bytes) -> tuple[bytes, str]:
    """A JSON file with some of its values, keys or its order changed, written anew."""
    document: Any = json.loads(raw)
    literals: dict[str, str] = {}
    said = []
    for _ in range(some(rng)):
        if not isinstance(document, dict | list) or not document:
            break
        holder, key, way = _step_into(rng, document)
        name = rng.choice(sorted(_JSON_EDITS))
        _JSON_EDITS[name](rng, holder, key, document, literals)
        said.append(f"{name} {way}")
    text = json.dumps(document, ensure_ascii=rng.random() < 0.5)
    for marker, literal in literals.items():
        text = text.replace(json.dumps(marker), literal)
    return text.encode("utf-8", "surrogatepass"), ", ".join(said)


def _step_into(rng: Random, document: Any) -> tuple[Any, Any, str]:
    """Some place of the document: what holds it, its key there, and the way to it."""
    holder, way = document, ""
    while True:
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        # The first keys of thousands are as good as the last, and those few are special tokens.
        key = rng.choice(keys[:64] if rng.random() < 0.5 else keys)
        way += f"[{str(key)[:40]!r}]"
        inner = holder[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.25:
            return holder, key, way
        holder = inner


JsonEdit = Callable[[Random, Any, Any, Any, dict[str, str]], None]


def _replace(rng: Random, holder: Any, key: Any, document: Any, literals: dict[str, str]) -> None:
    holder[key] = any_value(rng)


def _literal(rng: Random, holder: Any, key: Any, document: Any, literals: dict[str, str]) -> None:
    marker = f"literal {len(literals)}"
    literals[marker] = rng.choice(_LITERALS)
    holder[key] = marker


def _drop(rng: Random, holder: Any, key: Any, document: Any, literals: dict[str, str]) -> None:
    del holder[key]


def _double(rng: Random, holder: Any, key: Any, document: Any, literals: dict[str, str]) -> None:
    """The same key twice, which JSON allows and readers settle differently; of a list an item."""
    if isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), holder[key])
        return
    marker = f"double {len(literals)}"
    literals[marker] = json.dumps(key)
    holder[marker] = any_value(rng) if rng.random() < 0.7 else holder[key]


def _rename(rng: Random, holder: Any, key: Any, document: Any, literals: dict[str, str]) -> None:
    if isinstance(holder, dict):
        other = rng.choice((*_TEXTS, str(key).upper(), f"{key} ", *map(str, document)))
        holder[other] = holder.pop(key)
    else:
        rng.shuffle(holder)


def _reorder(rng: Random, holder: Any, key: Any, document: Any, literals: dict[str, str]) -> None:
    if isinstance(holder, dict):
        items = list(holder.items())
        rng.shuffle(items)
        holder.clear()
        holder.update(items)
    else:
        holder.reverse()


def _nudge(rng: Random, holder: Any, key: Any, document: Any, literals: dict[str, str]) -> None:
    """A value of the same type: what a check of types lets pass."""
    value = holder[key]
    if isinstance(value, bool):
        holder[key] = not value
    elif isinstance(value, int):
        holder[key] = rng.choice((value + 1, value - 1, value * 2, -value, value // 2, 2**40))
    elif isinstance(value, float):
        holder[key] = rng.choice((value * 10, value / 10, -value, value * 1e30, 1e-300))
    elif isinstance(value, str):
        holder[key] = rng.choice((value[1:], value + value[-1:], value.upper(), *_TEXTS[:16]))
    elif isinstance(value, list):
        holder[key] = value[: rng.randrange(len(value) + 1)]
    else:
        holder[key] = [value]


def _nest(rng: Random, holder: Any, key: Any, document: Any, literals: dict[str, str]) -> None:
    """Deeper than readers that call themselves can go."""
    depth = rng.choice((10, 200, 1000, 5000, 100_000))
    opened, closed = rng.choice((("[", "]"), ('{"a":', "}")))
    marker = f"nested {len(literals)}"
    literals[marker] = opened * depth + "1" + closed * depth
    holder[key] = marker


def _swap(rng: Random, holder: Any, key: Any, document: Any, literals: dict[str, str]) -> None:
    """Another place's value, here."""
    other, name, _ = _step_into(rng, document)
    holder[key] = json.loads(json.dumps(other[name]))


_JSON_EDITS: dict[str, JsonEdit] = {
    "replace": _replace,
    "literal": _literal,
    "drop": _drop,
    "double": _double,
    "rename": _rename,
    "reorder": _reorder,
    "nudge": _nudge,
    "nest": _nest,
    "swap": _swap,
}


def edit_entry(rng: Random, path: Path) -> str:
    """Something else in a file's place: a folder, a FIFO, a link, nothing, a huge file."""
    raw = path.read_bytes()
    path.unlink()
    name = rng.choice(
        (
            "gone",
            "folder",
            "fifo",
            "socket",
            "empty",
            "huge",
            "dangling",
            "circle",
            "out",
            "zero",
            "moved",
            "case",
        )
    )
    match name:
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "socket":
            _socket(path)
        case "empty":
            path.touch()
        case "huge":
            with path.open("wb") as stream:
                stream.write(raw[: 1 << 16])
                stream.truncate(_SPARSE)
        case "dangling":
            path.symlink_to("nowhere")
        case "circle":
            path.symlink_to(path.name)
        case "out":
            path.symlink_to(rng.choice(("/etc/passwd", "/etc", "../../../../../etc/passwd")))
        case "zero":
            path.symlink_to(rng.choice(("/dev/zero", "/dev/stdin", "/dev/null", "/proc/self/mem")))
        case "moved":  # a link to the very bytes, elsewhere
            other = path.with_name(path.name + ".elsewhere")
            other.write_bytes(raw)
            path.symlink_to(other.name)
        case "case":
            path.with_name(path.name.swapcase()).write_bytes(raw)
    return f"{path.name} {name}"


def _socket(path: Path) -> None:
    """A path of a socket is at most 107 bytes long, so it is made from beside."""
    here = Path.cwd()
    with socket.socket(socket.AF_UNIX) as made:
        os.chdir(path.parent)
        try:
            made.bind(path.name)
        finally:
            os.chdir(here)
