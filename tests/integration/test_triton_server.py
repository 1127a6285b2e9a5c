"""A real Triton server: over HTTP and gRPC, every vector is the one computed in process."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from adaptrt import (
    AdaptrtError,
    Embedder,
    IndexMismatchError,
    InputError,
    TritonEmbedder,
    TruncationWarning,
)
from tests.api_support import api_server
from tests.index_support import write_index
from tests.support import Array, cosines, run_cli
from tests.triton_support import Served, words

TASKS = (
    "retrieval.query",
    "retrieval.passage",
    "separation",
    "classification",
    "text-matching",
    "base",
)
TEXTS = ["ok", "Wo ist der Bahnhof?", "東京は雨です。", "The last train leaves at ten. " * 9]
SAME = 0.999999
PAGE = Path(__file__).parents[2] / "docs" / "tasks" / "triton.md"
both = pytest.mark.parametrize("protocol", ["http", "grpc"])
Encode = Callable[..., Array]


@pytest.fixture(scope="module")
def direct(query_bundle: Path, small_bundle: Path, chunk_bundle: Path) -> Iterator[Encode]:
    """In process: a merged bundle's own embedder where there is one, else the switchable one."""
    merged = {
        "retrieval.query": Embedder.load(query_bundle),
        "separation": Embedder.load(small_bundle),
    }
    with Embedder.load(chunk_bundle) as switchable:
        yield lambda texts, task, **options: merged.get(task, switchable).encode(
            texts, task=task, **options
        )
    for embedder in merged.values():
        embedder.close()


@pytest.fixture(scope="module")
def chunked(chunk_bundle: Path) -> Iterator[Embedder]:
    with Embedder.load(chunk_bundle) as embedder:
        yield embedder


def text_of(tokens: int, task_prefix: str, embedder: Embedder) -> str:
    """A text that has exactly so many tokens behind the prefix, special ones included."""
    tokenizer = embedder.tokenizer
    short = len(tokenizer.tokenize([task_prefix + "a"])[0])
    text = "a" + " a" * max(0, tokens - short)
    ids = tokenizer.tokenize([task_prefix + text])[0]
    assert len(ids) == max(tokens, short)
    return text


@both
@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_served(triton: Served, direct: Encode, protocol: str, task: str) -> None:
    with TritonEmbedder(triton.url(protocol)) as client:
        assert cosines(client.encode(TEXTS, task=task), direct(TEXTS, task)).min() >= SAME


def test_the_threshold_tells_texts_and_tasks_apart(triton: Served, direct: Encode) -> None:
    """Guards the tests of this file."""
    assert cosines(direct(TEXTS[:1], "base"), direct(TEXTS[1:2], "base"))[0] < SAME
    assert cosines(direct(TEXTS, "base"), direct(TEXTS, "separation")).max() < SAME


@both
def test_mixed_tasks_in_one_request(triton: Served, direct: Encode, protocol: str) -> None:
    tasks = [TASKS[i % len(TASKS)] for i in range(24)]
    texts = [TEXTS[i % len(TEXTS)] for i in range(24)]
    with TritonEmbedder(triton.url(protocol), batch_size=10) as client:
        vectors = client.encode(texts, task=tasks)
    expected = np.concatenate([direct([t], k) for t, k in zip(texts, tasks, strict=True)])
    assert cosines(vectors, expected).min() >= SAME


@both
def test_dimensions_and_prefix(triton: Served, direct: Encode, protocol: str) -> None:
    with TritonEmbedder(triton.url(protocol)) as client:
        assert client.dimensions == (32, 64)
        assert set(client.tasks) == set(TASKS)
        for options in ({"dimensions": 32}, {"dimensions": 64}, {"prefix": False}):
            vectors = client.encode(TEXTS, task="retrieval.query", **options)
            expected = direct(TEXTS, "retrieval.query", **options)
            assert vectors.shape == expected.shape
            assert cosines(vectors, expected).min() >= SAME
        bare = client.encode(TEXTS, task="retrieval.query", prefix=False)
        assert cosines(bare, direct(TEXTS, "retrieval.query")).max() < SAME
        assert client.encode([], task="base").shape == (0, 64)


@both
def test_lengths_from_one_token_to_8192(
    triton: Served, direct: Encode, chunked: Embedder, protocol: str
) -> None:
    texts = [text_of(n, "", chunked) for n in (3, 4, 17, 100, 511, 2049, 8192)]
    with TritonEmbedder(triton.url(protocol)) as client:
        assert cosines(client.encode(texts, task="base"), direct(texts, "base")).min() >= SAME


