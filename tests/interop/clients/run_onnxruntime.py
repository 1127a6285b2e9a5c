"""ONNX Runtime and tokenizers alone: the graph for a CPU, of any kind of bundle."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

GRAPHS = ("onnx/model.onnx", "model.onnxruntime.onnx")


def main(bundle: str, request: str, answer: str) -> None:
    asked = json.loads(Path(request).read_text(encoding="utf-8"))
    folder = Path(bundle)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id("<pad>"), pad_token="<pad>")
    rows = tokenizer.encode_batch([asked["prefix"] + text for text in asked["texts"]])
    mask = np.array([row.attention_mask for row in rows], np.int64)
    inputs = {"input_ids": np.array([row.ids for row in rows], np.int64), "attention_mask": mask}
    path = next(folder / name for name in GRAPHS if (folder / name).is_file())
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for graph_input in session.get_inputs():
        if graph_input.name == "task_id":
            rank = [len(rows)] * len(graph_input.shape)
            inputs["task_id"] = np.full(rank, asked["inputs"]["task_id"], np.int64)
        elif graph_input.name not in inputs:  # a slot's adapter: none
            shape = [1 if isinstance(axis, str) else axis for axis in graph_input.shape]
            inputs[graph_input.name] = np.zeros(shape, np.float32)
    names = [output.name for output in session.get_outputs()]
    given = dict(zip(names, session.run(names, inputs), strict=True))
    pooled = given.pop("sentence_embedding", None)
    for name in {"last_hidden_state", "text_embeds"} & given.keys():
        mean = (given[name] * mask[..., None]).sum(1) / mask.sum(1)[:, None]
        mean /= np.linalg.norm(mean, axis=1, keepdims=True)
        if pooled is not None and np.abs(mean - pooled).max() > 1e-6:
            raise SystemExit(f"the mean of {name} is not sentence_embedding")
        pooled = mean
    result = {"version": ort.__version__, "vectors": np.asarray(pooled).tolist()}
    Path(answer).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
