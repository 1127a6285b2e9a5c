"""What the engines of every precision execute, and how long they are predicted to take.

``make plans``: builds graphs and TensorRT-RTX engines of the embedded sample and of a full-size
random checkpoint, for three architectures, without any GPU and without the gate: a plan depends
on shapes and types alone, so ranges are made up and nothing is compared. Writes
``docs/benchmarks/plans/SIZE.json``, from which ``make figures`` makes the tables.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import tensorrt_rtx_bindings as trt

from export.build.resolve import resolve_block
from export.bundle.plan import plan_bundle
from export.checkpoint.reader import Checkpoint, open_checkpoint
from export.checkpoint.source import SAMPLE
from export.engines.builder import EngineSpec, build_engine
from export.engines.checks import check_engines
from export.engines.gpus import GPUS, Gpu
from export.engines.plan import Plan
from export.engines.plan_figures import PlanFigures, flops_by_types
from export.engines.predict import (
    CALLS,
    EFFICIENCY,
    TypeUnsupportedError,
    nearest,
    predict,
    worthwhile,
)
from export.engines.traffic import Workload, traffic
from export.graph.gemms import gemm_modules
from export.graph.insert_qdq import quantise_graph
from export.graph.precision_plan import GemmRange, PrecisionPlan
from export.graph.trace import trace
from export.graph.weights import write_weights
from export.lowering.pipelines import lower
from export.spec import BuildSpec
from runtimes.choices import AdapterMode, GraphKind, Precision, Target
from runtimes.schemes import SCHEMES, Storage
from tests.bench.reports import ROOT
from tests.zoo import SIZES, write_original

FOLDER = ROOT / "docs" / "benchmarks" / "plans"
GRAPH = "model.onnx"
BATCHES, LENGTHS = (1, 8, 32), tuple(2**power for power in range(4, 14))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A kind of bundle."""

    precision: Precision
    adapter: AdapterMode = AdapterMode.MERGED

    @property
    def name(self) -> str:
        """As the tables call it."""
        label = SCHEMES[self.precision].label
        return label if self.adapter is AdapterMode.MERGED else f"{label}, {self.adapter}"


CASES = (
    *(Case(precision=p) for p in Precision if p is not Precision.FP32),
    *(Case(precision=p, adapter=AdapterMode.SWITCHABLE) for p in (Precision.FP16, Precision.INT8)),
)
BASE = CASES[0].name  # what the others are compared with


def build(checkpoint: Checkpoint, case: Case, folder: Path) -> dict[str, Plan]:
    """The plans of a case by architecture, of those that multiply its types.

    Raises :class:`runtimes.errors.GateError` where one breaks a rule of the plan.
    """
    gpus = tuple(gpu for gpu in BuildSpec.gpus if SCHEMES[case.precision].fits(gpu))
    spec = BuildSpec(
        model="",
        task=checkpoint.tasks[0],
        precision=case.precision,
        target=Target.TENSORRT_RTX,
        out=folder,
        adapter=case.adapter,
        gpus=gpus,
        block=resolve_block(None, case.precision),
    )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    plan = plan_bundle(spec, checkpoint, spec.task, shared=False)
    limits, contents = spec.limits, plan.contents
    graph = trace(checkpoint.config, spec.dtype, limits.max_batch, limits.max_tokens, plan.form)
    quantised: Mapping[str, Storage] = {}
    if spec.scheme.storage is not None:
        precision = made_up(checkpoint, spec)
        quantised = precision.storages
        graph, contents = quantise_graph(graph, precision), replace(contents, plan=precision)
    proto = ir.to_proto(lower(graph.model(), GraphKind.TENSORRT))
    (folder / GRAPH).write_bytes(proto.SerializeToString())
    write_weights(folder, graph.slots, contents, limits.max_tokens, None)
    plans = {}
    for gpu in gpus:
        engine = EngineSpec(limits=limits, gpu=gpu, workspace=8 << 30, inputs=plan.form.inputs)
        plans[gpu] = build_engine(trt, folder / GRAPH, folder / "engine", engine).plans[0]
    every = {gpu: (own,) for gpu, own in plans.items()}
    check_engines(every, spec, checkpoint.config.architecture(), folder / GRAPH, quantised)
    shutil.rmtree(folder)
    return plans


def made_up(checkpoint: Checkpoint, spec: BuildSpec) -> PrecisionPlan:
    """Every GEMM quantised, with ranges, where it has one, that no text was asked for."""
    seen = GemmRange(amplitude=8.0, channel_max=np.ones(1, np.float32))
    entry = None if spec.scheme.weight_only else seen
    return PrecisionPlan(
        spec.scheme, spec.dtype, dict.fromkeys(gemm_modules(checkpoint.config), entry)
    )


