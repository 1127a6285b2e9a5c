"""``calibration.json``: every GEMM's range, and what the ranges were computed from."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from calibration.observers import OBSERVERS
from calibration.profile import Profile
from calibration.quantise import MIN_SCALE
from runtimes.errors import AdaptrtError, InputError, shown
from runtimes.files import read_json, replacing
from runtimes.schemes import INT8, STORAGES, Storage
from runtimes.typed_json import as_record, unknown_keys

SCHEMA = 2
_KEYED = 1  # what keys are made of has not changed since then
UNOBSERVED = "none"
_FIELDS = {"schema", "key", "model_sha256", "task", "corpus", "settings", "tensors"}
# By schema; tables of before profiles are read too.
_READ = {1: _FIELDS, SCHEMA: _FIELDS | {"profile"}}
Setting = str | int | float | bool
_MOST = 1e30  # of any number; products of such overflow no FP64


@dataclass(frozen=True, kw_only=True)
class Trial:
    """``output_error`` (relative) and ``cosine`` (of the vectors) with one GEMM alone quantised.

    All that is measured of a GEMM whose weight alone is quantised.
    """

    output_error: float | None = None
    cosine: float | None = None

    def require_scale(self, storage: Storage) -> None:
        """Raise :class:`ValueError` unless what is recorded fits ``storage``."""
        if not all(_is_number(n) for n in (self.output_error, self.cosine)):
            raise ValueError("an error or a cosine is no number")


@dataclass(frozen=True, kw_only=True)
class Range(Trial):
    """What was seen of one GEMM's input, and the scale chosen from it.

    ``amplitude`` is where the stored type clips and ``scale`` = amplitude / its levels.
    ``channel_max`` holds the greatest magnitude of each of the K channels. ``alpha`` is
    SmoothQuant's exponent, 0 where it is off; amplitude and scale are those of the smoothed input.
    """

    observer: str
    amplitude: float
    scale: float
    histogram_digest: str
    channel_max: Sequence[float]
    alpha: float = 0.0

    def __post_init__(self) -> None:
        """Raises :class:`ValueError` for what no calibration gives."""
        if self.observer not in OBSERVERS:
            raise ValueError(f"observer {self.observer!r}, expected one of {', '.join(OBSERVERS)}")
        if not self.channel_max:
            raise ValueError("channel_max is empty")
        if not isinstance(self.histogram_digest, str):
            raise ValueError("histogram_digest is no text")
        numbers = (self.amplitude, self.scale, self.alpha, *self.channel_max)
        optional = (n for n in (self.output_error, self.cosine) if n is not None)
        if not all(_is_number(n) for n in (*numbers, *optional)) or min(numbers) < 0:
            raise ValueError("a number is not finite, negative, or no number")

    def require_scale(self, storage: Storage) -> None:
        """Raise :class:`ValueError` unless ``scale`` is what the amplitude gives in ``storage``."""
        amplitude, levels = self.amplitude, storage.levels
        if not math.isclose(self.scale, max(amplitude / levels, MIN_SCALE), rel_tol=1e-6):
            raise ValueError(f"scale {self.scale}, expected amplitude {amplitude} / {levels}")


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many texts there are of each task, language and length class."""

    task: Mapping[str, int]
    language: Mapping[str, int]
    length: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What the ranges were computed from."""

    sha256: str
    counts: Counts


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The ranges of one model's GEMMs for one task (or all of them, switchable).

    ``settings`` holds the ``observer`` and whatever else the ranges depend on. Where weights alone
    are quantised there are no ranges, and the observer is :data:`UNOBSERVED`. ``profile`` says
    what the corpus looks like; None in a table of schema 1.
    """

    model_sha256: str
    task: str
    corpus: Corpus
    settings: Mapping[str, Setting]
    tensors: Mapping[str, Trial]
    profile: Profile | None = None

    @property
    def key(self) -> str:
        """Hex SHA-256 of everything the ranges are computed from; equal keys, equal ranges."""
        parts = [_KEYED, self.model_sha256, self.task, asdict(self.corpus), self.settings]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def ranges(self) -> Mapping[str, Range]:
        """``tensors`` of a table that has ranges; :class:`InputError` where weights alone count."""
        found = {name: entry for name, entry in self.tensors.items() if isinstance(entry, Range)}
        if len(found) < len(self.tensors):
            raise InputError(
                f"calibration: that of {self.task} in {self.storage.name} has no ranges, since "
                "weights alone are quantised; expected one of INT8 or FP8"
            )
        return found

    @property
    def storage(self) -> Storage:
        """What the scales are for; :class:`InputError` for a type that no scheme stores."""
        name = self.settings.get("storage", INT8.dtype)
        if (storage := STORAGES.get(str(name))) is None:
            raise InputError(f"calibration: storage {shown(name)}, expected {', '.join(STORAGES)}")
        return storage


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write, a line per GEMM; a former file is replaced in one step or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as staged:
            staged.write_text("".join(_lines(calibration)), encoding="utf-8")
    except OSError as error:
        raise AdaptrtError(f"cannot write {path} ({error.strerror})") from error


