"""Figures that are worked out of a report, by the names that pages bind them with.

A row takes the report and gives the numbers; several are shown as their range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from tests.bench.reports import COLUMNS, ratio, row_of

Report = Any
LENGTHS = COLUMNS[:-1]  # without the corpus


def times(
    report: Report, others: Sequence[str], ours: str, cases: Iterable[str] = LENGTHS
) -> list[float]:
    """The others' times in multiples of ours, in every case that both ran."""
    found = (ratio(report, other, ours, case) for other in others for case in cases)
    return [value for value in found if value is not None]


def rate(report: Report, gpu: str) -> list[float]:
    """Predicted tokens per second of an FP16 engine with 8 texts of 512 tokens, two digits."""
    found = (row for row in report["predicted"] if (row["gpu"], row["case"]) == (gpu, "FP16"))
    return [float(f"{8 * 512 / row['milliseconds']['8x512'] * 1e3:.2g}") for row in found]


def memory(report: Report, other: str, ours: str, cases: Iterable[str]) -> list[float]:
    """The other's extra memory in multiples of ours."""
    pairs = [[row_of(report, who, case) for who in (other, ours)] for case in cases]
    return [a["extra_gb"] / b["extra_gb"] for a, b in pairs if a is not None and b is not None]


_FP32, _BF16, _INT8 = "adaptrt", "adaptrt OpenVINO BF16", "adaptrt OpenVINO INT8"
_PYTORCH = ("PyTorch BF16", "PyTorch BF16 compiled")
_ST = ("sentence-transformers BF16",)
_NAIVE = "naive ONNX export"
DERIVED: Mapping[str, Callable[[Report], Iterable[float]]] = {
    # of zen5-full
    "bf16-to-fp32": partial(times, others=(_BF16,), ours=_FP32),
    "int8-to-fp32-to-512": partial(times, others=(_INT8,), ours=_FP32, cases=("1x128", "1x512")),
    "pytorch-to-bf16": partial(times, others=_PYTORCH, ours=_BF16, cases=COLUMNS),
    "pytorch-to-int8": partial(times, others=_PYTORCH, ours=_INT8, cases=COLUMNS),
    "corpus-to-bf16": partial(times, others=_ST, ours=_BF16, cases=("corpus",)),
    "corpus-to-int8": partial(times, others=_ST, ours=_INT8, cases=("corpus",)),
    # of cpu-full and zen4-full
    "pytorch-to-fp32": partial(times, others=("PyTorch FlashAttention",), ours=_FP32),
    "naive-at-128": partial(times, others=(_NAIVE,), ours=_FP32, cases=("1x128",)),
    "naive-at-8192": partial(times, others=(_NAIVE,), ours=_FP32, cases=("1x8192",)),
    "naive-memory-at-8192": partial(memory, other=_NAIVE, ours=_FP32, cases=("1x8192",)),
    # of plans/full
    "rate-l4": partial(rate, gpu="L4"),
    "rate-a100": partial(rate, gpu="A100 40GB"),
    "rate-h100": partial(rate, gpu="H100 SXM"),
    "ort-int8-to-fp32": partial(times, others=("adaptrt INT8",), ours=_FP32),
}
