"""Stores that load a folder of vectors: the page's programs, and recall against exact search."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import duckdb
import faiss
import lancedb
import numpy as np
import pyarrow.dataset as ds
import pytest
from qdrant_client import QdrantClient, models

from adaptrt import Embedder, IndexMismatchError
from calibration.corpus import questions
from runtimes.fingerprint import KEY, Fingerprint
from tests.documents import DOCS, FENCE
from tests.index_support import write_index
from tests.support import Array

PASSAGE, QUERY = "retrieval.passage", "retrieval.query"
QUESTIONS = questions()[:240]  # ten of each language
# Each once: equal texts would be equally near.
PASSAGES = list(dict.fromkeys(t for one in QUESTIONS for t in (one.passage, *one.negatives)))
ASKED = [one.query for one in QUESTIONS[:48]]
TOP, WIDTH = 10, 256
STORES = 4  # sections of the page with a program each, after the common one


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, sample_switchable: Path) -> Path:
    with Embedder.load(sample_switchable) as embedder:
        place = tmp_path_factory.mktemp("stores") / "vectors"
        return write_index(place, embedder, PASSAGES, task=PASSAGE, parts=5)


@pytest.fixture(scope="module")
def queries(folder: Path, sample_switchable: Path) -> Array:
    with Embedder.load(sample_switchable, index=folder) as embedder:
        return embedder.encode(ASKED, task=QUERY)


@pytest.fixture(scope="module")
def stored(folder: Path) -> Array:
    table = ds.dataset(folder, format="parquet").to_table()
    assert table["id"].to_pylist() == list(range(len(PASSAGES)))
    return np.stack(table["embedding"].to_numpy())


@pytest.fixture(scope="module")
def best(queries: Array, stored: Array) -> Array:
    """The ten best of each query, by NumPy."""
    return np.argsort(-(queries @ stored.T), axis=1, kind="stable")[:, :TOP]


def recall(found: Array, best: Array) -> float:
    pairs = zip(found.tolist(), best.tolist(), strict=True)
    return float(np.mean([len(set(a) & set(b)) / TOP for a, b in pairs]))


def in_faiss(folder: Path, stored: Array, queries: Array, scratch: Path) -> Array:
    index = faiss.IndexFlatIP(WIDTH)
    index.add(stored)
    return np.asarray(index.search(queries, TOP)[1])


def in_faiss_hnsw(folder: Path, stored: Array, queries: Array, scratch: Path) -> Array:
    index = faiss.IndexHNSWFlat(WIDTH, 32, faiss.METRIC_INNER_PRODUCT)
    index.add(stored)
    index.hnsw.efSearch = 64
    return np.asarray(index.search(queries, TOP)[1])


def in_qdrant(folder: Path, stored: Array, queries: Array, scratch: Path) -> Array:
    client = QdrantClient(path=str(scratch / "qdrant"))
    size = models.VectorParams(size=WIDTH, distance=models.Distance.COSINE)
    client.create_collection("texts", vectors_config=size)
    client.upload_collection("texts", vectors=stored, ids=range(len(stored)))
    hits = [client.query_points("texts", query=q.tolist(), limit=TOP).points for q in queries]
    client.close()
    return np.array([[hit.id for hit in row] for row in hits])


def in_lancedb(folder: Path, stored: Array, queries: Array, scratch: Path) -> Array:
    database = lancedb.connect(scratch / "lancedb")
    rows = database.create_table("texts", ds.dataset(folder, format="parquet").to_table())
    kept = Fingerprint.from_bytes(rows.schema.metadata[KEY], folder)
    assert kept.task == PASSAGE  # the folder's own, still there
    found = [
        rows.search(query, vector_column_name="embedding")
        .distance_type("dot")
        .select(["id"])
        .limit(TOP)
        .to_list()
        for query in queries
    ]
    return np.array([[hit["id"] for hit in row] for row in found])


def in_duckdb(folder: Path, stored: Array, queries: Array, scratch: Path) -> Array:
    found = [
        duckdb.execute(
            f"""SELECT id FROM '{folder}/*.parquet' ORDER BY
            array_cosine_similarity(embedding::FLOAT[{WIDTH}], ?::FLOAT[{WIDTH}]) DESC
            LIMIT {TOP}""",
            [query.tolist()],
        ).fetchall()
        for query in queries
    ]
    return np.array(found)[..., 0]


Search = Callable[[Path, Array, Array, Path], Array]
# The last digits of a score decide between texts that are equally near.
RECALLS: dict[Search, float] = {
    in_faiss: 0.999,
    in_faiss_hnsw: 0.95,
    in_qdrant: 0.999,
    in_lancedb: 0.999,
    in_duckdb: 0.999,
}


@pytest.mark.parametrize("search", RECALLS, ids=lambda search: search.__name__)
def test_recall_against_exact_search(
    search: Search, folder: Path, stored: Array, queries: Array, best: Array, tmp_path: Path
) -> None:
    found = search(folder, stored, queries, tmp_path)
    assert found.shape == best.shape
    print(f"{search.__name__}: recall {recall(found, best):.4f} of {len(queries)} queries")
    assert recall(found, best) >= RECALLS[search]
    # Vectors of the wrong task find other texts: what the guard is for.
    assert recall(found, np.roll(best, 1, axis=0)) < 0.2


def test_bundle_of_another_task_is_refused(folder: Path, sample_classification: Path) -> None:
    with pytest.raises(IndexMismatchError, match=r"task: bundle .* has classification"):
        Embedder.load(sample_classification, index=folder)


def test_the_pages_programs_run(
    folder: Path, sample_switchable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (DOCS / "tasks" / "stores.md").read_text(encoding="utf-8")
    programs = [text for language, text in FENCE.findall(page) if language == "python"]
    assert len(programs) == 1 + STORES
    places = {
        "build/sample/switchable-fp16-onnxruntime": sample_switchable,
        "build/vectors": folder,
        "build": tmp_path,
    }
    names: dict[str, object] = {}
    for program in programs:
        for place, real in places.items():
            program = re.sub(rf"(?<=[\"'])({place})(?=[\"'/])", str(real), program)
        exec(program, names)
    said = capsys.readouterr().out
    assert len(said.splitlines()) >= STORES
