"""``tokenize``: texts to token ids, rows one after another, with each token's characters."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from triton_io import Arrays, answer

from runtimes.serving.requests import decode
from runtimes.text.tokens import TextTokenizer, check_size


class TritonPythonModel:
    """The checkpoint's tokenizer; prefixes and limits are the caller's, but for that in bytes."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load ``tokenizer.json``, which lies beside this file."""
        path = Path(args["model_repository"]) / args["model_version"] / "tokenizer.json"
        self._tokenizer = TextTokenizer(path, max_tokens=sys.maxsize, pad_id=0)
        parameters = json.loads(args["model_config"])["parameters"]
        self._max_bytes = int(parameters["max_bytes"]["string_value"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request."""
        return [answer(request, self._tokenize) for request in requests]

    def _tokenize(self, inputs: Arrays) -> Arrays:
        for index, value in enumerate(inputs["TEXT"]):
            check_size(f"TEXT {index}", len(value), self._max_bytes)
        texts = decode("TEXT", inputs["TEXT"])
        if inputs["OFFSETS_WANTED"][0]:
            pairs = [self._tokenizer.tokenize_with_offsets(text) for text in texts]
            rows, offsets = [ids for ids, _ in pairs], np.concatenate([o for _, o in pairs])
        else:
            rows, offsets = self._tokenizer.tokenize(texts), np.zeros((0, 2), np.int64)
        return {
            "IDS": np.concatenate(rows),
            "LENGTHS": np.array([len(row) for row in rows], np.int64),
            "OFFSETS": offsets,
        }
