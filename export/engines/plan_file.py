"""``plan.json`` of a bundle: what each of its engines executes, by the engine's file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from export.engines.plan import Plan
from runtimes.bundle_files import PLAN_FILE
from runtimes.choices import FileKind
from runtimes.errors import InputError
from runtimes.manifest import Manifest
from runtimes.typed_json import Plain, as_record, read_object

SCHEMA = 1
_HINT = "copy the bundle again or build it anew"
Plans = Mapping[str, tuple[Plan, ...]]  # by the engine's file, one for each of its profiles


@dataclass(frozen=True, kw_only=True)
class EnginePlans:
    """The plans of one engine, one for each of its profiles; ``path`` is its file in the bundle."""

    path: Plain
    profiles: Annotated[tuple[Plan, ...], Meta(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class PlanFile:
    """The contents of ``plan.json``."""

    schema: Annotated[int, Meta(ge=SCHEMA, le=SCHEMA)]
    engines: tuple[EnginePlans, ...]


def write_plans(folder: Path, plans: Plans) -> None:
    """Write ``plan.json`` into a bundle; nothing where no engine has a plan."""
    told = tuple(EnginePlans(path=path, profiles=own) for path, own in plans.items() if own)
    if not told:
        return
    record = PlanFile(schema=SCHEMA, engines=told)
    text = json.dumps(_plain(record), separators=(",", ":"), allow_nan=False)
    (folder / PLAN_FILE).write_text(text + "\n", encoding="utf-8")


def read_plans(path: Path) -> Plans:
    """A ``plan.json``; :class:`InputError` says what is wrong with it."""
    record = as_record(read_object(path), PlanFile, path, _HINT)
    return {engine.path: engine.profiles for engine in record.engines}


def bundle_plans(folder: Path, manifest: Manifest) -> Plans:
    """The plans of a bundle's engines; none where it was built before there were any.

    Raises :class:`InputError` where ``plan.json`` is not of these engines.
    """
    if all(entry.kind != FileKind.PLAN for entry in manifest.artifacts):
        return {}
    path = folder / manifest.artifact(FileKind.PLAN).path
    plans = read_plans(path)
    engines = [entry.path for entry in manifest.artifacts if entry.gpu is not None]
    if unknown := sorted(set(plans) - set(engines)):
        raise InputError(
            f"{path}: engines: got {unknown[0]}, expected some of {', '.join(engines)}; {_HINT}"
        )
    return plans


def _plain(value: object) -> Any:
    """Plain JSON types; what a record has by default is left out, a third of the file."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ((field, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {field.name: _plain(own) for field, own in fields if own != field.default}
    return [_plain(own) for own in value] if isinstance(value, tuple) else value
