"""Integers and bits of the embedder in sentence-transformers, faiss and Qdrant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from sentence_transformers.util import quantize_embeddings
from sentence_transformers.util.quantization import semantic_search_faiss

from adaptrt import Embedder
from calibration.corpus import retrieval_pairs
from tests.support import Array

PAIRS = retrieval_pairs()
SIDES = {
    "retrieval.query": [pair.query for pair in PAIRS],
    "retrieval.passage": [pair.passage for pair in PAIRS],
}
TOP = 10
TYPES = ("float32", "int8", "uint8", "binary", "ubinary")
WIDTHS = (32, 256)


@pytest.fixture(scope="module")
def limits(sample_switchable: Path) -> dict[str, dict[str, float]]:
    """The ranges that the bundle keeps."""
    with Embedder.load(sample_switchable) as embedder:
        return {task: dict(found) for task, found in embedder.manifest.output_ranges.items()}


@pytest.fixture(scope="module")
def vectors(sample_switchable: Path) -> dict[tuple[str, int, str], Array]:
    """By task, length and type."""
    with Embedder.load(sample_switchable) as embedder:
        return {
            (task, width, output): embedder.encode(
                texts, task=task, dimensions=width, output=output
            )
            for task, texts in SIDES.items()
            for width in WIDTHS
            for output in TYPES
        }


@pytest.fixture(params=WIDTHS)
def sides(
    request: pytest.FixtureRequest, vectors: dict[tuple[str, int, str], Array]
) -> dict[str, tuple[Array, Array]]:
    """Queries and passages of one length, by type."""
    return {
        output: (
            vectors["retrieval.query", request.param, output],
            vectors["retrieval.passage", request.param, output],
        )
        for output in TYPES
    }


def distances(queries: Array, passages: Array) -> Array:
    """Hamming distances, bit by bit."""
    bits = [np.unpackbits(side, axis=1).astype(int) for side in (queries, passages)]
    apart: Array = (bits[0][:, None] != bits[1][None]).sum(axis=2)
    return apart


def squares(queries: Array, passages: Array) -> Array:
    """Squared Euclidean distances of integers."""
    found: Array = ((queries.astype(int)[:, None] - passages.astype(int)[None]) ** 2).sum(axis=2)
    return found


@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_bits_are_those_of_sentence_transformers(
    sides: dict[str, tuple[Array, Array]], precision: Any
) -> None:
    for floats, ours in zip(sides["float32"], sides[precision], strict=True):
        theirs = quantize_embeddings(floats, precision=precision)
        assert theirs.dtype == ours.dtype
        np.testing.assert_array_equal(theirs, ours)


@pytest.mark.parametrize(("precision", "zero"), [("int8", 0), ("uint8", 128)])
def test_8_bit_integers_are_those_of_sentence_transformers_at_the_same_steps(
    vectors: dict[tuple[str, int, str], Array],
    limits: dict[str, dict[str, float]],
    precision: Any,
    zero: int,
) -> None:
    """It rounds down from the range's lower end; from half a step below, that is to nearest."""
    for task in SIDES:
        for width in WIDTHS:
            limit = limits[task][str(width)]
            ends = np.array([-128.5, 126.5]) * limit / 127
            theirs = quantize_embeddings(
                vectors[task, width, "float32"],
                precision=precision,
                ranges=np.repeat(ends[:, None], width, axis=1),
            )
            ours = vectors[task, width, precision]
            assert theirs.dtype == ours.dtype
            inside = np.abs(ours.astype(int) - zero) < 127  # it saturates at -128 and 127
            gaps = np.abs(theirs.astype(int) - ours)[inside]
            assert inside.mean() > 0.999
            assert gaps.max() <= 1
            assert (gaps > 0).mean() < 1e-3  # halves of a step, by the last bit


def test_ranges_of_the_limits_alone_are_a_step_off(
    vectors: dict[tuple[str, int, str], Array], limits: dict[str, dict[str, float]]
) -> None:
    """What differs, and why: its 255 steps have no zero, and rounding down is half a step less."""
    task, width = "retrieval.passage", 256
    limit = limits[task][str(width)]
    ends = np.repeat(np.array([[-limit], [limit]]), width, axis=1)
    theirs = quantize_embeddings(vectors[task, width, "float32"], precision="int8", ranges=ends)
    gaps = vectors[task, width, "int8"].astype(int) - theirs
    assert set(np.unique(gaps)) <= {0, 1, 2}
    assert np.median(gaps) == 1
    zeros = quantize_embeddings(np.zeros((1, width), np.float32), precision="int8", ranges=ends)
    assert set(zeros[0].tolist()) == {-1}


