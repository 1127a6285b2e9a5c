"""A bundle as a module of sentence-transformers 6."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.util import semantic_search

from adaptrt import Embedder, InputError, TruncationWarning
from adaptrt.integrations.sentence_transformers import Bundle
from tests.interop.retrieval import ANSWERS, QUESTIONS, distance, embed
from tests.support import Array

TASKS = ("retrieval.query", "retrieval.passage", "text-matching", "classification", "base")


@pytest.fixture(scope="module")
def model(sample_switchable: Path) -> SentenceTransformer:
    return SentenceTransformer(modules=[Bundle(sample_switchable)], device="cpu")


@pytest.fixture(scope="module")
def routed(sample_query: Path, sample_passage: Path) -> SentenceTransformer:
    """Two merged bundles in one model."""
    router = Router.for_query_document([Bundle(sample_query)], [Bundle(sample_passage)])
    return SentenceTransformer(modules=[router], device="cpu")


@pytest.mark.parametrize("kind", ["model", "routed"])
def test_each_side_has_its_task_and_its_instruction_once(
    kind: str, request: pytest.FixtureRequest, query_vectors: Array, passage_vectors: Array
) -> None:
    model = request.getfixturevalue(kind)
    queries, passages = model.encode_query(list(QUESTIONS)), model.encode_document(ANSWERS)
    assert distance(queries, query_vectors) <= 1e-5
    assert distance(passages, passage_vectors) <= 1e-5
    assert distance(model.encode_query(QUESTIONS[0]), query_vectors[0]) <= 1e-5
    found = semantic_search(queries, passages, top_k=1)
    assert [first["corpus_id"] for (first,) in found] == list(range(len(QUESTIONS)))
    assert model.similarity(queries, passages).argmax(1).tolist() == list(range(len(QUESTIONS)))


@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_chosen_for_a_call(
    model: SentenceTransformer, sample_switchable: Path, task: str
) -> None:
    theirs = model.encode(list(QUESTIONS), task=task, batch_size=2)
    assert distance(theirs, embed(sample_switchable, QUESTIONS, task=task)) <= 1e-5


@pytest.mark.parametrize(
    "named",
    [{"prompt_name": "query"}, {"prompt_name": "retrieval.query"}, {"prompt": ""}, {}],
    ids=str,
)
def test_the_instruction_by_name_is_not_put_twice(
    model: SentenceTransformer, query_vectors: Array, named: dict[str, str]
) -> None:
    theirs = model.encode(list(QUESTIONS), task="retrieval.query", **named)
    assert distance(theirs, query_vectors) <= 1e-5


def test_a_prompt_replaces_the_instruction(
    model: SentenceTransformer, sample_switchable: Path, query_vectors: Array
) -> None:
    theirs = model.encode_query(list(QUESTIONS), prompt="Frage: ")
    prompted = [f"Frage: {question}" for question in QUESTIONS]
    task = "retrieval.query"
    ours = embed(sample_switchable, prompted, task=task, prefix=False)
    assert distance(theirs, ours) <= 1e-5
    assert distance(theirs, query_vectors) > 1e-2


def test_prompts_of_the_model_stay(sample_switchable: Path) -> None:
    given = {"query": "Frage: "}
    model = SentenceTransformer(modules=[Bundle(sample_switchable)], device="cpu", prompts=given)
    task = "retrieval.query"
    ours = embed(sample_switchable, [f"Frage: {QUESTIONS[0]}"], task=task, prefix=False)
    assert distance(model.encode_query([QUESTIONS[0]]), ours) <= 1e-5
    assert model.prompts["document"] == "Represent the document for retrieval: "


def test_a_merged_bundle_has_its_own_task(sample_classification: Path) -> None:
    model = SentenceTransformer(modules=[Bundle(sample_classification)], device="cpu")
    ours = embed(sample_classification, ANSWERS)
    for encode in (model.encode, model.encode_query, model.encode_document):
        assert distance(encode(ANSWERS), ours) <= 1e-5
    with pytest.raises(InputError, match="task: got 'base', this bundle has classification"):
        model.encode(ANSWERS, task="base")


def test_what_has_no_task_is_refused(model: SentenceTransformer, sample_switchable: Path) -> None:
    with pytest.raises(InputError, match=r"task: none given, expected one of retrieval.query"):
        model.encode(ANSWERS)
    with pytest.raises(InputError, match="task: got 'clustering', expected one of"):
        model.encode(ANSWERS, task="clustering")
    matching = Bundle(sample_switchable, task="text-matching")
    theirs = SentenceTransformer(modules=[matching], device="cpu").encode(ANSWERS)
    assert distance(theirs, embed(sample_switchable, ANSWERS, task="text-matching")) <= 1e-5


def test_the_other_side_is_refused(sample_query: Path, sample_passage: Path) -> None:
    queries = SentenceTransformer(modules=[Bundle(sample_query)], device="cpu")
    with pytest.raises(InputError, match=r"passages: got a bundle of retrieval.query, expected"):
        queries.encode_document(ANSWERS)
    passages = SentenceTransformer(modules=[Bundle(sample_passage)], device="cpu")
    with pytest.raises(InputError, match=r"queries: got a bundle of retrieval.passage, expected"):
        passages.encode_query(list(QUESTIONS))


@pytest.mark.parametrize("prompt", [None, "Frage: "])
@pytest.mark.parametrize("text", ["", ("a", "pair"), 5])
def test_what_is_no_text_is_refused(
    model: SentenceTransformer, text: object, prompt: str | None
) -> None:
    with pytest.raises((InputError, TypeError), match=r"text 0: (empty|got)|must be str|concat"):
        model.encode([text], task="base", prompt=prompt)


def test_truncation_is_the_embedders(model: SentenceTransformer, sample_switchable: Path) -> None:
    theirs = model.encode_query(list(QUESTIONS), truncate_dim=32, normalize_embeddings=True)
    ours = embed(sample_switchable, QUESTIONS, task="retrieval.query", dimensions=32)
    assert distance(theirs, ours) <= 1e-5
    assert model.get_embedding_dimension() == 256


def test_a_shorter_length_cuts_and_says_so(sample_switchable: Path, tmp_path: Path) -> None:
    module = Bundle(sample_switchable)
    model = SentenceTransformer(modules=[module], device="cpu")
    assert model.max_seq_length == 8192
    model.max_seq_length = 20
    copy = pickle.loads(pickle.dumps(model))
    assert copy.max_seq_length == 20
    for one in (model, copy):
        with pytest.warns(TruncationWarning, match="the bundle takes 20"):
            cut = one.encode_document(ANSWERS[0])
        assert distance(cut, embed(sample_switchable, ANSWERS[:1], task=TASKS[1])[0]) > 1e-3
    model.max_seq_length = 0
    with pytest.raises(InputError, match="max_seq_length: got 0, expected at least 3"):
        model.encode_document(ANSWERS[0])


def test_a_model_is_saved_and_loaded(
    model: SentenceTransformer, tmp_path: Path, query_vectors: Array, passage_vectors: Array
) -> None:
    model.save(str(tmp_path))
    (entry,) = json.loads((tmp_path / "modules.json").read_text())
    assert entry["type"] == "adaptrt.integrations.sentence_transformers.Bundle"
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        SentenceTransformer(str(tmp_path), device="cpu")
    options = {"threads": 1}
    loaded = SentenceTransformer(
        str(tmp_path), device="cpu", trust_remote_code=True, model_kwargs=options
    )
    assert loaded.prompts == model.prompts
    assert distance(loaded.encode_query(list(QUESTIONS)), query_vectors) <= 1e-5
    assert distance(loaded.encode_document(ANSWERS), passage_vectors) <= 1e-5
    loaded.save(str(tmp_path))  # over itself
    with Embedder.load(tmp_path / entry["path"]) as embedder:
        assert distance(embedder.encode(QUESTIONS, task=TASKS[0]), query_vectors) <= 1e-5


def test_two_bundles_are_saved_and_loaded(
    routed: SentenceTransformer, tmp_path: Path, query_vectors: Array, passage_vectors: Array
) -> None:
    routed.save(str(tmp_path))
    loaded = SentenceTransformer(str(tmp_path), device="cpu", trust_remote_code=True)
    assert distance(loaded.encode_query(list(QUESTIONS)), query_vectors) <= 1e-5
    assert distance(loaded.encode_document(ANSWERS), passage_vectors) <= 1e-5


def test_vectors_are_put_where_the_model_is(sample_switchable: Path) -> None:
    model = SentenceTransformer(modules=[Bundle(sample_switchable)], device="cpu")
    vectors = model.encode_query(list(QUESTIONS), convert_to_tensor=True)
    assert vectors.device == model.device == torch.device("cpu")
    meta = model.encode_query(list(QUESTIONS), convert_to_tensor=True, device="meta")
    assert meta.device.type == "meta"