def test_200_requests_of_8_clients_with_bad_ones_among_them(
    triton: Served, direct: Encode, chunked: Embedder
) -> None:
    rng = np.random.default_rng(0)
    plan = []
    for number in range(200):
        lengths = rng.integers(3, 400, rng.integers(1, 9))
        texts = [text_of(int(n), "", chunked) for n in lengths]
        plan.append((texts, "nope" if number % 10 == 9 else TASKS[number % len(TASKS)]))

    def work(worker: int) -> list[tuple[int, Array | str]]:
        found: list[tuple[int, Array | str]] = []
        with TritonEmbedder(triton.url(("http", "grpc")[worker % 2])) as client:
            for number in range(worker, len(plan), 8):
                texts, task = plan[number]
                try:
                    found.append((number, client.encode(texts, task=task)))
                except InputError as error:
                    found.append((number, str(error)))
        return found

    with ThreadPoolExecutor(8) as pool:
        answers = dict(pair for part in pool.map(work, range(8)) for pair in part)
    assert len(answers) == 200
    refused = {n: a for n, a in answers.items() if isinstance(a, str)}
    assert sorted(refused) == list(range(9, 200, 10))
    assert all("TASK: got 'nope'" in message for message in refused.values())
    for task in TASKS:
        mine = [n for n in range(200) if plan[n][1] == task and n not in refused]
        expected = direct([text for n in mine for text in plan[n][0]], task)
        assert cosines(np.concatenate([answers[n] for n in mine]), expected).min() >= SAME


BASE = {"TASK": words("base")}
BAD: dict[str, tuple[dict[str, Array], str]] = {
    "unknown task": ({"TEXT": words("x"), "TASK": words("nope")}, "TASK: got 'nope', expected one"),
    "no task": ({"TEXT": words("x")}, "TASK: none given, expected one of"),
    "two tasks for three texts": (
        {"TEXT": words("x", "y", "z"), "TASK": words("base", "base")},
        "TASK: got 2 for 3 texts",
    ),
    "unknown dimension": (
        {"TEXT": words("x"), "DIMENSIONS": np.array([33], np.int32), **BASE},
        "dimensions: got 33, expected one of 32, 64",
    ),
    "empty batch": ({"TEXT": words(), **BASE}, "TEXT: got no text"),
    "empty string": ({"TEXT": words("x", ""), **BASE}, "TEXT 1: empty, expected at least one"),
    "9000 tokens": (
        {"TEXT": words("x", "a" + " a" * 9000), "TASK": words("separation", "base")},
        "text 1: 9003 tokens, the bundle takes 8192",
    ),
    "invalid UTF-8": ({"TEXT": words("x", b"ab\xff"), **BASE}, "TEXT 1: not valid UTF-8 at byte 2"),
    "NUL byte": ({"TEXT": words("a\0b"), **BASE}, "TEXT 0: holds a NUL character"),
    "a text of 1 MiB and a byte": (
        {"TEXT": words("x", "a" * ((1 << 20) + 1)), **BASE},
        "TEXT 1: 1048577 bytes, expected at most 1048576; split the text, or raise max_bytes",
    ),
    "16 MiB in one request": (
        {"TEXT": words(*["a" * (1 << 20)] * 16, "a"), **BASE},
        "TEXT: 16777217 bytes in one request, expected at most 16777216; send fewer texts",
    ),
    "no task at all": ({"TEXT": words("x"), "TASK": words()}, "TASK: got no text"),
    "no spans": (
        {
            "TEXT": words("x"),
            "LATE_CHUNKING": np.array([True]),
            "CHUNKS": np.zeros((0, 2), np.int32),
            **BASE,
        },
        "chunks: got none, expected at least one (start, end)",
    ),
    "no chunk tokens": (
        {
            "TEXT": words("x"),
            "LATE_CHUNKING": np.array([True]),
            "CHUNK_TOKENS": np.array([0], np.int32),
            **BASE,
        },
        "chunk_tokens: got 0, expected at least 1",
    ),
    "wrong type of texts": ({"TEXT": np.array([1.0], np.float32), **BASE}, "data-type is 'FP32'"),
    "wrong type of a number": (
        {"TEXT": words("x"), "DIMENSIONS": np.array([32], np.int64), **BASE},
        "data-type is 'INT64'",
    ),
    "matrix of texts": ({"TEXT": words("x")[None], **BASE}, "unexpected shape for input 'TEXT'"),
    "spans outside the text": (
        {
            "TEXT": words("abc"),
            "LATE_CHUNKING": np.array([True]),
            "CHUNKS": np.array([[0, 2], [1, 9]], np.int32),
            **BASE,
        },
        "chunk (1, 9): expected 0 <= start < end <= 3",
    ),
    "negative span": (
        {
            "TEXT": words("abc"),
            "LATE_CHUNKING": np.array([True]),
            "CHUNKS": np.array([[-1, 2]], np.int32),
            **BASE,
        },
        "chunk (-1, 2): expected 0 <= start < end <= 3",
    ),
    "spans without late chunking": (
        {"TEXT": words("abc"), "CHUNKS": np.array([[0, 2]], np.int32), **BASE},
        "CHUNKS: needs LATE_CHUNKING=true",
    ),
    "spans of two texts": (
        {
            "TEXT": words("abc", "d"),
            "LATE_CHUNKING": np.array([True]),
            "CHUNKS": np.array([[0, 2]], np.int32),
            **BASE,
        },
        "CHUNKS: got 2 texts, expected one document",
    ),
}