def test_faiss_finds_bits_by_their_hamming_distance(sides: dict[str, tuple[Array, Array]]) -> None:
    queries, passages = sides["ubinary"]
    index = faiss.IndexBinaryFlat(passages.shape[1] * 8)
    index.add(passages)
    found, which = index.search(queries, TOP)
    apart = distances(queries, passages)
    np.testing.assert_array_equal(found, np.sort(apart, axis=1)[:, :TOP])
    np.testing.assert_array_equal(found, np.take_along_axis(apart, which, axis=1))


def test_faiss_stores_8_bit_integers_as_they_are(sides: dict[str, tuple[Array, Array]]) -> None:
    """uint8 in its scalar quantiser, a byte each, without training; distances are exact."""
    queries, passages = sides["uint8"]
    kind = faiss.ScalarQuantizer.QT_8bit_direct
    index = faiss.IndexScalarQuantizer(passages.shape[1], kind, faiss.METRIC_L2)
    index.add(passages.astype(np.float32))
    assert index.sa_code_size() == passages.shape[1]
    found, which = index.search(queries.astype(np.float32), TOP)
    apart = squares(queries, passages)
    np.testing.assert_array_equal(found, np.sort(apart, axis=1)[:, :TOP])
    np.testing.assert_array_equal(found, np.take_along_axis(apart, which, axis=1))


def test_faiss_stores_signed_integers_as_they_are(sides: dict[str, tuple[Array, Array]]) -> None:
    """int8 as inner products, which is a cosine's order for one query."""
    queries, passages = sides["int8"]
    kind = faiss.ScalarQuantizer.QT_8bit_direct_signed
    index = faiss.IndexScalarQuantizer(passages.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
    index.add(passages.astype(np.float32))
    assert index.sa_code_size() == passages.shape[1]
    found, _ = index.search(queries.astype(np.float32), TOP)
    products = queries.astype(int) @ passages.astype(int).T
    np.testing.assert_array_equal(found, -np.sort(-products, axis=1)[:, :TOP])


def test_sentence_transformers_searches_our_bits_with_floats(
    sides: dict[str, tuple[Array, Array]],
) -> None:
    """It makes bits of the queries itself, which are ours."""
    found, _ = semantic_search_faiss(
        query_embeddings=sides["float32"][0],
        corpus_embeddings=sides["ubinary"][1],
        corpus_precision="ubinary",
        top_k=TOP,
        rescore=False,
    )
    apart = distances(*sides["ubinary"])
    scores = [[apart[row][hit["corpus_id"]] for hit in hits] for row, hits in enumerate(found)]
    np.testing.assert_array_equal(scores, np.sort(apart, axis=1)[:, :TOP])


def stored(passages: Array, distance: models.Distance) -> QdrantClient:
    """A collection of 8-bit vectors, in memory."""
    client = QdrantClient(":memory:")
    client.create_collection(
        "texts",
        vectors_config=models.VectorParams(
            size=passages.shape[1], distance=distance, datatype=models.Datatype.UINT8
        ),
    )
    points = [
        models.PointStruct(id=number, vector=row.tolist()) for number, row in enumerate(passages)
    ]
    client.upsert("texts", points)
    return client


def test_qdrant_finds_uint8_by_euclidean_distance(sides: dict[str, tuple[Array, Array]]) -> None:
    queries, passages = sides["uint8"]
    client = stored(passages, models.Distance.EUCLID)
    apart = np.sqrt(squares(queries, passages))
    for query, expected in zip(queries, apart, strict=True):
        hits = client.query_points("texts", query=query.tolist(), limit=TOP).points
        scores = [hit.score for hit in hits]
        np.testing.assert_allclose(scores, np.sort(expected)[:TOP], rtol=1e-5)
        np.testing.assert_allclose(scores, [expected[int(hit.id)] for hit in hits], rtol=1e-5)
    client.close()


def test_qdrant_gives_uint8_back_as_it_was(sides: dict[str, tuple[Array, Array]]) -> None:
    _, passages = sides["uint8"]
    client = stored(passages[:5], models.Distance.EUCLID)
    points = client.retrieve("texts", ids=list(range(5)), with_vectors=True)
    np.testing.assert_array_equal([point.vector for point in points], passages[:5])
    client.close()
