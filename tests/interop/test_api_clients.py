"""Clients of OpenAI's and the vendor's APIs get the embedder's vectors from a running server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import pytest

from adaptrt import Embedder
from tests.interop import client_table
from tests.interop.api_clients import CLIENTS, ApiClient
from tests.interop.api_server import BundleServer
from tests.interop.client_table import API_RECORD, API_RUN, ApiOutcome
from tests.interop.retrieval import distance
from tests.support import Array

TEXTS = [
    "How do I cancel my subscription?",
    "Wie kündige ich mein Abonnement?",
    "サブスクリプションを解約するにはどうすればよいですか。",
    "Как отменить подписку?",
    "كيف ألغي اشتراكي؟",
    "我的包裹昨天就该到了。 🙂",
]
CONVERSATION = [
    "Anna: Hat jemand die neue Kaffeemaschine schon ausprobiert?",
    "Bilal: Yes, this morning. It takes three minutes to warm up.",
    "Anna: 三分は長いですね。",
    "Chloé: Elle fait aussi du thé, mais il faut changer le filtre.",
    "Bilal: Then I will bring one tomorrow.",
]
LARGEST = 1e-6


@pytest.fixture(scope="module")
def embedder(api: BundleServer) -> Iterator[Embedder]:
    with Embedder.load(api.bundle, runtime="onnxruntime", threads=1) as embedder:
        yield embedder


@pytest.fixture(scope="module")
def ours(embedder: Embedder) -> Callable[..., Array]:
    """The embedder's vectors of texts; with ``late`` they are one document's chunks."""

    def encode(texts: Sequence[str], *, late: bool = False, **options: Any) -> Array:
        if not late:
            return embedder.encode(texts, **options)
        ends = list(accumulate(len(text) + 1 for text in texts))
        spans = [(end - len(text) - 1, end - 1) for text, end in zip(texts, ends, strict=True)]
        return embedder.encode_chunks(" ".join(texts), spans, **options).vectors

    return encode


@pytest.fixture(scope="module")
def outcomes() -> Iterator[list[ApiOutcome]]:
    """Those of this run, written where `make clients` looks for them."""
    found: list[ApiOutcome] = []
    yield found
    client_table.write_api(found, API_RUN)


def unpacked(packed: Array) -> Array:
    """Bits of bytes, as clients that unpack them give them."""
    shifted = packed.astype(np.int16) + (128 if packed.dtype == np.int8 else 0)
    return np.unpackbits(shifted.astype(np.uint8), axis=1)


@pytest.mark.parametrize("client", CLIENTS, ids=[f"{c.package}-{c.sends}" for c in CLIENTS])
@pytest.mark.filterwarnings("default")  # of the clients' own doing
def test_client_gets_the_embedders_vectors(
    client: ApiClient,
    api: BundleServer,
    ours: Callable[..., Array],
    outcomes: list[ApiOutcome],
) -> None:
    texts = CONVERSATION if client.late else TEXTS
    theirs = np.asarray(client.ask(api.address, api.model, texts), np.float64)
    expected = ours(texts, late=client.late, **client.expected)
    if client.unpacked:
        expected = unpacked(expected)
    row = ApiOutcome(
        client=client.name,
        release=client.release,
        sends=client.sends,
        largest=distance(theirs, expected),
    )
    outcomes.append(row)
    assert row.largest <= (0.0 if client.exact else LARGEST), row


def test_the_documents_tell_of_this_run(outcomes: list[ApiOutcome]) -> None:
    """The same clients and versions; the differences are the machine's."""
    committed = {(r["client"], r["release"], r["sends"]) for r in client_table.read(API_RECORD)}
    tried = {(row.client, row.release, row.sends) for row in outcomes if row.client != "curl"}
    assert tried <= committed, "run make clients and make figures"  # curl is the machine's own


def test_a_wrong_task_would_be_seen(api: BundleServer, ours: Callable[..., Array]) -> None:
    """Negative control: the same texts for another task, or without context, are far away."""
    given = vectors(api.embed(input=TEXTS, task="separation"))
    assert distance(given, ours(TEXTS, task="separation")) <= LARGEST
    assert distance(given, ours(TEXTS, task="base")) > 1e-2
    late = vectors(api.embed(input=CONVERSATION, task="retrieval.passage", late_chunking=True))
    assert distance(late, ours(CONVERSATION, task="retrieval.passage")) > 1e-2


