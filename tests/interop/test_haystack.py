"""Bundles as Haystack's embedders, in its own pipelines."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.document_stores.in_memory import InMemoryDocumentStore

from adaptrt import InputError
from adaptrt.integrations.haystack import BundleDocumentEmbedder, BundleTextEmbedder
from tests.interop.retrieval import ANSWERS, QUESTIONS, distance
from tests.support import Array

DOCUMENTS = [Document(content=text) for text in ANSWERS]


@pytest.fixture(scope="module")
def queries(pair: tuple[Path, ...]) -> BundleTextEmbedder:
    return BundleTextEmbedder(pair[0])


@pytest.fixture(scope="module")
def passages(pair: tuple[Path, ...]) -> BundleDocumentEmbedder:
    return BundleDocumentEmbedder(pair[-1])


def test_vectors_are_the_embedders(
    queries: BundleTextEmbedder,
    passages: BundleDocumentEmbedder,
    query_vectors: Array,
    passage_vectors: Array,
) -> None:
    found = [queries.run(question)["embedding"] for question in QUESTIONS]
    assert distance(found, query_vectors) <= 1e-5
    embedded = passages.run(DOCUMENTS)["documents"]
    assert distance([document.embedding for document in embedded], passage_vectors) <= 1e-5
    assert [document.content for document in embedded] == ANSWERS
    assert [document.embedding for document in DOCUMENTS] == [None] * len(DOCUMENTS)


def test_queries_and_passages_differ(
    queries: BundleTextEmbedder, passages: BundleDocumentEmbedder
) -> None:
    (passage,) = passages.run([Document(content=QUESTIONS[0])])["documents"]
    assert distance(queries.run(QUESTIONS[0])["embedding"], passage.embedding) > 1e-2


def test_a_thread_gives_the_same(
    queries: BundleTextEmbedder,
    passages: BundleDocumentEmbedder,
    query_vectors: Array,
    passage_vectors: Array,
) -> None:
    query = asyncio.run(queries.run_async(QUESTIONS[0]))["embedding"]
    assert distance(query, query_vectors[0]) <= 1e-5
    embedded = asyncio.run(passages.run_async(DOCUMENTS))["documents"]
    assert distance([document.embedding for document in embedded], passage_vectors) <= 1e-5


def test_the_right_passage_is_found(pair: tuple[Path, ...]) -> None:
    """The pipeline is written and read again, as one that is deployed is."""
    store = InMemoryDocumentStore()
    store.write_documents(BundleDocumentEmbedder(pair[-1]).run(DOCUMENTS)["documents"])
    pipeline = Pipeline()
    pipeline.add_component("embedder", BundleTextEmbedder(str(pair[0]), threads=1))
    written = pipeline.dumps()
    pipeline = Pipeline.loads(written, allowed_modules=["adaptrt.integrations.haystack"])
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=1))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    for question, answer in zip(QUESTIONS, ANSWERS, strict=True):
        (first,) = pipeline.run({"embedder": {"text": question}})["retriever"]["documents"]
        assert first.content == answer


def test_what_is_written_are_the_arguments(sample_switchable: Path) -> None:
    written = BundleDocumentEmbedder(sample_switchable, dimensions=32, threads=1).to_dict()
    assert written == {
        "type": "adaptrt.integrations.haystack.BundleDocumentEmbedder",
        "init_parameters": {"bundle": str(sample_switchable), "dimensions": 32, "threads": 1},
    }
    (embedded,) = BundleDocumentEmbedder.from_dict(written).run(DOCUMENTS[:1])["documents"]
    assert len(embedded.embedding) == 32


def test_the_other_side_is_refused(sample_query: Path, sample_passage: Path) -> None:
    with pytest.raises(InputError, match=r"passages: got a bundle of retrieval.query, expected"):
        BundleDocumentEmbedder(sample_query).warm_up()
    with pytest.raises(InputError, match=r"queries: got a bundle of retrieval.passage, expected"):
        BundleTextEmbedder(sample_passage).warm_up()
