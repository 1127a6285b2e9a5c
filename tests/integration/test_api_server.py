"""``adaptrt api`` on loopback: every vector is the one that the embedder in process gives."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import numpy as np
import pytest

from adaptrt import Embedder, TruncationWarning
from runtimes.api import contract, page_files, problems
from runtimes.api.contract import ENCODINGS
from tests.api_support import ApiServer, api_server, until
from tests.support import Array, cosines

TASKS = (
    *("retrieval.query", "retrieval.passage", "separation", "classification"),
    *("text-matching", "base"),
)
TEXTS = ["ok", "Wo ist der Bahnhof?", "東京は雨です。", "The last train leaves at ten. " * 9]
LONG = "station " * 9000
SAME = 2e-6  # of a value; other company in a call moves the last digits


@pytest.fixture(scope="module")
def server(chunk_bundle: Path, small_bundle: Path) -> Iterator[ApiServer]:
    """Every task of one model, and one task of the same weights under a name of its own."""
    names = ("--model-name", "all", "--model-name", "one")
    with api_server([chunk_bundle, small_bundle], *names, "--max-tokens", 40_000) as running:
        yield running


@pytest.fixture(scope="module")
def direct(chunk_bundle: Path) -> Iterator[Embedder]:
    with Embedder.load(chunk_bundle) as embedder:
        yield embedder


def close(found: Any, expected: Array) -> None:
    np.testing.assert_allclose(np.array(found), expected, atol=SAME)


def test_vectors_are_the_embedders(server: ApiServer, direct: Embedder) -> None:
    for task in TASKS:
        close(server.vectors(model="all", input=TEXTS, task=task), direct.encode(TEXTS, task=task))
    close(server.vectors(model="all", input=TEXTS[1]), direct.encode(TEXTS[1:2], task="base"))


def test_another_task_gives_other_vectors(server: ApiServer, direct: Embedder) -> None:
    """Guards the test above, and the choice of a task when none is named."""
    others = direct.encode(TEXTS, task="retrieval.query")
    assert cosines(np.array(server.vectors(model="all", input=TEXTS)), others).max() < 0.999


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_vectors_in_every_encoding(server: ApiServer, direct: Embedder, encoding: str) -> None:
    output = ENCODINGS[encoding].output
    expected = direct.encode(TEXTS, task="separation", dimensions=32, output=output)
    found = server.vectors(
        model="all", input=TEXTS, task="separation", dimensions=32, embedding_type=encoding
    )
    if encoding == "base64":
        rows = [np.frombuffer(base64.b64decode(str(row)), "<f4") for row in found]
        close(rows, expected)
    elif output == "float32":
        close(found, expected)
    else:
        difference = np.abs(np.array(found, np.int64) - expected.astype(np.int64))
        assert (difference > 1).mean() == 0 if "int" in encoding else (difference > 0).mean() < 0.1
        assert np.array(found).min() >= np.iinfo(expected.dtype).min
        assert np.array(found).max() <= np.iinfo(expected.dtype).max


def test_floats_and_base64_are_the_same_bits(server: ApiServer) -> None:
    fields = {"model": "all", "input": TEXTS[0], "task": "separation"}
    (number,) = server.vectors(**fields)
    (text,) = server.vectors(**fields, encoding_format="base64")
    assert np.array(number, "<f4").tobytes() == base64.b64decode(str(text))


def test_any_length_is_a_unit_vector_and_an_untrained_one_warns(
    server: ApiServer, direct: Embedder
) -> None:
    full = direct.encode(TEXTS, task="separation")
    for width in (1, 7, 33, 64):
        answer = server.embed(model="all", input=TEXTS, task="separation", dimensions=width).json
        found = np.array([item["embedding"] for item in answer["data"]])
        cut = full[:, :width]
        close(found, cut / np.linalg.norm(cut, axis=1, keepdims=True))
        warned = [w for w in answer.get("warnings", []) if f"was not trained for {width}" in w]
        assert bool(warned) == (width not in direct.dimensions)
    raw = server.vectors(
        model="all", input=TEXTS, task="separation", dimensions=32, normalized=False
    )
    close(raw, full[:, :32])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dimensions": 65}, "dimensions: got 65, expected 1 to 64"),
        ({"dimensions": 7, "encoding_format": "binary"}, "multiple of 8"),
        ({"dimensions": 40, "encoding_format": "int8"}, "needs the range"),
        ({"normalized": False, "encoding_format": "int8"}, "made of vectors of length 1"),
        ({"input": ["a", ""]}, "input[1]: empty, expected at least one character"),
        ({"input": "a\0b"}, "input[0]: holds a NUL character"),
        ({"input": [16001, 2**30]}, "expected ids below 16000"),
        (
            {"input": LONG},
            "input[0]: 18003 tokens, all takes 8192; split the text, or send truncate",
        ),
        ({"task": "translation"}, "task: got 'translation', expected one of retrieval.query"),
        ({"window_overlap": 3}, "window_overlap: needs late_chunking"),
        ({"model": "one", "task": "base"}, "task: got 'base', expected one of separation"),
        ({"model": "one"}, "task: none given, which is base, expected one of separation"),
        ({"late_chunking": True, "input": [5, 6]}, "late_chunking: got token ids"),
        ({"late_chunking": True, "input": ["a", "  "]}, "holds no text"),
        ({"late_chunking": True, "input": LONG}, "18003 tokens in all, late chunking takes 8192"),
    ],
)
def test_what_cannot_be_embedded_is_said_in_words(
    server: ApiServer, fields: dict[str, Any], words: str
) -> None:
    answer = server.embed(**{"model": "all", "input": "x"} | fields)
    assert answer.status == 400, answer.body
    assert words in answer.json["error"]["message"]
    assert answer.json["detail"] == answer.json["error"]["message"]


def test_other_models_are_not_found(server: ApiServer) -> None:
    answer = server.embed(model="text-embedding-3-small", input="x")
    assert answer.status == 404
    assert answer.json["error"]["code"] == "model_not_found"
    assert server.vectors(model="somebody/one", input="x", task="separation")


@pytest.mark.parametrize("task", ["retrieval.query", "separation"])
def test_token_ids_are_texts(server: ApiServer, direct: Embedder, task: str) -> None:
    """With and without begin and end; the task's instruction is put before them."""
    expected = direct.encode(TEXTS[1:], task=task)
    rows = [row.tolist() for row in direct.tokenizer.tokenize(TEXTS[1:])]
    close(server.vectors(model="all", input=rows, task=task), expected)
    bare = [row[1:-1] for row in rows]
    close(server.vectors(model="all", input=bare, task=task), expected)
    answer = server.embed(model="all", input=bare[0], task=task).json
    close(answer["data"][0]["embedding"], expected[0])
    assert answer["warnings"] == ["input: read as token ids of all's own tokenizer"]


