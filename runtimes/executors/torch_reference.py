"""Executors on PyTorch: the FlashAttention reference, and any module with the encoder's contract.

The only runtime module that imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

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
    """Where attention is computed."""

    FLASH = "flash"  # PyTorch's own FlashAttention: FP32 on a CPU, FP16 and BF16 on a GPU
    MATH = "math"  # plain products, in any type on any device
    FLASH_ATTENTION_2 = "flash_attention_2"  # the flash-attn package, under transformers' name


_KERNEL_NAMES = {
    Kernel.FLASH: "torch-sdpa-flash",
    Kernel.MATH: "torch-sdpa-math",
    Kernel.FLASH_ATTENTION_2: "flash-attn",
}
_BACKENDS = {Kernel.FLASH: SDPBackend.FLASH_ATTENTION, Kernel.MATH: SDPBackend.MATH}


class FlashReference(RuntimeBase):
    """A transformers encoder run on unpadded texts through a FlashAttention kernel.

    With scaled-dot-product attention the kernel is pinned: where PyTorch could not use it, it
    raises and nothing falls back. Padded inputs are unpadded, and rows of equal length run
    together, so no mask is involved. FP32 is FP32: no product is rounded to TF32 or BF16.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        device: str = Device.CPU,
        dtype: torch.dtype = torch.float32,
        kernel: Kernel = Kernel.FLASH,
    ) -> None:
        """Moves and casts ``model`` itself."""
        for parameter in model.parameters():  # not .to(dtype): that would round RoPE's frequencies
            parameter.data = parameter.data.to(dtype)
        if kernel not in _BACKENDS:
            model.set_attn_implementation(kernel.value)  # type: ignore[operator]
        self._model = model.eval().to(device)
        self.device, self._dtype, self.kernel = device, dtype, kernel

    @property
    def name(self) -> str:
        """Kernel, device and element type."""
        kernel, dtype = _KERNEL_NAMES[self.kernel], str(self._dtype).removeprefix("torch.")
        return f"{kernel}-{self.device}-{dtype}"

    @while_open
    def token_vectors(self, ids: np.ndarray[Any, Any]) -> torch.Tensor:
        """``[batch, sequence]`` ids without padding → ``[batch, sequence, hidden]`` in FP32."""
        return self._token_vectors(ids)

    def _token_vectors(self, ids: np.ndarray[Any, Any]) -> torch.Tensor:
        batch = torch.from_numpy(np.ascontiguousarray(ids)).to(self.device)
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            stack.enter_context(exact_products())
            if (backend := _BACKENDS.get(self.kernel)) is not None:
                stack.enter_context(sdpa_kernel(backend))
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
                with exact_products():
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


def reference_place() -> tuple[Device, Kernel]:
    """Where the FP32 reference runs on this machine: on the GPU that PyTorch sees, else the CPU.

    FlashAttention on a GPU takes FP16 and BF16 alone; there attention is plain FP32 products.
    """
    if torch.cuda.is_available():
        return Device.CUDA, Kernel.MATH
    return Device.CPU, Kernel.FLASH


@contextmanager
def exact_products() -> Iterator[None]:
    """FP32 products in FP32, whatever the process allows (TF32 on a GPU, BF16 on a CPU)."""
    cpu: Any = torch.backends.mkldnn  # its types leave out matmul
    backends = (torch.backends.cuda.matmul, cpu.matmul)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


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
