"""The JSON Schema of ``manifest.json``, made from its records.

``python -m runtimes.manifest_schema > docs/manifest.schema.json`` writes the published copy.
"""

from __future__ import annotations

import inspect
import json

import msgspec

from runtimes.manifest_records import SCHEMA, Manifest

Json = dict[str, "Json"] | list["Json"] | str | float | bool | None


def manifest_schema() -> str:
    """JSON Schema (draft 2020-12) of a published bundle's manifest, as text.

    It holds types and ranges; :mod:`runtimes.manifest_rules` checks what holds between entries.
    """
    schema = msgspec.json.schema(Manifest)
    manifest = schema["$defs"]["Manifest"]
    manifest["properties"]["schema"] = {"const": SCHEMA}
    # The record allows a draft without it; what is published has been compared.
    manifest["properties"]["parity"] = {"$ref": "#/$defs/Parity"}
    manifest["required"].append("parity")
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(_portable(head | schema), indent=2, ensure_ascii=False) + "\n"


def _portable(value: Json) -> Json:
    """Python's ``\\Z`` is ``$`` in the schema's patterns; docstrings lose their indent."""
    if isinstance(value, dict):
        return {key: _text(key, inner) or _portable(inner) for key, inner in value.items()}
    return [_portable(inner) for inner in value] if isinstance(value, list) else value


def _text(key: str, value: Json) -> str | None:
    if not isinstance(value, str):
        return None
    if key == "pattern":
        return value.replace(r"\Z", "$")
    return inspect.cleandoc(value) if key == "description" else None


if __name__ == "__main__":
    print(manifest_schema(), end="")
