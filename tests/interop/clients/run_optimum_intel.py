"""optimum-intel: token vectors by ``OVModelForFeatureExtraction``, pooled here."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from optimum.intel import OVModelForFeatureExtraction
from transformers import AutoTokenizer


def main(bundle: str, request: str, answer: str) -> None:
    asked = json.loads(Path(request).read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(bundle)
    # Without a hint OpenVINO takes BF16 where the CPU has it.
    chosen = {"ov_config": {"INFERENCE_PRECISION_HINT": asked["hint"]}} if asked["hint"] else {}
    model = OVModelForFeatureExtraction.from_pretrained(bundle, subfolder="openvino", **chosen)
    texts = [asked["prefix"] + text for text in asked["texts"]]
    tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="np")
    tokens_vectors = model(**tokens).last_hidden_state
    mask = tokens["attention_mask"][..., None]
    vectors = (tokens_vectors * mask).sum(1) / mask.sum(1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    result = {"version": version("optimum-intel"), "vectors": vectors.tolist()}
    Path(answer).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
