"""Manifests of earlier minor schemas in the present one's words."""

from __future__ import annotations

from runtimes.typed_json import JsonObject

_RENAMED = {"int8": "quantised", "int8_share": "share"}


def upgraded(raw: JsonObject) -> JsonObject:
    """``raw``, a manifest's JSON of any kind, with the keys of the present minor schema.

    Up to minor schema 1, INT8 was the only scheme that quantised: its entries were named for it.
    """
    minor, quantisation = raw.get("schema_minor", 0), raw.get("quantisation")
    if minor not in (0, 1) or not isinstance(quantisation, dict):
        return raw
    renamed = {_RENAMED.get(key, key): value for key, value in quantisation.items()}
    return raw | {"quantisation": {"scheme": "int8"} | renamed}