def test_usage_counts_what_was_embedded(server: ApiServer, direct: Embedder) -> None:
    for task in ("separation", "retrieval.query"):
        prefix = direct.manifest.prefixes[task]
        counts = [len(r) for r in direct.tokenizer.tokenize([prefix + t for t in TEXTS])]
        answer = server.embed(model="all", input=TEXTS, task=task, return_tokens=True).json
        assert answer["usage"] == {"prompt_tokens": sum(counts), "total_tokens": sum(counts)}
        assert [item["tokens"] for item in answer["data"]] == counts
        assert [item["index"] for item in answer["data"]] == list(range(len(TEXTS)))
    assert "tokens" not in server.embed(model="all", input="x").json["data"][0]


def test_truncation_is_asked_for_and_reported(server: ApiServer, direct: Embedder) -> None:
    answer = server.embed(model="all", input=["x", LONG], task="base", truncate=True).json
    with pytest.warns(TruncationWarning):
        expected = direct.encode(["x", LONG], task="base")
    close([item["embedding"] for item in answer["data"]], expected)
    assert answer["truncated"] == [1]
    assert answer["usage"]["prompt_tokens"] == 8192 + 3
    assert "truncated" not in server.embed(model="all", input="x", truncate=True).json


def test_late_chunking_is_the_embedders(server: ApiServer, direct: Embedder) -> None:
    parts = ["Ada lives in Bergen.", "She likes the rain there.", "Her brother does not."]
    answer = server.embed(
        model="all", input=parts, task="separation", late_chunking=True, return_tokens=True
    ).json
    ends = np.cumsum([len(p) + 1 for p in parts])
    spans = [(int(e) - len(p) - 1, int(e) - 1) for p, e in zip(parts, ends, strict=True)]
    late = direct.encode_chunks(" ".join(parts), spans, task="separation")
    close([item["embedding"] for item in answer["data"]], late.vectors)
    bounds = [item["span"] for item in answer["data"]]
    assert bounds[0][0] == 0
    assert [b for b, _ in bounds[1:]] == [e for _, e in bounds[:-1]]
    assert bounds[-1][1] == answer["usage"]["prompt_tokens"] == late.windows[0].tokens
    assert [item["tokens"] for item in answer["data"]] == [e - b for b, e in bounds]
    alone = direct.encode(parts, task="separation")
    assert np.abs(alone - late.vectors).max() > 1e-3  # another thing than each by itself


