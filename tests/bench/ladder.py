"""What each step towards a smaller model saves, and what it costs: ``make ladder``.

Bytes are those of the real model's size with random weights: graphs and TensorRT-RTX engines for
three architectures are built without a GPU and without the gate, since sizes depend on shapes and
types alone, and every rule of the plan is checked. ONNX Runtime's memory is a process's own, which
loads the CPU graph and runs one text of 512 tokens. Cosines are the gate's, of the same choices
built for the embedded trained sample. Writes ``docs/benchmarks/ladder/full.json``, from which
``make figures`` makes the table.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import tensorrt_rtx_bindings as trt

from adaptrt import build as build_bundle
from export.build.resolve import resolve_block
from export.bundle.plan import plan_bundle
from export.checkpoint.reader import Checkpoint, open_checkpoint
from export.engines.builder import EngineSpec, build_engine
from export.engines.checks import check_engines
from export.graph.insert_qdq import quantise_graph
from export.graph.quantise_table import quantise_table
from export.graph.table import QuantisedTable
from export.graph.trace import trace
from export.graph.weights import write_weights
from export.lowering.pipelines import lower
from export.spec import BuildSpec, GraphForm, Limits
from runtimes.choices import Embeddings, GraphKind, Precision, Target
from runtimes.schemes import SCHEMES, Storage
from runtimes.tables import TABLES
from tests.bench.plans import made_up
from tests.bench.reports import FOLDER, ROOT
from tests.bench.summary import machine
from tests.zoo import SIZES, write_original

REPORT = FOLDER / "ladder" / "full.json"
ROWS, LANGUAGES = 50_000, "de,fr,en"  # of the real model's size; of the sample's own texts
TOKENS, BATCHES = 512, (1, 8)


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One choice of how small."""

    precision: Precision
    embeddings: Embeddings = Embeddings.SAME
    pruned: bool = False

    @property
    def name(self) -> str:
        """As the table calls it."""
        table = "" if self.embeddings is Embeddings.SAME else f" + {self.embeddings.upper()} table"
        return f"{SCHEMES[self.precision].label}{table}{' + 50,000 rows' * self.pruned}"


LADDER = (
    Rung(precision=Precision.FP16),
    Rung(precision=Precision.FP8),
    Rung(precision=Precision.INT8),
    Rung(precision=Precision.INT8, embeddings=Embeddings.INT8),
    Rung(precision=Precision.INT8, embeddings=Embeddings.INT8, pruned=True),
    Rung(precision=Precision.INT4W, embeddings=Embeddings.INT8, pruned=True),
)


def spec_of(rung: Rung, checkpoint: Checkpoint, target: Target) -> BuildSpec:
    """The build of a rung."""
    return BuildSpec(
        model="",
        task=checkpoint.tasks[0],
        precision=rung.precision,
        target=target,
        out=Path(),
        embeddings=rung.embeddings,
        gpus=tuple(gpu for gpu in BuildSpec.gpus if SCHEMES[rung.precision].fits(gpu)),
        block=resolve_block(None, rung.precision),
    )


