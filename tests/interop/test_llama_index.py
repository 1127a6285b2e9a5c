"""Bundles as LlamaIndex's embedding model, in its own index."""

from __future__ import annotations

import asyncio
import json
import pickle
from pathlib import Path

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import TextNode

from adaptrt import InputError
from adaptrt.integrations.llama_index import BundleEmbedding
from tests.interop.retrieval import ANSWERS, QUESTIONS, distance
from tests.support import Array


@pytest.fixture(scope="module")
def embedding(pair: tuple[Path, ...]) -> BundleEmbedding:
    return BundleEmbedding(**dict(zip(("bundle", "passages"), pair, strict=False)))


def test_vectors_are_the_embedders(
    embedding: BundleEmbedding, query_vectors: Array, passage_vectors: Array
) -> None:
    assert isinstance(embedding, BaseEmbedding)
    queries = [embedding.get_query_embedding(question) for question in QUESTIONS]
    assert distance(queries, query_vectors) <= 1e-5
    assert distance(embedding.get_text_embedding_batch(ANSWERS), passage_vectors) <= 1e-5
    assert distance(embedding.get_text_embedding(ANSWERS[0]), passage_vectors[0]) <= 1e-5


def test_queries_and_texts_differ(embedding: BundleEmbedding) -> None:
    text = embedding.get_text_embedding(QUESTIONS[0])
    assert distance(embedding.get_query_embedding(QUESTIONS[0]), text) > 1e-2


def test_a_thread_gives_the_same(
    embedding: BundleEmbedding, query_vectors: Array, passage_vectors: Array
) -> None:
    query = asyncio.run(embedding.aget_query_embedding(QUESTIONS[0]))
    assert distance(query, query_vectors[0]) <= 1e-5
    texts = asyncio.run(embedding.aget_text_embedding_batch(ANSWERS))
    assert distance(texts, passage_vectors) <= 1e-5
    text = asyncio.run(embedding.aget_text_embedding(ANSWERS[0]))
    assert distance(text, passage_vectors[0]) <= 1e-5


def test_the_right_passage_is_found(embedding: BundleEmbedding) -> None:
    index = VectorStoreIndex([TextNode(text=text) for text in ANSWERS], embed_model=embedding)
    retriever = index.as_retriever(similarity_top_k=1)
    for question, answer in zip(QUESTIONS, ANSWERS, strict=True):
        (first,) = retriever.retrieve(question)
        assert first.text == answer
    (first,) = asyncio.run(retriever.aretrieve(QUESTIONS[1]))
    assert first.text == ANSWERS[1]


def test_it_can_be_written_and_sent(embedding: BundleEmbedding, query_vectors: Array) -> None:
    written = json.loads(embedding.to_json())
    for copy in (BundleEmbedding.from_dict(written), pickle.loads(pickle.dumps(embedding))):
        assert distance(copy.get_query_embedding(QUESTIONS[0]), query_vectors[0]) <= 1e-5


def test_the_other_side_is_refused(sample_query: Path, sample_passage: Path) -> None:
    with pytest.raises(InputError, match=r"passages: got a bundle of retrieval.query, expected"):
        BundleEmbedding(bundle=sample_query)
    with pytest.raises(InputError, match=r"queries: got a bundle of retrieval.passage, expected"):
        BundleEmbedding(bundle=sample_passage, passages=sample_passage)


def test_an_unknown_argument_is_refused(sample_switchable: Path) -> None:
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        BundleEmbedding(bundle=sample_switchable, dimension=32)


def test_dimensions_cut(sample_switchable: Path) -> None:
    embedding = BundleEmbedding(bundle=sample_switchable, dimensions=64)
    assert len(embedding.get_query_embedding(QUESTIONS[0])) == 64
