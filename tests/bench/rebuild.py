"""The official file's way of switching, for comparison: every matrix is rebuilt at every call.

``W + scaling · B[task] · A[task]`` for the embedding table (250002 × 1024 at full size) and every
layer, as the published ONNX graph does, then the encoder on the rebuilt weights.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from export.checkpoint.names import POOLER, adaptable_modules
from export.checkpoint.reader import open_checkpoint
from export.graph.encoder import Encoder
from export.graph.weights import Contents, tensor_blocks

FILE = "rebuild.onnx"
MAX_TOKENS = 8192


class RebuildingEncoder(nn.Module):
    """The encoder behind a scalar ``task_id`` that selects factors and rebuilds all weights."""

    def __init__(self, encoder: Encoder, factors: dict[str, tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.encoder = encoder
        self.names = list(factors)
        self.down = nn.ParameterList([down for down, _ in factors.values()])
        self.up = nn.ParameterList([up for _, up in factors.values()])

    def forward(self, input_ids: Tensor, attention_mask: Tensor, task_id: Tensor) -> Tensor:
        weights: dict[str, Tensor] = dict(self.encoder.named_parameters())
        for name, down, up in zip(self.names, self.down, self.up, strict=True):
            key = f"{name}.weight"
            low = down.index_select(0, task_id.reshape(1))[0]
            weights[key] = weights[key] + low @ up.index_select(0, task_id.reshape(1))[0]
        result: Tensor = torch.func.functional_call(
            self.encoder, weights, (input_ids, attention_mask)
        )
        return result


def export_rebuild(model: Path, out: Path) -> None:
    """Write the graph with its weights beside it."""
    checkpoint = open_checkpoint(model)
    contents = Contents(checkpoint, checkpoint.adapter("base"))
    encoder = Encoder(checkpoint.config, torch.float32, MAX_TOKENS).eval()
    with torch.no_grad():
        for name, value in encoder.state_dict().items():
            blocks = list(tensor_blocks(contents, name, MAX_TOKENS))
            value.copy_(torch.from_numpy(np.concatenate(blocks)))
    adapters = [checkpoint.adapter(task) for task in checkpoint.tasks]
    factors = {}
    for name in adaptable_modules(checkpoint.config):
        if name != POOLER:
            pairs = [adapter.modules[name] for adapter in adapters]
            factors[name] = (
                torch.from_numpy(np.stack([p.down for p in pairs])),
                torch.from_numpy(np.stack([p.up * np.float32(p.scaling) for p in pairs])),
            )
    example = tuple(torch.ones((2, 7), dtype=torch.int64) for _ in range(2))
    axes = {0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("sequence", max=MAX_TOKENS)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            RebuildingEncoder(encoder, factors).eval(),
            (*example, torch.tensor(3)),
            str(out),
            dynamo=True,
            opset_version=23,
            optimize=False,
            external_data=True,
            verbose=False,
            input_names=["input_ids", "attention_mask", "task_id"],
            output_names=["sentence_embedding"],
            dynamic_shapes=(axes, axes, {}),
        )
