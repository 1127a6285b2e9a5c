"""sentence-transformers 5 with its ONNX backend: the instruction is the bundle's own prompt."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer


def main(bundle: str, request: str, answer: str) -> None:
    texts = json.loads(Path(request).read_text(encoding="utf-8"))["texts"]
    model = SentenceTransformer(bundle, backend="onnx")
    vectors = model.encode(texts)
    # A merged bundle has one task, whichever of the three is called.
    for method in (model.encode_query, model.encode_document):
        if not np.array_equal(method(texts), vectors):
            raise SystemExit(f"{method.__name__} gives other vectors than encode")
    result = {"version": version("sentence-transformers"), "vectors": vectors.tolist()}
    Path(answer).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
