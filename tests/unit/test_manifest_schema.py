"""``docs/manifest.schema.json``: what is published is what the records say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runtimes.bundle_files import MANIFEST_FILE
from runtimes.choices import Choice
from runtimes.manifest import SCHEMA_MINOR, Manifest
from runtimes.manifest_schema import manifest_schema
from runtimes.manifest_upgrade import upgraded
from runtimes.typed_json import unknown_keys
from tests.support import make_manifest

PUBLISHED = Path(__file__).parents[2] / "docs" / "manifest.schema.json"
BEFORE = Path(__file__).parents[1] / "data" / "bundles-before"


def schema() -> Any:
    return json.loads(manifest_schema())


def test_published_schema_is_the_records() -> None:
    """``python -m runtimes.manifest_schema > docs/manifest.schema.json`` where it is not."""
    assert PUBLISHED.read_text(encoding="utf-8") == manifest_schema()


def test_patterns_are_those_of_json_schema() -> None:
    patterns = re.findall(r'"pattern": "(.*)"', manifest_schema())
    assert patterns
    assert not [p for p in patterns if "\\\\Z" in p or not p.endswith("$")]


def test_every_entry_is_described() -> None:
    """A reference for every record; the values of every choice."""
    records = schema()["$defs"]
    raw = json.loads(json.dumps(make_manifest().to_json()))
    assert raw.keys() == records["Manifest"]["properties"].keys()
    for key, name in (("model", "Model"), ("target", "BuiltFor"), ("parity", "Parity")):
        assert raw[key].keys() == records[name]["properties"].keys()
    for choice in Choice.__subclasses__():
        if choice.__name__ in records:
            assert sorted(records[choice.__name__]["enum"]) == sorted(choice)
    assert "parity" in records["Manifest"]["required"]


@pytest.mark.parametrize("bundle", sorted(BEFORE.iterdir()), ids=lambda path: path.name)
def test_manifest_of_before_is_one_of_now_after_its_upgrade(bundle: Path) -> None:
    raw = upgraded(json.loads((bundle / MANIFEST_FILE).read_text()))
    assert raw["schema_minor"] in range(SCHEMA_MINOR)
    assert list(unknown_keys(raw, Manifest)) == []
    assert msgspec.convert(raw, Manifest).parity is not None


def test_real_manifest_is_one(small_bundle: Path) -> None:
    raw = json.loads((small_bundle / MANIFEST_FILE).read_text())
    assert list(unknown_keys(raw, Manifest)) == []
    assert raw.keys() == schema()["$defs"]["Manifest"]["properties"].keys()
    msgspec.convert(raw, Manifest)
