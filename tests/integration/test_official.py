"""fastembed: the official file's interface, which it knows, and a merged bundle as a model."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType
from fastembed.text.multitask_embedding import JinaEmbeddingV3

from adaptrt import Embedder
from runtimes.manifest import read_manifest
from tests.support import Array, build, edit_json

TASKS = ("retrieval.query", "retrieval.passage", "separation", "classification", "text-matching")
TEXTS = ["The last train leaves at ten.", "東京は雨です。", "Wo ist der Bahnhof, bitte?"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("official")
    choices = ("--adapter", "switchable", "--interface", "official")
    assert build(out, *choices, tokens=2048) == 0
    return out / "sample" / "official-fp32"


def test_contract_is_the_official_files(bundle: Path) -> None:
    session = ort.InferenceSession(
        bundle / "onnx" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    inputs = {i.name: (i.type, i.shape) for i in session.get_inputs()}
    assert inputs["task_id"] == ("tensor(int64)", [])
    assert inputs["input_ids"] == ("tensor(int64)", ["batch", "sequence"])
    assert inputs["attention_mask"] == ("tensor(int64)", ["batch", "sequence"])
    first = session.get_outputs()[0]
    assert (first.name, first.type, first.shape) == (
        "text_embeds",
        "tensor(float)",
        ["batch", "sequence", 256],
    )


@pytest.mark.parametrize("number", range(5))
def test_fastembed_gives_our_vectors(bundle: Path, number: int) -> None:
    client = JinaEmbeddingV3(
        "jinaai/jina-embeddings-v3",
        specific_model_path=str(bundle),
        task_id=number,
        cuda=False,
        threads=2,
    )
    theirs: Array = np.stack(list(client.embed(TEXTS)))
    with Embedder.load(bundle) as embedder:
        ours = embedder.encode(TEXTS, task=TASKS[number], prefix=False)
    assert np.abs(theirs - ours).max() <= 1e-5


def test_scalar_tasks_of_a_mixed_list_run_apart_and_keep_their_order(bundle: Path) -> None:
    tasks = ["separation", "base", "classification"]
    with Embedder.load(bundle) as embedder:
        mixed = embedder.encode(TEXTS, task=tasks)
        for row, (text, task) in enumerate(zip(TEXTS, tasks, strict=True)):
            assert np.allclose(mixed[row], embedder.encode([text], task=task)[0], atol=1e-6)


@pytest.fixture(scope="module")
def custom() -> str:
    """The name of a model that fastembed is told of: how a merged bundle's vectors are pooled."""
    name = "local/bundle"
    TextEmbedding.add_custom_model(
        model=name,
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf=name),
        dim=64,
        model_file="onnx/model.onnx",
    )
    return name


def test_fastembed_takes_a_merged_bundle_as_a_model_of_its_own(
    custom: str, query_bundle: Path, tmp_path: Path
) -> None:
    """Not cut at 80 tokens, which is what `max_length` of the checkpoint's own file makes of it."""
    texts = [*TEXTS, "the old house by the sea " * 30]
    prefix = read_manifest(query_bundle).prefix
    with Embedder.load(query_bundle) as embedder:
        ours = embedder.encode(texts)
    cut = Path(shutil.copytree(query_bundle, tmp_path / "cut"))
    edit_json(cut / "tokenizer_config.json", max_length=80)
    for folder, equal in ((query_bundle, [True] * 4), (cut, [True, True, True, False])):
        model = TextEmbedding(custom, specific_model_path=str(folder), cuda=False, threads=2)
        theirs: Array = np.stack(list(model.embed([prefix + text for text in texts])))
        assert (np.abs(theirs - ours).max(axis=1) <= 1e-5).tolist() == equal