@both
@pytest.mark.parametrize("case", BAD)
def test_bad_request_is_a_clear_error_and_others_are_answered(
    triton: Served, protocol: str, case: str
) -> None:
    inputs, message = BAD[case]
    with pytest.raises(InferenceServerException) as caught:
        triton.ask(protocol, inputs)
    assert message in caught.value.message()
    assert caught.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")
    answer = triton.ask(protocol, {"TEXT": words("x"), **BASE})["EMBEDDING"]
    assert answer is not None
    assert answer.shape == (1, 64)


@both
def test_text_of_30_mb_blocks_nobody(triton: Served, protocol: str) -> None:
    """It held its instance for a minute and 0.8 GB for good; sending it takes the most of this."""
    giant, small = words("word " * 6_000_000), words("x")
    refusal = f"TEXT 0: {30_000_000} bytes, expected at most {1 << 20}"

    def ask_giant(_: int) -> str:
        with pytest.raises(InferenceServerException) as caught:
            triton.ask(protocol, {"TEXT": giant, **BASE})
        return str(caught.value.message())

    before = triton.own_memory()
    start = time.perf_counter()
    with ThreadPoolExecutor(5) as pool:
        refused = pool.map(ask_giant, range(5))
        for _ in range(20):
            triton.ask(protocol, {"TEXT": small, **BASE})
        assert all(refusal in message for message in refused)
    assert time.perf_counter() - start < 20
    assert triton.own_memory() - before < 100e6


def test_memory_of_large_requests_is_given_back(triton: Served) -> None:
    before = triton.own_memory()
    large = words(*["The last train leaves at ten. " * 34_000] * 4)
    triton.ask("grpc", {"TEXT": large, "TRUNCATE": np.array([True]), **BASE})
    assert triton.own_memory() - before < 150e6  # 4 texts of 1 MB; the tokenizer alone kept 400


def test_client_refuses_a_text_of_30_mb_before_it_is_sent(triton: Served) -> None:
    with TritonEmbedder(triton.url("grpc")) as client:
        assert client.max_bytes == 1 << 20
        start = time.perf_counter()
        with pytest.raises(InputError, match="text 1: 30000000 bytes, expected at most 1048576"):
            client.encode(["x", "word " * 6_000_000], task="base")
        assert time.perf_counter() - start < 1


def test_client_in_another_thread_works_or_says_so_and_is_closed_at_any_time(
    triton: Served,
) -> None:
    """Over HTTP it hung, or ended in an error of its greenlets."""

    def work(client: TritonEmbedder) -> str:
        while True:
            try:
                client.encode(["x"], task="base")
            except AdaptrtError as error:
                return str(error)

    with ThreadPoolExecutor(2) as pool:
        http = TritonEmbedder(triton.url("http"))
        http.encode(["x"], task="base")
        assert "make one in each" in pool.submit(work, http).result(30)
        pool.submit(http.close).result(30)
        grpc = TritonEmbedder(triton.url("grpc"))
        ended = [pool.submit(work, grpc) for _ in range(2)]
        grpc.encode(["x"], task="base")
        grpc.close()
        assert {e.result(30) for e in ended} == {"this TritonEmbedder is closed; connect again"}


MISTAKEN = {
    "http": "what listens there does not speak HTTP; is it the server's gRPC port",
    "grpc": r"no answer within 5 s \(.*, and is this its gRPC port",
}


