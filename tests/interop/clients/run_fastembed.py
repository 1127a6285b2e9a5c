"""fastembed: as a custom model, or with a task's number as the model it has built in."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType
from fastembed.text.multitask_embedding import JinaEmbeddingV3


def official(bundle: str, task: int) -> Any:
    return JinaEmbeddingV3(
        "jinaai/jina-embeddings-v3", specific_model_path=bundle, task_id=task, cuda=False
    )


def custom(bundle: str) -> Any:
    TextEmbedding.add_custom_model(
        model="local/bundle",
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf="local/bundle"),
        dim=json.loads((Path(bundle) / "config.json").read_text())["hidden_size"],
        model_file="onnx/model.onnx",
    )
    return TextEmbedding("local/bundle", specific_model_path=bundle, cuda=False)


def main(bundle: str, request: str, answer: str) -> None:
    asked = json.loads(Path(request).read_text(encoding="utf-8"))
    task = asked["inputs"].get("task_id")
    model = custom(bundle) if task is None else official(bundle, task)
    vectors = np.stack(list(model.embed([asked["prefix"] + text for text in asked["texts"]])))
    result = {"version": version("fastembed"), "vectors": vectors.tolist()}
    Path(answer).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
