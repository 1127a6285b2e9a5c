"""Executors on PyTorch: the FlashAttention reference, and any module with the encoder's contract.

The only runtime module that imports torch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from runtimes.arrays import Arrays
from runtimes.choices import Choice, Device
from runtimes.errors import InputError
from runtimes.executors.base import RuntimeBase, while_open
from runtimes.tensors import ATTENTION_MASK, INPUT_IDS, SENTENCE_EMBEDDING


class Kernel(Choice):
    """Where attention is computed, as transformers names it."""

    SDPA = "sdpa"  # PyTorch's own FlashAttention
    FLASH_ATTENTION_2 = "flash_attention_2"  # the flash-attn package


_KERNEL_NAMES = {Kernel.SDPA: "torch-sdpa-flash", Kernel.FLASH_ATTENTION_2: "flash-attn"}


class ReferenceSettings(TypedDict):
    """How :class:`FlashReference` runs."""

    device: Device
    dtype: torch.dtype
    kernel: Kernel


class FlashReference(RuntimeBase):
    """A transformers encoder run on unpadded texts through a FlashAttention kernel.

    With scaled-dot-product attention the kernel is pinned: where PyTorch could not use it, it
    raises and nothing falls back. Padded inputs are unpadded, and rows of equal length run
    together, so no mask is involved.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        device: str = Device.CPU,
        dtype: torch.dtype = torch.float32,
        kernel: Kernel = Kernel.SDPA,
    ) -> None:
        """Moves and casts ``model`` itself."""
        for parameter in model.parameters():  # not .to(dtype): that would round RoPE's frequencies
            parameter.data = parameter.data.to(dtype)
        if kernel is not Kernel.SDPA:
            model.set_attn_implementation(kernel.value)  # type: ignore[operator]
        self._model = model.eval().to(device)
        self.device, self._dtype, self._kernel = device, dtype, kernel

    @property
    def name(self) -> str:
        """Kernel, device and element type."""
        kernel, dtype = _KERNEL_NAMES[self._kernel], str(self._dtype).removeprefix("torch.")
        return f"{kernel}-{self.device}-{dtype}"

    @while_open
    def token_vectors(self, ids: np.ndarray[Any, Any]) -> torch.Tensor:
        """``[batch, sequence]`` ids without padding → ``[batch, sequence, hidden]`` in FP32."""
        return self._token_vectors(ids)

    def _token_vectors(self, ids: np.ndarray[Any, Any]) -> torch.Tensor:
        batch = torch.from_numpy(np.ascontiguousarray(ids)).to(self.device)
        with torch.inference_mode(), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            hidden: torch.Tensor = self._model(input_ids=batch).last_hidden_state.float()
        return hidden

    @while_open
    def run(self, inputs: Arrays) -> Arrays:
        """The encoder's contract, by unpadding (right padding only).

        With ``chunk_weights`` ``[batch, chunks, sequence]``, that of a chunk head.
        """
        ids, weights = inputs[INPUT_IDS.name], inputs.get("chunk_weights")
        lengths = _lengths(inputs[ATTENTION_MASK.name])
        vectors: dict[int, NDArray[np.float32]] = {}
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            tokens = self._token_vectors(ids[rows, :length])
            if weights is None:
                means = tokens.mean(1)
            else:
                means = torch.from_numpy(weights[rows, :, :length]).to(tokens.device) @ tokens
            unit = (means / means.norm(dim=-1, keepdim=True)).cpu().numpy()
            vectors |= dict(zip(rows.tolist(), unit, strict=True))
        name = SENTENCE_EMBEDDING.name if weights is None else "chunk_embedding"
        return {name: np.stack([vectors[row] for row in range(len(ids))])}

    def _free(self) -> None:
        del self._model


def _lengths(mask: NDArray[np.int64]) -> NDArray[np.int64]:
    """Real tokens per row of ``[batch, sequence]``; raises where padding is not at the end."""
    lengths: NDArray[np.int64] = mask.sum(1)
    if not lengths.all() or (mask != (np.arange(mask.shape[1]) < lengths[:, None])).any():
        raise InputError("attention_mask: expected ones, then zeros, at least one one")
    return lengths


def reference_settings(dtype: str) -> ReferenceSettings:
    """How :class:`FlashReference` runs on this machine for a scheme's ``reference_dtype``.

    FlashAttention-2 takes FP16 and BF16 on a GPU only: there the reference runs in that
    type, through the flash-attn package where it is installed, else PyTorch's kernel.
    Everywhere else it is FP32 through the CPU's flash kernel.
    """
    if dtype == "float32" or not torch.cuda.is_available():
        return {"device": Device.CPU, "dtype": torch.float32, "kernel": Kernel.SDPA}
    package = importlib.util.find_spec("flash_attn") is not None
    return {
        "device": Device.CUDA,
        "dtype": getattr(torch, dtype),
        "kernel": Kernel.FLASH_ATTENTION_2 if package else Kernel.SDPA,
    }


class TorchModule(RuntimeBase):
    """The traced module itself, for types ONNX Runtime cannot run on a CPU (BF16)."""

    def __init__(
        self,
        module: nn.Module,
        output: str = SENTENCE_EMBEDDING.name,
        *,
        inputs: Sequence[str] = (INPUT_IDS.name, ATTENTION_MASK.name),
    ) -> None:
        """``inputs`` are the names of what the module takes, in its order."""
        self._module, self._output, self._inputs = module.eval(), output, tuple(inputs)

    @property
    def name(self) -> str:
        """What manifests record."""
        return "torch-cpu-traced-module"

    @while_open
    def run(self, inputs: Arrays) -> Arrays:
        """Execute once."""
        with torch.inference_mode():
            output = self._module(*(torch.from_numpy(inputs[name]) for name in self._inputs))
        return {self._output: output.numpy()}

    def _free(self) -> None:
        del self._module