@pytest.mark.parametrize(("protocol", "other"), [("http", "grpc"), ("grpc", "http")])
def test_client_on_the_other_protocols_port_says_so(
    triton: Served, protocol: str, other: str
) -> None:
    start = time.perf_counter()
    with (
        TritonEmbedder(f"{protocol}://{triton.address(other)}") as client,
        pytest.raises(AdaptrtError, match=MISTAKEN[protocol]) as caught,
    ):
        client.encode(["x"], task="base")
    assert time.perf_counter() - start < 6
    assert "\n" not in str(caught.value)


ONES = np.ones((1, 4), np.int64)
INNER: dict[str, tuple[str, dict[str, Array], str]] = {
    "no tokens": (
        "encoder-separation-fp32",
        {"input_ids": ONES[:, :0], "attention_mask": ONES[:, :0]},
        "attention_mask: got shape [1, 0] beside input_ids [1, 0], expected the same shape",
    ),
    "mask of another length": (
        "encoder-separation-fp32",
        {"input_ids": ONES, "attention_mask": ONES[:, :2]},
        "attention_mask: got shape [1, 2] beside input_ids [1, 4], expected the same shape",
    ),
    "nothing but padding": (
        "encoder-separation-fp32",
        {"input_ids": ONES, "attention_mask": 0 * ONES},
        "at least one token in every row",
    ),
    "no texts": (
        "tokenize",
        {"TEXT": words(), "OFFSETS_WANTED": np.array([True])},
        "TEXT: got no text, expected at least one",
    ),
    "invalid UTF-8": (
        "tokenize",
        {"TEXT": words(b"\xff"), "OFFSETS_WANTED": np.array([False])},
        "TEXT 0: not valid UTF-8 at byte 0",
    ),
    "a giant": (
        "tokenize",
        {"TEXT": words("a" * (2 << 20)), "OFFSETS_WANTED": np.array([False])},
        "TEXT 0: 2097152 bytes, expected at most",
    ),
}


@pytest.mark.parametrize("case", INNER)
def test_bad_request_to_an_inner_model_is_one_line_too(triton: Served, case: str) -> None:
    """A traceback of the Python backend, and every request of the same batch failed with it."""
    model, inputs, message = INNER[case]
    with pytest.raises(InferenceServerException) as caught:
        triton.ask("grpc", inputs, model)
    assert message in caught.value.message()
    assert "\n" not in caught.value.message()
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


@both
def test_client_raises_the_errors_of_the_embedder(triton: Served, protocol: str) -> None:
    with TritonEmbedder(triton.url(protocol), batch_size=2) as client:
        with pytest.raises(InputError, match="dimensions: got 7, expected one of 32, 64"):
            client.encode(["x"], task="base", dimensions=7)
        with pytest.raises(InputError, match=r"text 3: 9003 tokens.*split the text"):
            client.encode(["x", "y", "z", "a" + " a" * 9000], task="base", strict=True)
        with pytest.raises(InputError, match="1 tasks for 2 texts"):
            client.encode(["x", "y"], task=["base"])


@both
def test_long_text_is_cut_with_the_embedders_warning(
    triton: Served, direct: Encode, protocol: str
) -> None:
    texts = ["x", "y", "a" + " a" * 9000]
    with TritonEmbedder(triton.url(protocol), batch_size=2) as client:
        with pytest.warns(TruncationWarning, match="text 2: 9003 tokens.*the end is cut off"):
            vectors = client.encode(texts, task="base")
        with pytest.warns(TruncationWarning):
            assert cosines(vectors, direct(texts, "base")).min() >= SAME


@both
def test_late_chunking_over_the_wire(triton: Served, chunked: Embedder, protocol: str) -> None:
    document = "The ferry left at nine. Nobody minded.\nIt rained, and 東京 was far away. " * 4
    with TritonEmbedder(triton.url(protocol)) as client:
        for cut in ({"chunks": [(0, 23), (20, 60)]}, {"sentences": 2}, {"chunk_tokens": 20}):
            served = client.encode_chunks(document, task="classification", dimensions=32, **cut)
            here = chunked.encode_chunks(document, task="classification", dimensions=32, **cut)
            assert served.spans == here.spans
            assert served.windows == here.windows
            assert cosines(served.vectors, here.vectors).min() >= SAME
        (whole,) = client.encode_chunks(
            document, [(0, len(document))], task="retrieval.passage"
        ).vectors
        sentence = client.encode([document], task="retrieval.passage")
        assert cosines(whole[None], sentence)[0] >= SAME


