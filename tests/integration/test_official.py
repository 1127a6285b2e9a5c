"""The official file's interface, through a client that was written for the official file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from fastembed.text.multitask_embedding import JinaEmbeddingV3

from adaptrt import Embedder
from tests.support import Array, build

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
