"""Stores that load a folder of vectors: the page's programs, and recall against exact search."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
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
from tests.support import Array, run_cli

PASSAGE, QUERY = "retrieval.passage", "retrieval.query"
QUESTIONS = questions()[:240]  # ten of each language
# Each once: equal texts would be equally near.
PASSAGES = list(dict.fromkeys(t for one in QUESTIONS for t in (one.passage, *one.negatives)))
ASKED = [one.query for one in QUESTIONS[:48]]
TOP, WIDTH, SAME = 10, 256, 1e-5
STORES = 4  # sections of the page with a program each, after the common one


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A folder of vectors as it was read: the documents' ids, and their vectors."""

    folder: Path
    ids: list[str]
    vectors: Array

    def rows(self, found: Iterable[Iterable[str]]) -> Array:
        """Ids as rows of ``vectors``."""
        row = {one: number for number, one in enumerate(self.ids)}
        return np.array([[row[one] for one in ids] for ids in found])


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, sample_switchable: Path) -> Loaded:
    """What ``adaptrt embed`` makes of a JSONL file, in several parts."""
    place = tmp_path_factory.mktemp("stores")
    lines = [json.dumps({"id": f"p{n}", "text": text}) for n, text in enumerate(PASSAGES)]
    (place / "passages.jsonl").write_text("\n".join(lines), encoding="utf-8")
    options = ("--task", PASSAGE, "--id-column", "id", "--keep", "text", "--split-bytes", 1 << 16)
    where = ("--bundle", sample_switchable, "--out", place / "vectors")
    assert run_cli("embed", place / "passages.jsonl", *where, *options) == 0
    table = ds.dataset(place / "vectors", format="parquet").to_table()
    assert len(list((place / "vectors").glob("*.parquet"))) > 1
    return Loaded(
        folder=place / "vectors",
        ids=table["id"].to_pylist(),
        vectors=np.stack(table["embedding"].to_numpy()),
    )


@pytest.fixture(scope="module")
def queries(loaded: Loaded, sample_switchable: Path) -> Array:
    with Embedder.load(sample_switchable, index=loaded.folder) as embedder:
        return embedder.encode(ASKED, task=QUERY)


@pytest.fixture(scope="module")
def scores(queries: Array, loaded: Loaded) -> Array:
    """Every cosine, by NumPy."""
    cosines: Array = queries @ loaded.vectors.T
    return cosines


def recall(found: Array, scores: Array) -> float:
    """The share of what was found that is no worse than the tenth best.

    Not by name: of two that are equally near, to the last digits, each store takes its own.
    """
    tenth = -np.sort(-scores, axis=1)[:, TOP - 1 : TOP]
    return float((np.take_along_axis(scores, found, axis=1) >= tenth - SAME).mean())


def in_faiss(loaded: Loaded, queries: Array, scratch: Path) -> Array:
    index = faiss.IndexFlatIP(WIDTH)
    index.add(loaded.vectors)
    return np.asarray(index.search(queries, TOP)[1])


def in_faiss_hnsw(loaded: Loaded, queries: Array, scratch: Path) -> Array:
    index = faiss.IndexHNSWFlat(WIDTH, 32, faiss.METRIC_INNER_PRODUCT)
    index.add(loaded.vectors)
    index.hnsw.efSearch = 64
    return np.asarray(index.search(queries, TOP)[1])


def in_qdrant(loaded: Loaded, queries: Array, scratch: Path) -> Array:
    client = QdrantClient(path=str(scratch / "qdrant"))
    size = models.VectorParams(size=WIDTH, distance=models.Distance.COSINE)
    client.create_collection("texts", vectors_config=size)
    client.upload_collection("texts", vectors=loaded.vectors, ids=range(len(loaded.ids)))
    hits = [client.query_points("texts", query=q.tolist(), limit=TOP).points for q in queries]
    client.close()
    return np.array([[hit.id for hit in row] for row in hits])


def in_lancedb(loaded: Loaded, queries: Array, scratch: Path) -> Array:
    database = lancedb.connect(scratch / "lancedb")
    rows = database.create_table("texts", ds.dataset(loaded.folder, format="parquet").to_table())
    kept = Fingerprint.from_bytes(rows.schema.metadata[KEY], loaded.folder)
    assert kept.task == PASSAGE  # the folder's own, still there
    found = [
        rows.search(query, vector_column_name="embedding")
        .distance_type("dot")
        .select(["id"])
        .limit(TOP)
        .to_list()
        for query in queries
    ]
    return loaded.rows([hit["id"] for hit in row] for row in found)


def in_duckdb(loaded: Loaded, queries: Array, scratch: Path) -> Array:
    found = [
        duckdb.execute(
            f"""SELECT id FROM '{loaded.folder}/*.parquet' ORDER BY
            array_cosine_similarity(embedding::FLOAT[{WIDTH}], ?::FLOAT[{WIDTH}]) DESC
            LIMIT {TOP}""",
            [query.tolist()],
        ).fetchall()
        for query in queries
    ]
    return loaded.rows([one for (one,) in row] for row in found)


Search = Callable[[Loaded, Array, Path], Array]
RECALLS: dict[Search, float] = {
    in_faiss: 1.0,
    in_faiss_hnsw: 0.95,
    in_qdrant: 1.0,
    in_lancedb: 1.0,
    in_duckdb: 1.0,
}


@pytest.mark.parametrize("search", RECALLS, ids=lambda search: search.__name__)
def test_recall_against_exact_search(
    search: Search, loaded: Loaded, queries: Array, scores: Array, tmp_path: Path
) -> None:
    found = search(loaded, queries, tmp_path)
    assert found.shape == (len(ASKED), TOP)
    assert all(len(set(row)) == TOP for row in found.tolist())
    share = recall(found, scores)
    print(
        f"{search.__name__}: recall {share:.4f}, {len(queries)} queries, {len(loaded.ids)} passages"
    )
    assert share >= RECALLS[search]
    # Of other queries' best, hardly any are right.
    assert recall(np.roll(found, 1, axis=0), scores) < 0.2


def test_bundle_of_another_task_is_refused(loaded: Loaded, sample_classification: Path) -> None:
    with pytest.raises(IndexMismatchError, match=r"task: bundle .* has classification"):
        Embedder.load(sample_classification, index=loaded.folder)


def test_the_pages_programs_run(
    loaded: Loaded, sample_switchable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (DOCS / "tasks" / "stores.md").read_text(encoding="utf-8")
    programs = [text for language, text in FENCE.findall(page) if language == "python"]
    assert len(programs) == 1 + STORES
    places = {
        "build/sample/switchable-fp16-onnxruntime": sample_switchable,
        "build/vectors": loaded.folder,
        "build": tmp_path,
    }
    names: dict[str, object] = {}
    for program in programs:
        for place, real in places.items():
            program = re.sub(rf"(?<=[\"'])({place})(?=[\"'/])", str(real), program)
        exec(program, names)
    said = capsys.readouterr().out
    assert len(said.splitlines()) >= STORES
