"""Runs cases of one kind: ``python -m tests.torture.mutations.worker KIND SEED FIRST COUNT FOLDER``.

Everything heavy is loaded once; each case is a forked process. A JSON line per case goes to
standard output. The process has one thread, because only that one would go on in its children.
"""

from __future__ import annotations

import os

# Before NumPy and torch are loaded: none of them may start a thread here.
os.environ.update({
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
})

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from random import Random

from export.cli import main as adaptrt
from tests.torture.mutations.bases import TASK, Bases
from tests.torture.mutations.forked import run_forked
from tests.torture.mutations.judgement import Before, judge
from tests.torture.mutations.kinds import KINDS
from tests.torture.mutations.places import Place, clear

_HEAVY = (
    *("export.build.calibrations", "export.build.pipeline", "export.gate.verify"),
    *("export.report.inspection", "export.triton.repository", "transformers", "peft"),
    *("onnxruntime", "onnxscript"),
)


@dataclass(frozen=True, kw_only=True)
class Result:
    """One case: ``ended`` as reports count it, ``seen`` where it ended as none may."""

    number: int
    ended: str
    seen: str | None
    seconds: float
    peak_mb: float


def run_case(kind: str, seed: int, number: int, folder: Path, bases: Bases) -> Result:
    """Make one case's files, call the command with them, and judge."""
    place = Place.fresh(folder / f"{kind}-{number}")
    rng = Random(f"{seed} {kind} {number}")
    case = KINDS[kind].make(rng, place, bases)
    before = Before.of(place)
    ended = run_forked(adaptrt, case.argv, place, case.limits)
    verdict = judge(case, ended, place, before)
    if verdict.seen is None:
        clear(place.root)
    return Result(
        number=number,
        ended=verdict.ended,
        seen=verdict.seen,
        seconds=round(ended.seconds, 3),
        peak_mb=round(ended.peak_mb, 1),
    )


def warm(bases: Bases) -> None:
    """Load what a build loads, and trace the graph that most checkpoints here have.

    ``trace`` keeps what it made by its arguments, so a child whose configuration says something
    else traces anew.
    """
    for name in _HEAVY:
        import_module(name)
    import torch
    import tqdm

    from export.build.inputs import open_build
    from export.build.resolve import engine_spec
    from export.bundle.plan import plan_bundle
    from export.graph.trace import trace
    from export.request import BuildRequest

    tqdm.tqdm.monitor_interval = 0  # else torch's exporter leaves a thread behind
    torch.set_num_threads(1)
    request = BuildRequest(
        model=str(bases.get("original")),
        task=TASK,
        target="onnxruntime",
        precision="fp32",
        max_tokens=64,
        max_batch=8,
    )
    inputs = open_build(engine_spec(request))
    plan = plan_bundle(inputs.spec, inputs.checkpoint, TASK, shared=False)
    limits = inputs.spec.limits
    trace(
        inputs.checkpoint.config,
        inputs.spec.dtype,
        limits.max_batch,
        limits.max_tokens,
        plan.form,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("seed", type=int)
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    bases = Bases(arguments.folder / "bases")
    warm(bases)
    if (threads := len(os.listdir("/proc/self/task"))) != 1:
        raise RuntimeError(f"{threads} threads before the first fork")
    for number in range(arguments.first, arguments.first + arguments.count):
        result = run_case(arguments.kind, arguments.seed, number, arguments.folder, bases)
        print(json.dumps(asdict(result)), flush=True)


if __name__ == "__main__":
    sys.exit(main())
