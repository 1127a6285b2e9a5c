"""What can be set about a served repository: one small TOML file, every entry optional."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from runtimes.choices import Choice
from runtimes.errors import InputError, one_line, shown
from runtimes.files import MAX_CONFIG_BYTES, read_small
from runtimes.text.tokens import MAX_BYTES

_LIMITS = {"instances": (1, 64), "versions": (1, 100), "max_bytes": (1, 2**31 - 1)}


class Batching(Choice):
    """When an encoder joins texts of several requests."""

    GPU = "gpu"  # where it runs on one
    ALWAYS = "always"
    NEVER = "never"


class Allocation(Choice):
    """When TensorRT takes the memory of a profile, as Triton's backend names it."""

    ON_PROFILE_CHANGE = "ON_PROFILE_CHANGE"
    STATIC = "STATIC"


@dataclass(frozen=True, kw_only=True)
class _Section:
    """A table of whole numbers, flags, names and lists of numbers."""

    @classmethod
    def parse(cls, name: str, table: Any) -> Self:
        """Refuse what is unknown or of another type."""
        if not isinstance(table, dict):
            raise InputError(f"SETTINGS: {name}: got {shown(table)}, expected a table [{name}]")
        known = {f.name: f.default for f in fields(cls)}
        for key, value in table.items():
            if key not in known:
                names = ", ".join(known)
                raise InputError(
                    f"SETTINGS: [{name}] {one_line(key)}: unknown, expected one of {names}"
                )
            _check(f"SETTINGS: [{name}] {key}", key, value, known[key])
        return cls(**{key: _typed(value, known[key]) for key, value in table.items()})


@dataclass(frozen=True, kw_only=True)
class Front(_Section):
    """``embed``: each instance is a process that holds one request while encoders work."""

    instances: int = 4
    cache: bool = False  # needs the server's --cache-config
    max_bytes: int = MAX_BYTES  # of one text in UTF-8; a request's texts: 16 times as much


@dataclass(frozen=True, kw_only=True)
class Tokenize(_Section):
    """``tokenize``: each instance is a process with the tokenizer in memory."""

    instances: int = 1


@dataclass(frozen=True, kw_only=True)
class EncoderSettings(_Section):
    """The encoders."""

    instances: int = 1  # per GPU, or in all on a CPU
    gpus: tuple[int, ...] = ()  # all there are
    threads: int = 0  # of a Python encoder; 0: one per core
    batching: Batching = Batching.GPU
    queue_delay_us: int = 0
    queue_size: int = 1024  # requests; 0: no limit
    queue_timeout_ms: int = 60000
    warmup_tokens: tuple[int, ...] = (16, 256)
    allocation: Allocation = Allocation.ON_PROFILE_CHANGE


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything :mod:`export.triton.configs` lets one choose."""

    embed: Front = field(default_factory=Front)
    tokenize: Tokenize = field(default_factory=Tokenize)
    encoder: EncoderSettings = field(default_factory=EncoderSettings)
    versions: int = 1  # how many of the newest version folders are served


_SECTIONS: dict[str, type[_Section]] = {
    "embed": Front,
    "tokenize": Tokenize,
    "encoder": EncoderSettings,
}


def read_settings(path: Path | None) -> Settings:
    """The settings in a TOML file; the defaults without one."""
    if path is None:
        return Settings()
    try:
        raw = tomllib.loads(read_small(path, MAX_CONFIG_BYTES).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"SETTINGS: {path}: not valid TOML ({error})") from error
    known = [*_SECTIONS, "versions"]
    if unknown := sorted(set(raw) - set(known)):
        raise InputError(
            f"SETTINGS: {one_line(unknown[0])}: unknown, expected one of {', '.join(known)}"
        )
    versions = raw.pop("versions", Settings().versions)
    _check("SETTINGS: versions", "versions", versions, 1)
    sections: Any = {name: _SECTIONS[name].parse(name, table) for name, table in raw.items()}
    return Settings(**sections, versions=versions)


def _typed(value: Any, default: Any) -> Any:
    """A value of TOML, checked before, in its default's type."""
    return type(default)(value) if isinstance(default, (Choice, tuple)) else value


def _check(where: str, key: str, value: Any, default: Any) -> None:
    if isinstance(default, Choice):
        known = [member.value for member in type(default)]
        if value not in known:
            raise InputError(f"{where}: got {shown(value)}, expected {' or '.join(known)}")
    elif isinstance(default, tuple):
        if not isinstance(value, list) or not all(type(x) is int and x >= 0 for x in value):
            raise InputError(f"{where}: got {shown(value)}, expected a list of whole numbers")
    elif type(value) is not type(default):
        raise InputError(f"{where}: got {shown(value)}, expected {type(default).__name__}")
    elif type(value) is int:
        low, high = _LIMITS.get(key, (0, 2**31 - 1))
        if not low <= value <= high:
            raise InputError(f"{where}: got {value}, expected {low} to {high}")
