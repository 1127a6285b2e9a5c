"""Fits the shares of :mod:`export.engines.predict` to published times of BERT.

``python -m tests.bench.prediction`` prints the shares and how far they are off: for the points
they were fitted to, for each point and for each GPU that was left out of the fit, and for
BERT-base, which was in no fit. The times are the averages of NVIDIA's demo (``bert_times.json``
names each table). Its plan is written out here: it is made of the plugins that its ``builder.py``
asks for, seven launches a layer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.engines.gpus import GPUS
from export.engines.plan import Kernel, KernelKind, Plan, PlanTensor
from export.engines.predict import EFFICIENCY, peak
from export.engines.traffic import KernelTraffic, Workload, traffic
from tests.bench.plan_tables import markdown

TIMES = Path(__file__).with_name("bert_times.json")
FITTED, HELD_BACK = "BERT-large", "BERT-base"
Vector = NDArray[np.float64]
_START = (0.6, 0.8, 8000.0)  # of the search: compute, memory, cycles of a launch


@dataclass(frozen=True, kw_only=True)
class Model:
    """BERT's sizes."""

    layers: int
    hidden: int
    heads: int


MODELS = {
    FITTED: Model(layers=24, hidden=1024, heads=16),
    HELD_BACK: Model(layers=12, hidden=768, heads=12),
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """One published time."""

    model: str
    gpu: str
    precision: str
    batch: int
    tokens: int
    milliseconds: float


def points() -> list[Point]:
    """All of the file."""
    found = []
    for table in json.loads(TIMES.read_text(encoding="utf-8"))["tables"]:
        for batch, tokens, half, int8 in table["batch_tokens_fp16_int8"]:
            for precision, time in (("Half", half), ("Int8", int8)):
                found.append(
                    Point(
                        model=table["model"],
                        gpu=table["gpu"],
                        precision=precision,
                        batch=batch,
                        tokens=tokens,
                        milliseconds=time,
                    )
                )
    return found


@cache
def bert_plan(model: str, precision: str) -> Plan:
    """What the demo runs: QKV, attention, out-proj, LayerNorm, FC1 with GELU, FC2, LayerNorm.

    In INT8 every operand is Int8 but the embeddings' and the answer's (its options ``-imh`` and
    ``-iln``).
    """
    sizes = MODELS[model]
    h, width = sizes.hidden, sizes.hidden // sizes.heads
    rows = _tensor("x", (-1, h), precision)
    kernels = [
        Kernel(
            name="embeddings",
            kind=KernelKind.GENERATED,
            inputs=(_tensor("ids", (-1, -1), "Int32"), _tensor("mask", (-1, -1), "Int32")),
            outputs=(rows,),
        )
    ]
    for layer in range(sizes.layers):
        head = _tensor(f"a{layer}", (-1, -1, width), precision)
        kernels += [
            _product(f"{layer}.qkv", h, 3 * h, precision),
            Kernel(
                name=f"{layer}.mha",
                kind=KernelKind.GENERATED,
                inputs=tuple(_tensor(f"{n}{layer}", head.shape, precision) for n in "qkv"),
                outputs=(head,),
            ),
            _product(f"{layer}.out", h, h, precision),
            _residual(f"{layer}.norm1", rows),
            _product(f"{layer}.fc1", h, 4 * h, precision),
            _product(f"{layer}.fc2", 4 * h, h, precision),
            _residual(f"{layer}.norm2", rows),
        ]
    kernels.append(_product("answer", h, 2, "Half"))
    return Plan(builder="TensorRT's BERT demo", gpu=None, kernels=tuple(kernels))


def _tensor(name: str, shape: tuple[int, ...], kind: str) -> PlanTensor:
    return PlanTensor(name=name, shape=shape, type=kind)


def _product(name: str, inner: int, columns: int, kind: str) -> Kernel:
    return Kernel(
        name=name,
        kind=KernelKind.GEMM,
        inputs=(_tensor(f"{name}.in", (-1, inner), kind),),
        constants=(
            _tensor(f"{name}.weight", (inner, columns), kind),
            _tensor(f"{name}.bias", (columns,), "Float"),
        ),
        outputs=(_tensor(f"{name}.out", (-1, columns), kind),),
    )


def _residual(name: str, rows: PlanTensor) -> Kernel:
    added, summed = (_tensor(f"{name}.{end}", rows.shape, rows.type) for end in ("in", "out"))
    return Kernel(name=name, kind=KernelKind.GENERATED, inputs=(rows, added), outputs=(summed,))


@dataclass(frozen=True)
class Design:
    """The points as arrays: seconds of each kernel at the whole peak and bandwidth."""

    points: tuple[Point, ...]
    arithmetic: NDArray[np.float64]  # [points, kernels]
    memory: NDArray[np.float64]
    launches: Vector  # seconds of all launches, of one cycle each
    logs: Vector  # of the measured seconds

    @staticmethod
    def of(chosen: Iterable[Point]) -> Design:
        points = tuple(chosen)
        rows = [_row(point) for point in points]
        return Design(
            points,
            np.array([row[0] for row in rows]),
            np.array([row[1] for row in rows]),
            np.array([row[2] for row in rows]),
            np.log([point.milliseconds / 1e3 for point in points]),
        )

    def only(self, kept: NDArray[np.bool_]) -> Design:
        """Some of the points."""
        points = tuple(p for p, keep in zip(self.points, kept, strict=True) if keep)
        return Design(
            points,
            self.arithmetic[kept],
            self.memory[kept],
            self.launches[kept],
            self.logs[kept],
        )

    def errors(self, logarithms: Vector) -> Vector:
        """Predicted over measured, as logarithms; ``logarithms`` are the three shares'."""
        compute, memory, cycles = np.exp(logarithms)
        kernels = np.maximum(self.arithmetic / compute, self.memory / memory).sum(axis=1)
        errors: Vector = np.log(kernels + cycles * self.launches) - self.logs
        return errors


def _row(point: Point) -> tuple[Vector, Vector, float]:
    gpu = GPUS[point.gpu]
    works = _works(point.model, point.precision, point.batch, point.tokens)
    return (
        np.array([work.flops / (peak(work, gpu) * 1e12) for work in works]),
        np.array([work.bytes / (gpu.bandwidth * 1e9) for work in works]),
        len(works) / (gpu.clock * 1e9),
    )


@cache
def _works(model: str, precision: str, batch: int, tokens: int) -> tuple[KernelTraffic, ...]:
    load = Workload(batch=batch, tokens=tokens, heads=MODELS[model].heads)
    return traffic(bert_plan(model, precision), load)


def fit(design: Design, start: Sequence[float] = _START) -> Vector:
    """The logarithms of the shares with the least squared error: Levenberg and Marquardt."""
    here, damping, step = np.log(start), 1e-2, 1e-4
    errors = design.errors(here)
    for _ in range(100):
        slopes = np.array(
            [(design.errors(here + step * unit) - errors) / step for unit in np.eye(3)]
        )
        move = np.linalg.solve(slopes @ slopes.T + damping * np.eye(3), -slopes @ errors)
        there = design.errors(here + move)
        if there @ there < errors @ errors:
            here, errors, damping = here + move, there, damping / 3
        else:
            damping *= 4
        if np.abs(move).max() < 1e-7:
            break
    return here


def left_out(design: Design, groups: Sequence[object]) -> Vector:
    """Each point's error by a fit to the points of the other groups; ``groups`` names each's."""
    errors = np.empty(len(groups))
    for group in dict.fromkeys(groups):
        inside = np.array([other == group for other in groups])
        errors[inside] = design.only(inside).errors(fit(design.only(~inside)))
    return errors


def int8_errors(design: Design, errors: Vector) -> Vector:
    """Errors of the ratio INT8 to FP16; a GPU's own error is in both and cancels."""
    half = {
        (p.model, p.gpu, p.batch, p.tokens): error
        for p, error in zip(design.points, errors, strict=True)
        if p.precision == "Half"
    }
    return np.array(
        [
            error - half[p.model, p.gpu, p.batch, p.tokens]
            for p, error in zip(design.points, errors, strict=True)
            if p.precision == "Int8"
        ]
    )


def summary() -> dict[str, Vector]:
    """The errors by what they are of, as logarithms of predicted over measured."""
    known = points()
    design = Design.of(p for p in known if p.model == FITTED)
    other = Design.of(p for p in known if p.model == HELD_BACK)
    shares = fit(design)
    errors = design.errors(shares)
    by_gpu = left_out(design, [p.gpu for p in design.points])
    found = {
        f"{FITTED}, the points of the fit": errors,
        f"{FITTED}, each point left out": left_out(design, design.points),
        f"{FITTED}, each GPU left out": by_gpu,
    }
    for gpu in dict.fromkeys(p.gpu for p in design.points):
        inside = np.array([p.gpu == gpu for p in design.points])
        found[f"{FITTED} on {gpu}, left out"] = by_gpu[inside]
    found[f"{HELD_BACK}, in no fit"] = other.errors(shares)
    found[f"INT8's time over FP16's, {FITTED}, each GPU left out"] = int8_errors(design, by_gpu)
    found[f"INT8's time over FP16's, {HELD_BACK}"] = int8_errors(other, other.errors(shares))
    return found


def table() -> str:
    """The errors in Markdown: the mean factor, the typical one, the worst."""
    head = ("times", "points", "predicted ÷ measured", "typically within", "at worst")
    rows = []
    for title, errors in summary().items():
        bias, typical = np.exp(errors.mean()), np.exp(np.sqrt((errors**2).mean()))
        worst = np.exp(np.abs(errors).max())
        cells = (f"{bias:.2f}", f"× {typical:.2f}", f"× {worst:.2f}")
        rows.append((title, str(len(errors)), *cells))
    return markdown(head, rows)


def main() -> None:
    compute, memory, cycles = np.exp(fit(Design.of(p for p in points() if p.model == FITTED)))
    print(f"compute={compute:.3f} memory={memory:.3f} launch_cycles={cycles:.0f}; {EFFICIENCY}")
    print(table())


if __name__ == "__main__":
    main()
