"""An encoder on the CPU, run as in process, for servers without a backend for the bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from triton_io import Arrays, answer, inputs_of, outputs

from runtimes.errors import AdaptrtError, InputError
from runtimes.manifest import read_manifest
from runtimes.open import open_runtime


class TritonPythonModel:
    """The bundle's CPU graph behind the tensors that the other backends' encoders have too."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the graph of the bundle that lies beside this file."""
        folder = Path(args["model_repository"]) / args["model_version"]
        manifest = read_manifest(folder)
        parameters = json.loads(args["model_config"])["parameters"]
        executor, threads = (parameters[n]["string_value"] for n in ("executor", "threads"))
        self._runtime = open_runtime(
            folder, manifest, executor, threads=int(threads) or None, spinning=False
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """The batcher's requests, equal in length, as one batch; one response each."""
        batches = [inputs_of(request) for request in requests]
        try:
            results = self._run({n: np.concatenate([b[n] for b in batches]) for n in batches[0]})
        except AdaptrtError:  # one of them is wrong, and that concerns no other
            return [answer(request, self._run) for request in requests]
        ends = np.cumsum([len(batch["input_ids"]) for batch in batches])[:-1]
        split = {name: np.split(array, ends) for name, array in results.items()}
        return [outputs({n: parts[i] for n, parts in split.items()}) for i in range(len(requests))]

    def finalize(self) -> None:
        """Free the graph."""
        self._runtime.close()

    def _run(self, inputs: Arrays) -> Arrays:
        """In calls as large as the embedder's: larger ones are slower, and memory has a bound."""
        _check(inputs)
        rows, tokens = inputs["input_ids"].shape
        size = max(1, self._runtime.budget.tokens // tokens)
        parts = [
            self._runtime.run({name: array[start : start + size] for name, array in inputs.items()})
            for start in range(0, rows, size)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _check(inputs: Arrays) -> None:
    """Rows without a token have no mean."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    if mask.shape != ids.shape or not mask.any(axis=1).all():
        raise InputError(
            f"attention_mask: got shape {list(mask.shape)} beside input_ids {list(ids.shape)}, "
            "expected the same shape and at least one token in every row"
        )