def test_a_document_beyond_the_model_needs_windows(server: ApiServer, direct: Embedder) -> None:
    parts = [f"Part {i} is about {word}. " * 80 for i, word in enumerate(("rain", "sun", "wind"))]
    parts = parts * 5
    fields = {"model": "all", "input": parts, "task": "separation", "late_chunking": True}
    refused = server.embed(**fields)
    assert (refused.status, refused.json["error"]["code"]) == (400, "context_length_exceeded")
    answer = server.embed(**fields, window_overlap=100).json
    ends = np.cumsum([len(p) + 1 for p in parts])
    spans = [(int(e) - len(p) - 1, int(e) - 1) for p, e in zip(parts, ends, strict=True)]
    late = direct.encode_chunks(" ".join(parts), spans, task="separation", overlap=100)
    assert len(late.windows) > 1
    close([item["embedding"] for item in answer["data"]], late.vectors)
    assert f"in {len(late.windows)} windows" in answer["warnings"][0]


def test_nothing_is_swapped_among_requests_at_the_same_time(
    server: ApiServer, direct: Embedder
) -> None:
    rng = np.random.default_rng(0)
    lists = [
        [" ".join(f"w{n}" for n in rng.integers(0, 900, rng.choice([3, 9, 80, 400])))] * 2
        + [f"text {i}"]
        for i in range(60)
    ]
    tasks = [TASKS[i % len(TASKS)] for i in range(len(lists))]

    def ask(texts: list[str], task: str) -> list[list[float]]:
        return server.vectors(model="all", input=texts, task=task)

    with ThreadPoolExecutor(12) as pool:
        found = pool.map(ask, lists, tasks)
    for texts, task, vectors in zip(lists, tasks, found, strict=True):
        close(vectors, direct.encode(texts, task=task))


def test_models_are_listed(server: ApiServer, direct: Embedder) -> None:
    listed = server.ask("GET", "/v1/models").json
    every, one = msgspec.convert(listed, contract.ModelList).data
    assert (every.id, one.id) == ("all", "one")
    assert set(every.tasks) == set(TASKS)
    assert one.tasks == ["separation"]
    assert (every.late_chunking, one.late_chunking) == (True, False)
    assert tuple(every.dimensions) == direct.dimensions
    assert every.max_tokens == direct.manifest.max_tokens


