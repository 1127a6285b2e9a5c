"""The reference is FP32 wherever it runs, and nothing it uses is left changed."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from export.checkpoint.reader import Checkpoint
from export.gate.reference import reference_model
from runtimes.choices import Device
from runtimes.executors.torch_reference import (
    FlashReference,
    Kernel,
    exact_products,
    reference_place,
)
from tests.support import cosines

MATMULS = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
INPUTS = {
    "input_ids": np.array([[5, 6, 7], [8, 9, 1]], np.int64),
    "attention_mask": np.array([[1, 1, 1], [1, 1, 0]], np.int64),
}


class Watched(nn.Module):
    """Notes how FP32 products are computed while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[list[str]] = []

    def forward(self, input_ids: torch.Tensor) -> Any:
        self.noted.append([backend.fp32_precision for backend in MATMULS])
        return SimpleNamespace(last_hidden_state=torch.ones(*input_ids.shape, 4))


@pytest.fixture
def rounded() -> Iterator[None]:
    """A process that lets PyTorch round FP32 products."""
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("rounded")
def test_products_of_the_reference_are_fp32_where_the_process_allows_less() -> None:
    """On a GPU TF32, on a CPU BF16."""
    model = Watched()
    with FlashReference(model) as reference:
        reference.run(INPUTS)
        reference.token_vectors(INPUTS["input_ids"])
    assert model.noted == [["ieee", "ieee"]] * 3
    assert [backend.fp32_precision for backend in MATMULS] == ["tf32", "bf16"]


@pytest.mark.usefixtures("rounded")
def test_what_the_process_allows_comes_back_after_an_error() -> None:
    with pytest.raises(ValueError, match="inside"), exact_products():
        raise ValueError("inside")
    assert [backend.fp32_precision for backend in MATMULS] == ["tf32", "bf16"]


@pytest.mark.parametrize(
    ("gpu", "place"),
    [(False, (Device.CPU, Kernel.FLASH)), (True, (Device.CUDA, Kernel.MATH))],
    ids=["without a GPU", "with a GPU"],
)
def test_place_of_the_reference(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, place: tuple[Device, Kernel]
) -> None:
    """FlashAttention takes no FP32 on a GPU; the reference used to become FP16 there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert reference_place() == place


def test_plain_products_give_the_vectors_of_flash_attention(small: Checkpoint) -> None:
    """What a GPU's reference computes, on a CPU."""
    vectors = []
    for kernel in (Kernel.FLASH, Kernel.MATH):
        with FlashReference(reference_model(small, "separation"), kernel=kernel) as reference:
            assert reference.name == f"torch-sdpa-{kernel}-cpu-float32"
            vectors.append(reference.run(INPUTS)["sentence_embedding"])
    assert cosines(*vectors).min() >= 1 - 1e-6