# What the vendor's guide to this model sends, with texts of our own: fields beside model and input.
GUIDE: dict[str, tuple[list[str], dict[str, Any]]] = {
    "questions": (
        ["Where can I find the opening hours?", "Wo finde ich die Öffnungszeiten?"],
        {"task": "retrieval.query"},
    ),
    "passages": (
        ["The museum opens at nine.", "Das Museum öffnet um neun.", "博物馆九点开门。"],
        {"task": "retrieval.passage"},
    ),
    "groups": (
        ["A river in Peru", "Un fleuve du Pérou", "ペルーの川", "A bank in Lima"],
        {"task": "separation"},
    ),
    "classes": (
        ["¡Qué película tan aburrida!", "Ein wunderbarer Abend.", "最高でした"],
        {"task": "classification"},
    ),
    "pairs": (
        ["The lift is out of order.", "L'ascenseur est en panne.", "엘리베이터가 고장났습니다."],
        {"task": "text-matching"},
    ),
    "shorter": (["Ein Text", "Un texte", "一段文字"], {"task": "text-matching", "dimensions": 64}),
    "a conversation": (CONVERSATION, {"task": "retrieval.passage", "late_chunking": True}),
    "a conversation, shorter": (
        CONVERSATION,
        {"task": "text-matching", "late_chunking": True, "dimensions": 128},
    ),
    "no task": (["Just a text"], {}),
}


@pytest.mark.parametrize("name", GUIDE)
def test_requests_of_the_guide_get_the_embedders_vectors(
    name: str, api: BundleServer, ours: Callable[..., Array]
) -> None:
    texts, fields = GUIDE[name]
    answer = api.embed(input=texts, **fields)
    options = {"task": fields.get("task", "base"), "dimensions": fields.get("dimensions")}
    expected = ours(texts, late=fields.get("late_chunking", False), **options)
    assert distance(vectors(answer), expected) <= LARGEST
    assert answer["object"] == "list"
    assert [item["index"] for item in answer["data"]] == list(range(len(texts)))
    assert "warnings" not in answer
    with_objects = api.embed(input=[{"text": text} for text in texts], **fields)
    assert distance(vectors(with_objects), vectors(answer)) <= LARGEST
    assert with_objects["usage"] == answer["usage"]


@pytest.mark.parametrize("field", ["encoding_format", "embedding_type", "encoding_type"])
@pytest.mark.parametrize("encoding", ["int8", "uint8", "binary", "ubinary"])
def test_types_are_the_embedders_bit_by_bit(
    field: str, encoding: str, api: BundleServer, ours: Callable[..., Array]
) -> None:
    given = vectors(api.embed(input=TEXTS, task="text-matching", **{field: encoding}))
    expected = ours(TEXTS, task="text-matching", output=encoding)
    assert np.array_equal(given, expected)


def test_a_length_that_was_not_trained_is_given_with_a_warning(
    api: BundleServer, ours: Callable[..., Array]
) -> None:
    answer = api.embed(input=TEXTS, task="text-matching", dimensions=100)
    cut = ours(TEXTS, task="text-matching")[:, :100]
    expected = cut / np.linalg.norm(cut, axis=1, keepdims=True)
    assert distance(vectors(answer), expected) <= LARGEST
    assert "100" in answer["warnings"][0]


def test_usage_counts_the_tokens_that_were_embedded(api: BundleServer, embedder: Embedder) -> None:
    prefix = embedder.manifest.prefixes["retrieval.query"]
    rows = embedder.tokenizer.tokenize([prefix + text for text in TEXTS])
    answer = api.embed(input=TEXTS, task="retrieval.query", return_tokens=True)
    assert [item["tokens"] for item in answer["data"]] == [len(row) for row in rows]
    assert answer["usage"] == dict.fromkeys(("prompt_tokens", "total_tokens"), sum(map(len, rows)))


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"input": TEXTS, "task": "retrieval"}, 400, "task: got 'retrieval', expected one of"),
        ({"input": TEXTS, "dimensions": 257}, 400, "dimensions: got 257, expected 1 to 256"),
        ({"input": TEXTS, "model": "gpt"}, 404, "model: got 'gpt', expected one of"),
        ({"input": TEXTS, "truncation": True}, 400, "'truncation': no such field"),
    ],
    ids=["task", "dimensions", "model", "field"],
)
def test_errors_are_what_both_kinds_of_clients_read(
    body: dict[str, Any], status: int, words: str, api: BundleServer
) -> None:
    import openai

    response = api.post({"model": api.model, **body})
    assert response.status == status
    answer = response.json
    assert words in answer["error"]["message"]
    assert answer["detail"] == answer["error"]["message"]
    extra = {k: v for k, v in body.items() if k not in ("input", "model")}
    with (
        openai.OpenAI(base_url=f"{api.address}/v1", api_key="none", max_retries=0) as client,
        pytest.raises(openai.APIStatusError) as raised,
    ):
        client.embeddings.create(
            model=body.get("model", api.model), input=body["input"], extra_body=extra
        )
    assert raised.value.status_code == status
    assert words in str(raised.value)


def test_openais_own_token_ids_are_refused(api: BundleServer) -> None:
    """What LangChain's OpenAIEmbeddings sends unless check_embedding_ctx_length=False."""
    response = api.post({"model": api.model, "input": [[15339, 1917, 100257]]})
    assert response.status == 400
    assert "of this model's own tokenizer; send the text instead" in response.json["detail"]


def vectors(answer: dict[str, Any]) -> Array:
    return np.array([item["embedding"] for item in answer["data"]])