def read_calibration(path: Path) -> Calibration:
    """Read what :func:`write_calibration` wrote.

    Raises :class:`InputError` for anything else: another version, missing or unknown fields,
    ranges that no observer gives, contents that differ from the recorded key.
    """
    raw = read_json(path)
    schema = raw.get("schema")
    if not isinstance(schema, int) or schema not in _READ:
        known = " or ".join(map(str, _READ))
        raise InputError(f"{path}: schema {shown(schema)}, expected {known}; {_AGAIN}")
    if different := _READ[schema] ^ raw.keys():
        raise InputError(f"{path}: missing or unknown: {shown(sorted(different))}; {_AGAIN}")
    if not isinstance(entries := raw["tensors"], dict):
        raise InputError(f"{path}: tensors: got {shown(entries)}, expected object; {_AGAIN}")
    calibration = as_record(raw | {"tensors": {}}, Calibration, path, _AGAIN)
    for name, kind in (("corpus", Corpus), ("profile", Profile)):
        if (unknown := next(unknown_keys(raw.get(name), kind), None)) is not None:
            raise InputError(f"{path}: {name}.{shown(unknown)}: unknown; {_AGAIN}")
    if not isinstance(calibration.settings.get("observer"), str):
        raise InputError(f"{path}: settings.observer: missing; {_AGAIN}")
    if calibration.key != raw["key"]:
        raise InputError(
            f"{path}: key {shown(raw['key'])}, expected {calibration.key}: changed; {_AGAIN}"
        )
    storage = calibration.storage
    return replace(
        calibration, tensors={k: _range(path, k, e, storage) for k, e in entries.items()}
    )


_AGAIN = "delete it and calibrate again"


def storage_setting(storage: Storage) -> dict[str, Setting]:
    """The type's entry of ``settings``; INT8, the only one that tables of before knew, has none."""
    if storage.block is not None:
        return {"storage": storage.name, "block": storage.block}
    return {} if storage == INT8 else {"storage": storage.name}


def _range(path: Path, name: str, entry: Any, storage: Storage) -> Trial:
    try:
        recorded: Trial = Trial(**entry) if storage.weight_only else Range(**entry)
        recorded.require_scale(storage)
        return recorded
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {shown(name)}: {shown(str(error))}; {_AGAIN}") from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) <= _MOST  # which NaN is not


def _lines(calibration: Calibration) -> Iterator[str]:
    head = {"schema": SCHEMA, "key": calibration.key, **asdict(calibration)}
    tensors, profile = head.pop("tensors"), json.dumps(head.pop("profile"))
    yield json.dumps(head, indent=1, ensure_ascii=False).removesuffix("\n}")
    yield f',\n "profile": {profile},\n "tensors": {{'
    for index, (name, entry) in enumerate(tensors.items()):
        yield f"{',' if index else ''}\n  {json.dumps(name)}: {json.dumps(entry)}"
    yield "\n }\n}\n"
