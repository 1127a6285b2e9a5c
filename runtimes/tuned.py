"""What ``adaptrt tune`` chose: an executor and threads for a bundle on this machine.

The choices lie in one file of the user's, never in a bundle: ``ADAPTRT_TUNE_FILE``, or
``adaptrt/tune.json`` where configurations are kept (``XDG_CONFIG_HOME``, else ``~/.config``). An
entry is for a manifest's bytes on a CPU of one model with so many cores.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from runtimes.bundle_files import MANIFEST_FILE
from runtimes.cpu_kinds import Cpu
from runtimes.errors import InputError
from runtimes.files import replacing, sha256
from runtimes.typed_json import Plain, as_record, read_object, unknown_keys

VARIABLE = "ADAPTRT_TUNE_FILE"
SCHEMA = 1
_HINT = "correct it, or remove the file and run adaptrt tune again"
_Positive = Annotated[float, Meta(gt=0)]
_Count = Annotated[int, Meta(ge=1, le=1 << 20)]


@dataclass(frozen=True, kw_only=True)
class Key:
    """A bundle, by its manifest's SHA-256, on a machine."""

    bundle: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    cpu: Plain
    cores: _Count

    @classmethod
    def of(cls, folder: Path, cpu: Cpu) -> Key:
        """Of the bundle in ``folder`` on the machine with this CPU."""
        model = "".join(c for c in cpu.model if " " <= c <= "~")[:200]
        return cls(bundle=sha256(folder / MANIFEST_FILE), cpu=model, cores=cpu.cores)


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The executor's name, its threads (None: one per core), and what it was measured at."""

    runtime: Plain
    threads: _Count | None = None
    texts_per_second: _Positive


@dataclass(frozen=True, kw_only=True)
class _Entry:
    key: Key
    choice: Tuned


@dataclass(frozen=True, kw_only=True)
class _File:
    schema: Annotated[int, Meta(ge=SCHEMA, le=SCHEMA)]
    entries: tuple[_Entry, ...] = ()


def tune_file(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Where the choices are kept; None where the environment names no place."""
    if named := environ.get(VARIABLE):
        return Path(named)
    configurations = environ.get("XDG_CONFIG_HOME", "")
    if Path(configurations).is_absolute():  # others are to be ignored, says its specification
        return Path(configurations) / "adaptrt" / "tune.json"
    home = environ.get("HOME")
    return Path(home) / ".config" / "adaptrt" / "tune.json" if home else None


def require_tune_file() -> Path:
    """:func:`tune_file`; :class:`InputError` where there is none to write to."""
    if (path := tune_file()) is None:
        raise InputError(
            f"there is no place for what is chosen: HOME is not set; set it, or name a file in "
            f"{VARIABLE}"
        )
    return path


def read_choice(folder: Path, cpu: Cpu) -> Tuned | None:
    """What was chosen for the bundle in ``folder`` on this machine; None where nothing was.

    Raises :class:`InputError` for a file that is not as :func:`write_choice` leaves it.
    """
    path = tune_file()
    if path is None or not os.path.lexists(path):
        return None
    entries = _read(path).entries
    if not entries:
        return None
    key = Key.of(folder, cpu)
    return next((entry.choice for entry in entries if entry.key == key), None)


def write_choice(path: Path, key: Key, choice: Tuned | None) -> bool:
    """Keep ``choice``, or with None nothing, for ``key``; whether something was there before."""
    file = _read(path) if os.path.lexists(path) else _File(schema=SCHEMA)
    others = tuple(entry for entry in file.entries if entry.key != key)
    added = () if choice is None else (_Entry(key=key, choice=choice),)
    found = len(others) < len(file.entries)
    if added or found:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as staged:
            text = json.dumps(asdict(replace(file, entries=others + added)), indent=2)
            staged.write_text(f"{text}\n", encoding="utf-8")
    return found


def _read(path: Path) -> _File:
    raw = read_object(path, _HINT)
    file = as_record(raw, _File, path, _HINT)
    for key in unknown_keys(raw, _File):
        raise InputError(f"{path}: {key}: no such entry; {_HINT}")
    return file