def test_answers_are_of_the_types_that_the_schema_shows(server: ApiServer) -> None:
    """And the examples of the document are answered."""
    document = server.ask("GET", "/openapi.json").json
    schemas = document["components"]["schemas"]

    def check(value: Any, name: str) -> None:
        jsonschema.validate(value, {"$ref": f"#/components/schemas/{name}", **document})

    check(server.ask("GET", "/v1/models").json, "ModelList")
    post = document["paths"]["/v1/embeddings"]["post"]
    examples = post["requestBody"]["content"]["application/json"]["examples"]
    assert {"text", "texts", "late_chunking"} <= set(examples)
    for example in examples.values():
        check(example["value"], "EmbeddingRequest")
        answer = server.ask("POST", "/v1/embeddings", example["value"])
        check(answer.json, "EmbeddingAnswer")
        msgspec.json.decode(answer.body, type=contract.EmbeddingAnswer, strict=True)
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/json"
    shown = schemas["EmbeddingRequest"]["properties"].keys()
    assert shown == set(contract.EmbeddingRequest.__struct_fields__)
    refused = server.ask("POST", "/v1/embeddings", b"{")
    check(refused.json, "ProblemAnswer")
    msgspec.json.decode(refused.body, type=problems.ProblemAnswer, strict=True)
    assert str(refused.status) in post["responses"]
    wrongs: list[dict[str, Any]] = [{"input": []}, {"input": "x", "dimensions": 0}, {}]
    for wrong in [*wrongs, {"input": "x", "more": 1}]:
        with pytest.raises(jsonschema.ValidationError):
            check(wrong, "EmbeddingRequest")
        assert server.ask("POST", "/v1/embeddings", wrong).status == 400


def test_paths_and_methods_that_are_not_there(server: ApiServer) -> None:
    assert server.ask("GET", "/nowhere").status == 404
    answer = server.ask("GET", "/v1/embeddings")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert answer.json["error"]["code"] == "method_not_allowed"


def test_the_page_comes_with_rules_for_the_browser(server: ApiServer) -> None:
    for path, (content, media_type) in page_files.page_files().items():
        answer = server.ask("GET", path)
        assert (answer.status, answer.body) == (200, content)
        assert answer.headers["content-type"] == media_type
        assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert server.ask("GET", "/__init__.py").status == 404


def test_health_and_metrics(server: ApiServer) -> None:
    before = server.metric('adaptrt_texts_total{model="one",task="separation"}')
    server.vectors(model="one", input=["a", "b"], task="separation")
    assert server.metric('adaptrt_texts_total{model="one",task="separation"}') == before + 2
    assert server.metric("adaptrt_ready") == 1
    assert server.metric("adaptrt_queue_texts") == 0
    assert server.metric("adaptrt_requests_in_flight") == 0
    assert server.ask("GET", "/health/live").status == 200
    assert server.ask("GET", "/health/ready").json == {"status": "ready"}


def test_the_log_has_a_line_for_each_request_and_no_text(server: ApiServer) -> None:
    secret = "xylophone quartz"
    server.ask(
        "POST",
        "/v1/embeddings",
        {"model": "all", "input": secret, "user": secret},
        {"x-request-id": "mine-1"},
    )
    server.ask("POST", "/v1/embeddings", {"input": [secret, None]}, {"x-request-id": "a b"})
    server.ask("POST", "/v1/embeddings", b'{"input": "xylophone', {"x-request-id": "mine-2"})
    until(lambda: any(line["id"] == "mine-2" for line in server.access()))
    lines = {line["id"]: line for line in server.access()}
    line = lines["mine-1"]
    assert (line["status"], line["model"], line["task"], line["texts"]) == (200, "all", "base", 1)
    assert line["tokens"] > 2
    assert line["ms"] > 0
    assert (lines["mine-2"]["status"], lines["mine-2"]["code"]) == (400, "invalid_json")
    assert "a b" not in lines
    assert "xylophone" not in "\n".join(server.log)


def test_every_answer_says_its_number_and_time(server: ApiServer) -> None:
    answer = server.embed(model="all", input="x")
    assert float(answer.headers["x-adaptrt-ms"]) > 0
    assert json.dumps(answer.headers["x-request-id"])