def write(
    rung: Rung, checkpoint: Checkpoint, target: Target, kind: GraphKind, folder: Path
) -> tuple[BuildSpec, GraphForm, Mapping[str, Storage]]:
    """One graph of a rung and its weights; the GEMMs that are stored quantised."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    spec = spec_of(rung, checkpoint, target)
    plan = plan_bundle(spec, checkpoint, spec.task, shared=False)
    form, contents, limits = plan.form, plan.contents, spec.limits
    if rung.pruned:
        rows = min(ROWS, checkpoint.config.vocab)
        form = replace(form, kept_rows=rows)
        contents = replace(contents, kept=np.arange(rows), unknown_id=3)
    graph = trace(checkpoint.config, spec.dtype, limits.max_batch, limits.max_tokens, form)
    if (storage := TABLES[rung.embeddings].storage) is not None:
        table = QuantisedTable(storage, spec.dtype)
        graph, contents = quantise_table(graph, table), replace(contents, table=table)
    quantised: Mapping[str, Storage] = {}
    if spec.scheme.storage is not None:
        precision = made_up(checkpoint, spec)
        quantised = precision.storages
        graph, contents = quantise_graph(graph, precision), replace(contents, plan=precision)
    proto = ir.to_proto(lower(graph.model(), kind))
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    write_weights(folder, graph.slots, contents, limits.max_tokens)
    return spec, form, quantised


def engines(rung: Rung, checkpoint: Checkpoint, folder: Path) -> dict[str, Any]:
    """Bytes by architecture, and of the bundle for one of them.

    Raises :class:`runtimes.errors.GateError` where a plan breaks a rule.
    """
    spec, form, quantised = write(rung, checkpoint, Target.TENSORRT_RTX, GraphKind.TENSORRT, folder)
    graph, sizes, memory = folder / "model.onnx", dict[str, int](), dict[str, dict[str, int]]()
    weights = sum(path.stat().st_size for path in folder.iterdir())
    for gpu in spec.gpus:
        for batch in BATCHES:
            engine = EngineSpec(
                limits=Limits(max_batch=batch, max_tokens=TOKENS),
                gpu=gpu,
                workspace=8 << 30,
                inputs=form.inputs,
            )
            built = build_engine(trt, graph, folder / "engine", engine)
            shape = checkpoint.config.architecture()
            check_engines({gpu: built.plans}, spec, shape, graph, quantised)
            (needed,) = built.memory or (0,)
            memory.setdefault(f"{batch}x{TOKENS}", {})[gpu] = needed
            sizes[gpu] = (folder / "engine").stat().st_size
    return {"engine": sizes, "activations": memory, "bundle": weights + max(sizes.values())}


def on_cpu(rung: Rung, checkpoint: Checkpoint, folder: Path) -> dict[str, int]:
    """Resident bytes of a process of its own that runs the CPU graph."""
    write(rung, checkpoint, Target.ONNXRUNTIME, GraphKind.ONNXRUNTIME, folder)
    command = [sys.executable, "-m", "tests.bench.ladder_worker", folder / "model.onnx", TOKENS]
    told = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    found: dict[str, int] = json.loads(told.stdout.splitlines()[-1])
    return found


def cosines(rung: Rung, out: Path) -> dict[str, Any]:
    """The gate's, of the trained sample."""
    (bundle,) = build_bundle(
        precision=rung.precision,
        embeddings=rung.embeddings,
        task="retrieval.passage",
        target=Target.TENSORRT_RTX,
        gpu="sm89",
        out=out,
        vocabulary=LANGUAGES if rung.pruned else None,
    )
    parity = bundle.manifest.parity
    if parity is None:
        raise ValueError(f"{bundle.path}: was not compared")
    cost = bundle.manifest.table_cost
    return {
        "texts": parity.rows,
        "least": parity.min_cosine,
        "mean": parity.mean_cosine,
        "table": None if cost is None else [cost.min_cosine, cost.mean_cosine],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", choices=SIZES, default="full")
    given = parser.parse_args()
    source = given.out / f"{given.size}-size-random"
    if not (source / "model.safetensors").is_file():
        write_original(source, SIZES[given.size])
    checkpoint, rungs = open_checkpoint(source), {}
    for rung in LADDER:
        found = engines(rung, checkpoint, given.out / "ladder")
        if Target.ONNXRUNTIME in SCHEMES[rung.precision].targets:
            found["resident"] = on_cpu(rung, checkpoint, given.out / "ladder")
        shutil.rmtree(given.out / "ladder")
        rungs[rung.name] = found | {"cosine": cosines(rung, given.out / "sample")}
        print(f"{rung.name}: {json.dumps(rungs[rung.name])}", flush=True)
    report = {
        "command": "make ladder",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine(),
        "size": given.size,
        "builder": f"{trt.__name__} {trt.__version__}",
        "rungs": rungs,
    }
    REPORT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"written: {REPORT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