def report(checkpoint: Checkpoint, plans: Mapping[str, Mapping[str, Plan]]) -> dict[str, Any]:
    """What the tables show, as plain JSON; ``plans`` by case and architecture."""
    heads = checkpoint.config.heads
    first = next(iter(next(iter(plans.values())).values()))
    return {
        "command": "make plans",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "builder": first.builder,
        "layers": checkpoint.config.layers,
        "hidden": checkpoint.config.hidden,
        "efficiency": asdict(EFFICIENCY),
        "engines": [
            {"case": case, "gpu": gpu, **_engine(plan, heads)}
            for case, own in plans.items()
            for gpu, plan in own.items()
        ],
        "predicted": [
            {"gpu": gpu.name, "case": case, "of": of, "milliseconds": times}
            for gpu in GPUS.values()
            for case, own in plans.items()
            for of, times in _times(gpu, own, heads)
        ],
        "worth": [
            {"gpu": gpu.name, "case": case, "tokens": _worth(gpu, plans[BASE], own, heads)}
            for gpu in GPUS.values()
            for case, own in plans.items()
            if _pays(case) and _runs(gpu, own, heads)
        ],
    }


def _pays(case: str) -> bool:
    """Whether the case gives up accuracy for time, compared with the base."""
    return any(
        c.name == case and SCHEMES[c.precision].storage and c.adapter is AdapterMode.MERGED
        for c in CASES
    )


def _engine(plan: Plan, heads: int) -> dict[str, Any]:
    loads = {}
    for batch, tokens in CALLS:
        works = traffic(plan, Workload(batch=batch, tokens=tokens, heads=heads))
        loads[f"{batch}x{tokens}"] = {
            "megabytes": round(sum(work.bytes for work in works) / 1e6, 1),
            "gflop": {name: round(f / 1e9, 2) for name, f in flops_by_types(works).items()},
        }
    return {**asdict(PlanFigures.of(plan)), "loads": loads}


def _times(
    gpu: Gpu, plans: Mapping[str, Plan], heads: int
) -> Iterator[tuple[str, dict[str, float]]]:
    """The predicted milliseconds by load and the plan they are of; none where it cannot run."""
    of, plan = nearest(gpu, plans)
    if _runs(gpu, plans, heads):
        loads = [Workload(batch=b, tokens=t, heads=heads) for b, t in CALLS]
        yield (
            of,
            {
                f"{load.batch}x{load.tokens}": round(predict(plan, load, gpu).milliseconds, 3)
                for load in loads
            },
        )


def _runs(gpu: Gpu, plans: Mapping[str, Plan], heads: int) -> bool:
    try:
        predict(nearest(gpu, plans)[1], Workload(batch=1, tokens=1, heads=heads), gpu)
    except TypeUnsupportedError:
        return False
    return True


def _worth(
    gpu: Gpu, before: Mapping[str, Plan], after: Mapping[str, Plan], heads: int
) -> dict[str, list[int]]:
    """By batch, the lengths of texts at which it is predicted to save 5 % of the time."""
    found = {}
    old, new = nearest(gpu, before)[1], nearest(gpu, after)[1]
    for batch in BATCHES:
        loads = [Workload(batch=batch, tokens=tokens, heads=heads) for tokens in LENGTHS]
        found[str(batch)] = [load.tokens for load in worthwhile(old, new, loads, gpu)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sizes", default="sample,full")
    given = parser.parse_args()
    sizes = str(given.sizes).split(",")
    if unknown := [size for size in sizes if size not in ("sample", *SIZES)]:
        parser.error(f"--sizes: got {unknown[0]!r}, expected some of sample, {', '.join(SIZES)}")
    for size in sizes:
        source = SAMPLE
        if size != "sample":
            source = given.out / f"{size}-size-random"
            if not (source / "model.safetensors").is_file():
                write_original(source, SIZES[size])
        checkpoint = open_checkpoint(source)
        plans = {}
        for case in CASES:
            plans[case.name] = build(checkpoint, case, given.out / "plans" / size)
            print(f"{size}: {case.name}: {', '.join(plans[case.name])}", flush=True)
        FOLDER.mkdir(parents=True, exist_ok=True)
        path = FOLDER / f"{size}.json"
        path.write_text(json.dumps(report(checkpoint, plans), indent=1) + "\n", encoding="utf-8")
        print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
