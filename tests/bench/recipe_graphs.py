"""What libraries that quantise are given: the FP32 graph and token ids, in a folder for each case.

The graph is ``torch.onnx.export`` of the transformers model with PEFT's adapter merged into it, as
a user of those libraries has it; its output is a vector per token.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from export.checkpoint.reader import open_checkpoint
from export.gate.reference import reference_model
from runtimes.arrays import Ids, Vectors
from tests.bench.recipe_worker import EXACT_FILE, GRAPH_FILE, ROWS_FILE
from tests.bench.recipes import TOKENS, texts_of


class Tokens(torch.nn.Module):
    """The model without its pooler, which nothing here reads."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        found = self.model(input_ids=input_ids, attention_mask=attention_mask)
        tokens: torch.Tensor = found.last_hidden_state
        return tokens


def write_case(model: Path, task: str, folder: Path) -> int:
    """The graph, the ids of both kinds of texts, and what PyTorch makes of those to judge by.

    How many there are to judge by.
    """
    checkpoint = open_checkpoint(model)
    merged = merge_adapter(reference_model(checkpoint, task)).eval()
    calibrated, judged = texts_of(checkpoint, task)
    folder.mkdir(parents=True)
    rows: dict[str, Any] = {**_flat("calibrated", calibrated), **_flat("judged", judged)}
    np.savez(folder / ROWS_FILE, **rows)
    np.save(folder / EXACT_FILE, mean_vectors(merged, judged))
    export_graph(merged, folder / GRAPH_FILE)
    return len(judged)


def merge_adapter(model: Any) -> Any:
    """The model with plain layers again, PEFT's updates added to their weights."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, BaseTunerLayer)]
    for name, layer in layers:
        layer.merge()
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer.get_base_layer())
    return model


def export_graph(model: Any, path: Path) -> None:
    """Opset 18, dynamic shapes, weights inside the file."""
    example = (torch.ones((2, 16), dtype=torch.int64), torch.ones((2, 16), dtype=torch.int64))
    axes = {0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("sequence", max=TOKENS)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Tokens(model),
            example,
            str(path),
            dynamo=True,
            opset_version=18,
            input_names=["input_ids", "attention_mask"],
            output_names=["last_hidden_state"],
            dynamic_shapes={"input_ids": axes, "attention_mask": axes},
            external_data=False,
            verbose=False,
        )


def mean_vectors(model: Any, texts: Sequence[Ids]) -> Vectors:
    """Unit rows, one unpadded text at a time."""
    rows = []
    with torch.inference_mode():
        for ids in texts:
            hidden = model(input_ids=torch.from_numpy(ids)[None].long()).last_hidden_state[0]
            rows.append(normalize(hidden.mean(0), dim=0).numpy())
    return np.stack(rows)


def _flat(name: str, texts: Sequence[Ids]) -> dict[str, Ids]:
    lengths = np.array([len(ids) for ids in texts], np.int64)
    return {name: np.concatenate(texts).astype(np.int64), f"{name}_lengths": lengths}
