"""``/openapi.json``: made of the types that requests are read with and answers are written with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from runtimes.api import problems
from runtimes.api.catalogue import Catalogue
from runtimes.api.contract import ENCODINGS, EmbeddingAnswer, EmbeddingRequest, ModelList
from runtimes.api.problems import ProblemAnswer

_TYPES = (EmbeddingRequest, EmbeddingAnswer, ModelList, ProblemAnswer)
Json = dict[str, Any]
_STATUSES: Mapping[int, str] = {
    400: "The request cannot be embedded as it is; `error.param` names the field.",
    401: "The key is missing or wrong.",
    404: "No such model.",
    408: "The body took too long to come.",
    413: "More texts, tokens or bytes than one request may have.",
    415: "A compressed body.",
    429: "Too much waits already; `Retry-After` says when to come again.",
    500: "The encoder failed.",
    503: "The server ends, or a worker was lost; `Retry-After` says when to come again.",
    504: "Not embedded within the server's deadline.",
}


def describe(catalogue: Catalogue, version: str, *, keys: bool) -> Json:
    """The document, with examples that this server answers."""
    model = catalogue.models[0]
    card = catalogue.cards().data[0]
    _, components = msgspec.json.schema_components(
        _TYPES, ref_template="#/components/schemas/{name}"
    )
    document: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "adaptrt",
            "version": version,
            "description": "Embeddings in the interface of Jina's and OpenAI's HTTP APIs.",
        },
        "paths": {
            "/v1/embeddings": {"post": _embeddings(_examples(model, card.tasks, card))},
            "/v1/models": {"get": _get("listModels", "The models served", "ModelList")},
            "/health/live": {"get": _plain("live", "Whether the process runs")},
            "/health/ready": {"get": _plain("ready", "Whether requests are answered", 503)},
            "/metrics": {"get": _plain("metrics", "Prometheus' metrics")},
        },
        "components": {"schemas": components},
    }
    if keys:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["paths"]["/v1/embeddings"]["post"]["security"] = [{"key": []}]
        document["paths"]["/v1/models"]["get"]["security"] = [{"key": []}]
    return document


def _examples(model: str, tasks: list[str], card: Any) -> Json:
    task = tasks[0]
    two = ["Where is the station?", "Wo ist der Bahnhof?"]
    found: Json = {
        "text": {"model": model, "task": task, "input": two[0]},
        "texts": {"model": model, "task": task, "input": two},
        "short": {"model": model, "task": task, "input": two, "dimensions": card.dimensions[0]},
        "base64": {"model": model, "task": task, "input": two, "encoding_format": "base64"},
        "objects": {"model": model, "task": task, "input": [{"text": two[0]}]},
    }
    if card.late_chunking:
        found["late_chunking"] = {
            "model": model,
            "task": task,
            "late_chunking": True,
            "input": ["The station is old.", "It has two platforms."],
        }
    return {name: {"value": value} for name, value in found.items()}


def _embeddings(examples: Json) -> Json:
    answers: Json = {"200": _json("The vectors, in the order of `input`", "EmbeddingAnswer")}
    for status, text in _STATUSES.items():
        answers[str(status)] = _json(text, "ProblemAnswer")
    for kind in problems.KINDS:
        if str(kind.status) in answers:
            answers[str(kind.status)].setdefault("x-codes", []).append(kind.code)
    return {
        "operationId": "createEmbeddings",
        "summary": "Vectors of texts",
        "description": f"Vectors are written as {', '.join(ENCODINGS)}.",
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/EmbeddingRequest"},
                    "examples": examples,
                }
            },
        },
        "responses": answers,
    }


def _get(name: str, summary: str, schema: str) -> Json:
    return {"operationId": name, "summary": summary, "responses": {"200": _json(summary, schema)}}


def _plain(name: str, summary: str, other: int | None = None) -> Json:
    answers = {"200": {"description": summary}}
    if other is not None:
        answers[str(other)] = {"description": "Not now"}
    return {"operationId": name, "summary": summary, "responses": answers}


def _json(text: str, schema: str) -> Json:
    reference = {"$ref": f"#/components/schemas/{schema}"}
    return {"description": text, "content": {"application/json": {"schema": reference}}}
