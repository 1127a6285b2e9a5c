"""Executors on PyTorch: the FlashAttention reference, and any module with the encoder's contract.

The only runtime module that imports torch.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from runtimes.base import Arrays, RuntimeBase
from runtimes.errors import InputError


class FlashReference(RuntimeBase):
    """A transformers encoder run one unpadded text at a time through a FlashAttention kernel.

    With scaled-dot-product attention the kernel is pinned: where PyTorch could not use it, it
    raises and nothing falls back. Padded inputs are unpadded row by row, so no mask is involved.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        kernel: str = "sdpa",
    ) -> None:
        """Moves and casts ``model`` itself; ``kernel`` is sdpa or flash_attention_2."""
        for parameter in model.parameters():  # not .to(dtype): that would round RoPE's frequencies
            parameter.data = parameter.data.to(dtype)
        if kernel != "sdpa":
            model.set_attn_implementation(kernel)  # type: ignore[operator]
        self._model = model.eval().to(device)
        self.device, self._dtype, self._kernel = device, dtype, kernel

    @property
    def name(self) -> str:
        """Kernel, device and element type."""
        kernel = {"sdpa": "torch-sdpa-flash", "flash_attention_2": "flash-attn"}[self._kernel]
        return f"{kernel}-{self.device}-{str(self._dtype).removeprefix('torch.')}"

    def token_vectors(self, ids: np.ndarray[Any, Any]) -> torch.Tensor:
        """``[sequence]`` ids of one text → ``[sequence, hidden]`` in FP32."""
        batch = torch.from_numpy(np.ascontiguousarray(ids))[None].to(self.device)
        with torch.inference_mode(), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            hidden: torch.Tensor = self._model(input_ids=batch).last_hidden_state[0].float()
        return hidden

    def run(self, inputs: Arrays) -> Arrays:
        """The encoder's contract, by unpadding each row (right padding only).

        With ``chunk_weights`` ``[batch, chunks, sequence]``, that of a chunk head.
        """
        weights = inputs.get("chunk_weights")
        rows = []
        for index, (ids, mask) in enumerate(
            zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
        ):
            length = int(mask.sum())
            if length == 0 or not mask[:length].all():
                raise InputError("attention_mask: expected ones, then zeros, at least one one")
            tokens = self.token_vectors(ids[:length])
            if weights is None:
                means = tokens.mean(0)
            else:
                means = torch.from_numpy(weights[index, :, :length]).to(tokens.device) @ tokens
            rows.append((means / means.norm(dim=-1, keepdim=True)).cpu().numpy())
        return {"sentence_embedding" if weights is None else "chunk_embedding": np.stack(rows)}


def reference_settings(precision: str) -> dict[str, Any]:
    """How :class:`FlashReference` runs on this machine for a bundle's precision.

    FlashAttention-2 takes FP16 and BF16 on a GPU only: there the reference runs in the bundle's
    own type, through the flash-attn package where it is installed, else PyTorch's kernel.
    Everywhere else it is FP32 through the CPU's flash kernel.
    """
    half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision)
    if half is None or not torch.cuda.is_available():
        return {"device": "cpu", "dtype": torch.float32, "kernel": "sdpa"}
    package = importlib.util.find_spec("flash_attn") is not None
    return {"device": "cuda", "dtype": half, "kernel": "flash_attention_2" if package else "sdpa"}


class TorchModule(RuntimeBase):
    """The traced module itself, for types ONNX Runtime cannot run on a CPU (BF16)."""

    def __init__(self, module: nn.Module, output: str = "sentence_embedding") -> None:
        self._module, self._output = module.eval(), output

    @property
    def name(self) -> str:
        """What manifests record."""
        return "torch-cpu-traced-module"

    def run(self, inputs: Arrays) -> Arrays:
        """Execute once."""
        with torch.inference_mode():
            output = self._module(**{n: torch.from_numpy(a) for n, a in inputs.items()})
        return {self._output: output.numpy()}
