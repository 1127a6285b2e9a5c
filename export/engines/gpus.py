"""GPUs by name: what their makers say that they can do at most.

Peaks are dense, without sparsity, in TFLOP/s or TOP/s at the boost clock, with FP32 accumulators
(INT32 for INT8). From NVIDIA's data sheets of the L4, L40S, A10, A30, A100 (40 GB, SXM) and H100
(SXM); the RTX 4090 and 5090 from the appendices of the Ada and RTX Blackwell architecture
whitepapers. The Jetsons' briefs give sparse INT8 of the GPU alone, 170 TOPS at 1.3 GHz for AGX
Orin, which is 4096 dense operations per SM and clock, an A100's; Orin NX has half the SMs at
0.918 GHz. Float is FP32 as it stands, outside of tensor cores (the Jetsons': two operations per
core and clock): engines are built without TF32. Looked up (2026-11-28, on pages that repeat the
sheets): RTX 4090, L4, AGX Orin; the other rows were written down from memory of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One row. ``tflops`` are peaks by TensorRT's word for the type multiplied.

    ``half_accumulators`` is the peak of Half products that add up in Half; GeForce cards have half
    of it with FP32 accumulators, the others the same. ``bandwidth`` in GB/s, ``clock`` (boost) in
    GHz. ``watts`` is the power limit: a card with little may not hold its clock. ``devices`` are
    the names under which the driver knows it (it calls every Jetson of this kind "Orin").
    """

    name: str
    sm: str
    tflops: Mapping[str, float]
    half_accumulators: float
    bandwidth: float
    clock: float
    watts: int
    devices: tuple[str, ...]


def _gpu(
    name: str,
    sm: str,
    *,
    single: float,
    half: float,
    int8: float,
    bandwidth: float,
    clock: float,
    watts: int,
    fp8: float | None = None,
    half_accumulators: float | None = None,
    devices: tuple[str, ...] = (),
) -> Gpu:
    peaks = {"Float": single, "Half": half, "BFloat16": half, "Int8": int8}
    if fp8 is not None:
        peaks["FP8"] = fp8
    return Gpu(
        name=name,
        sm=sm,
        tflops=peaks,
        half_accumulators=half_accumulators or half,
        bandwidth=bandwidth,
        clock=clock,
        watts=watts,
        devices=devices or (f"NVIDIA {name}",),
    )


_ROWS = (
    _gpu(
        "Orin NX 16GB",
        "sm87",
        single=1.9,
        half=15,
        int8=30,
        bandwidth=102.4,
        clock=0.918,
        watts=25,
    ),
    _gpu(
        "AGX Orin 64GB",
        "sm87",
        single=5.3,
        half=42.5,
        int8=85,
        bandwidth=204.8,
        clock=1.3,
        watts=60,
    ),
    _gpu(
        "L4",
        "sm89",
        single=30.3,
        half=121,
        int8=242,
        fp8=242,
        bandwidth=300,
        clock=2.04,
        watts=72,
    ),
    _gpu("A10", "sm86", single=31.2, half=125, int8=250, bandwidth=600, clock=1.695, watts=150),
    _gpu("A30", "sm80", single=10.3, half=165, int8=330, bandwidth=933, clock=1.44, watts=165),
    _gpu(
        "L40S",
        "sm89",
        single=91.6,
        half=362,
        int8=733,
        fp8=733,
        bandwidth=864,
        clock=2.52,
        watts=350,
    ),
    _gpu(
        "RTX 4090",
        "sm89",
        single=82.6,
        half=165.2,
        half_accumulators=330.3,
        int8=660.6,
        fp8=330.3,
        bandwidth=1008,
        clock=2.52,
        watts=450,
        devices=("NVIDIA GeForce RTX 4090",),
    ),
    _gpu(
        "RTX 5090",
        "sm120",
        single=104.8,
        half=209.5,
        half_accumulators=419,
        int8=838,
        fp8=419,
        bandwidth=1792,
        clock=2.407,
        watts=575,
        devices=("NVIDIA GeForce RTX 5090",),
    ),
    _gpu(
        "A100 40GB",
        "sm80",
        single=19.5,
        half=312,
        int8=624,
        bandwidth=1555,
        clock=1.41,
        watts=400,
        devices=("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"),
    ),
    _gpu(
        "H100 SXM",
        "sm90",
        single=67,
        half=989,
        int8=1979,
        fp8=1979,
        bandwidth=3350,
        clock=1.83,
        watts=700,
        devices=("NVIDIA H100 80GB HBM3",),
    ),
)
GPUS: Mapping[str, Gpu] = {gpu.name: gpu for gpu in _ROWS}
