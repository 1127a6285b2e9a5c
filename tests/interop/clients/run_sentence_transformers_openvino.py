"""sentence-transformers 5 with its OpenVINO backend, in the type of products that is asked for."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer


def main(bundle: str, request: str, answer: str) -> None:
    asked = json.loads(Path(request).read_text(encoding="utf-8"))
    # Without a hint OpenVINO takes BF16 where the CPU has it.
    chosen = {"ov_config": {"INFERENCE_PRECISION_HINT": asked["hint"]}} if asked["hint"] else {}
    model = SentenceTransformer(bundle, backend="openvino", model_kwargs=chosen)
    vectors = model.encode(asked["texts"])
    for method in (model.encode_query, model.encode_document):
        if not np.array_equal(method(asked["texts"]), vectors):
            raise SystemExit(f"{method.__name__} gives other vectors than encode")
    result = {"version": version("sentence-transformers"), "vectors": vectors.tolist()}
    Path(answer).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
