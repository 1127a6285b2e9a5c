"""Bundles as LangChain's embeddings, in its own vector store."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore

from adaptrt import InputError
from adaptrt.integrations.langchain import BundleEmbeddings
from tests.interop.retrieval import ANSWERS, QUESTIONS, distance, embed
from tests.support import Array


@pytest.fixture(scope="module")
def embeddings(pair: tuple[Path, ...]) -> BundleEmbeddings:
    return BundleEmbeddings(*pair)


def test_vectors_are_the_embedders(
    embeddings: BundleEmbeddings, query_vectors: Array, passage_vectors: Array
) -> None:
    assert isinstance(embeddings, Embeddings)
    queries = [embeddings.embed_query(question) for question in QUESTIONS]
    assert distance(queries, query_vectors) <= 1e-5
    assert distance(embeddings.embed_documents(ANSWERS), passage_vectors) <= 1e-5


def test_queries_and_passages_differ(embeddings: BundleEmbeddings) -> None:
    (passage,) = embeddings.embed_documents([QUESTIONS[0]])
    assert distance(embeddings.embed_query(QUESTIONS[0]), passage) > 1e-2


def test_a_thread_gives_the_same(embeddings: BundleEmbeddings) -> None:
    query = asyncio.run(embeddings.aembed_query(QUESTIONS[0]))
    assert distance(query, embeddings.embed_query(QUESTIONS[0])) <= 1e-6
    passages = asyncio.run(embeddings.aembed_documents(ANSWERS))
    assert distance(passages, embeddings.embed_documents(ANSWERS)) <= 1e-6


def test_the_right_passage_is_found(embeddings: BundleEmbeddings) -> None:
    store = InMemoryVectorStore.from_texts(ANSWERS, embeddings)
    for question, answer in zip(QUESTIONS, ANSWERS, strict=True):
        (first,) = store.similarity_search(question, k=1)
        assert first.page_content == answer
    (first,) = asyncio.run(store.asimilarity_search(QUESTIONS[1], k=1))
    assert first.page_content == ANSWERS[1]


def test_a_task_without_sides_embeds_both(sample_classification: Path) -> None:
    embeddings = BundleEmbeddings(sample_classification, dimensions=32)
    expected = embed(sample_classification, ANSWERS, dimensions=32)
    assert distance(embeddings.embed_documents(ANSWERS), expected) <= 1e-5
    assert distance(embeddings.embed_query(ANSWERS[0]), expected[0]) <= 1e-5


def test_the_other_side_is_refused(sample_query: Path, sample_passage: Path) -> None:
    with pytest.raises(InputError, match=r"passages: got a bundle of retrieval.query, expected"):
        BundleEmbeddings(sample_query)
    with pytest.raises(InputError, match=r"queries: got a bundle of retrieval.passage, expected"):
        BundleEmbeddings(sample_passage, sample_query)


def test_bundles_of_two_models_are_refused(sample_query: Path, other_passage: Path) -> None:
    with pytest.raises(InputError, match=r"passages: got a bundle of small .* build both from one"):
        BundleEmbeddings(sample_query, other_passage)


def test_unknown_dimensions_are_refused_when_it_is_made(sample_switchable: Path) -> None:
    with pytest.raises(InputError, match="dimensions: got 33, expected one of 32, 64, 128, 256"):
        BundleEmbeddings(sample_switchable, dimensions=33)