def test_document_of_several_windows_over_the_wire(triton: Served, chunked: Embedder) -> None:
    document = "Nine words are in each of these many sentences. " * 1200
    with TritonEmbedder(triton.url("grpc")) as client:
        served = client.encode_chunks(document, sentences=100, task="base")
    here = chunked.encode_chunks(document, sentences=100, task="base")
    assert len(served.windows) > 1
    assert (served.windows, served.window_of) == (here.windows, here.window_of)
    assert cosines(served.vectors, here.vectors).min() >= SAME


@both
def test_texts_are_the_chunks_where_no_spans_are_given(
    triton: Served, chunked: Embedder, protocol: str
) -> None:
    parts = ["The first part.", "Der zweite Teil.", "third"]
    inputs = {"TEXT": words(*parts), "LATE_CHUNKING": np.array([True]), **BASE}
    answer = triton.ask(protocol, inputs)
    expected = chunked.encode_chunks(" ".join(parts), [(0, 15), (16, 32), (33, 38)], task="base")
    assert answer["EMBEDDING"] is not None
    assert answer["SPANS"] is not None
    assert cosines(answer["EMBEDDING"], expected.vectors).min() >= SAME
    assert answer["SPANS"][:, :2].tolist() == [list(span) for span in expected.spans]


def test_the_pages_curl_request_returns_the_embedders_vector(
    triton: Served, direct: Encode
) -> None:
    match = re.search(r"curl -s (\S+) -d '(.*?)'", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert match is not None
    path, body = match[1].partition(":8000")[2], json.loads(match[2])
    url = f"http://{triton.address('http')}{path}"
    request = urllib.request.Request(url, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=30) as answer:
        outputs = {o["name"]: o for o in json.loads(answer.read())["outputs"]}
    given = {i["name"]: i["data"] for i in body["inputs"]}
    expected = direct(given["TEXT"], given["TASK"][0])
    vectors = np.array(outputs["EMBEDDING"]["data"], np.float32)
    assert outputs["EMBEDDING"]["shape"] == list(expected.shape)
    assert cosines(vectors.reshape(expected.shape), expected).min() >= SAME


@both
def test_the_http_api_in_front_of_it(triton: Served, chunk_bundle: Path, protocol: str) -> None:
    parts = ["Ada lives in Bergen.", "She likes the rain."]
    with (
        api_server([chunk_bundle], "--triton", triton.url(protocol)) as server,
        Embedder.load(chunk_bundle) as direct,
    ):
        found = server.vectors(input=parts, task="classification", dimensions=32)
        expected = direct.encode(parts, task="classification", dimensions=32)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        late = server.vectors(input=parts, task="text-matching", late_chunking=True)
        whole = direct.encode_chunks(" ".join(parts), [(0, 20), (21, 40)], task="text-matching")
        np.testing.assert_allclose(late, whole.vectors, atol=1e-5)
        refused = server.embed(input=[5, 6])
        assert (refused.status, refused.json["error"]["param"]) == (400, "input")


@both
def test_server_is_compared_with_an_index(
    triton: Served, protocol: str, chunk_bundle: Path, small_bundle: Path, tmp_path: Path
) -> None:
    with Embedder.load(chunk_bundle) as embedder:
        passages = write_index(tmp_path / "passages", embedder, task="retrieval.passage")
        bare = write_index(tmp_path / "bare", embedder, task="retrieval.passage", prefix=False)
    url = triton.url(protocol)
    with TritonEmbedder(url, index=passages) as client:
        assert client.guard is not None
        assert client.guard.verdict.canaries is not None
        assert client.guard.verdict.canaries.least > SAME
        assert client.encode(TEXTS, task="retrieval.query").shape == (len(TEXTS), 64)
        with pytest.raises(InputError, match="task: got separation, expected retrieval"):
            client.encode(TEXTS, task="separation")
        with pytest.raises(InputError, match="dimensions: got 32, expected 64"):
            client.encode(TEXTS, task="retrieval.query", dimensions=32)
    with pytest.raises(IndexMismatchError, match=rf"does not belong to server {url}: prefix: "):
        TritonEmbedder(url, index=bare)


def test_http_server_in_front_of_it_refuses_an_index_of_another_kind(
    triton: Served, chunk_bundle: Path, tmp_path: Path
) -> None:
    with Embedder.load(chunk_bundle) as embedder:
        bare = write_index(tmp_path / "bare", embedder, task="retrieval.passage", prefix=False)
    options = ("--triton", triton.url("grpc"), "--index", bare, "--port", 0)
    assert run_cli("api", "--bundle", chunk_bundle, *options) == 6
