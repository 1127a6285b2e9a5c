"""Runs cases: ``python -m tests.torture.mutations.worker FOLDER --seed 22 --count 500 --part 0/2``.

Everything heavy is loaded once; each case is a forked process. A JSON line per case is added to
``FOLDER/results-SEED.….jsonl``, and what ended there as it may is not run again. The process has
one thread, because only that one would go on in its children.
"""

from __future__ import annotations

import os

# Before NumPy and torch are loaded: none of them may start a thread here.
os.environ.update(
    {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
)

import argparse
import gc
import json
import sys
import time
import traceback
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from random import Random

from export.cli import main as adaptrt
from tests.torture.mutations.bases import TASK, Bases
from tests.torture.mutations.forked import run_forked
from tests.torture.mutations.judgement import Before, judge
from tests.torture.mutations.kinds import KINDS, order, wanted
from tests.torture.mutations.places import Place, clear
from tests.torture.mutations.results import Result, done

_HEAVY = (
    *("export.build.calibrations", "export.build.pipeline", "export.gate.verify"),
    *("export.report.inspection", "export.triton.repository", "transformers", "peft"),
    *("onnxruntime", "onnxscript"),
)


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
        kind=kind,
        number=number,
        ended=verdict.ended,
        seen=verdict.seen,
        seconds=round(ended.seconds, 3),
        cpu=round(ended.cpu, 3),
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
    from export.checkpoint.reader import open_checkpoint
    from export.gate.reference import reference_model
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
    for name in ("original", "native"):  # a thousand patterns of transformers are compiled
        reference_model(open_checkpoint(bases.get(name)), TASK)
    gc.collect()
    gc.freeze()  # else each child's collections go through, and copy, all that is loaded here


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=22)
    parser.add_argument("--count", type=int, help="cases; of all kinds as in the full run")
    parser.add_argument("--part", default="0/1", help="1/2: the second half")
    parser.add_argument("--kind", help="one, or several with commas between [all]")
    parser.add_argument("--few", action="store_true", help="of bundles the cheapest alone")
    parser.add_argument("--case", type=int, help="this one of --kind alone")
    parser.add_argument("--minutes", type=float, default=240, help="no case is begun after")
    arguments = parser.parse_args()
    end = time.monotonic() + 60 * arguments.minutes
    folder, seed = arguments.folder.absolute(), arguments.seed
    bases = Bases(folder / "bases", few=arguments.few)
    warm(bases)
    if (threads := len(list(Path("/proc/self/task").iterdir()))) != 1:
        raise RuntimeError(f"{threads} threads before the first fork")
    if arguments.case is not None:
        print(json.dumps(asdict(run_case(arguments.kind, seed, arguments.case, folder, bases))))
        return
    known = {case for case, result in done(folder, seed).items() if result.seen is None}
    part, parts = map(int, arguments.part.split("/"))
    chosen = arguments.kind.split(",") if arguments.kind else list(KINDS)
    cases = list(order(wanted(arguments.count, chosen), seed))[part::parts]
    path = folder / f"results-{seed}.{arguments.kind or 'all'}.{part}of{parts}.jsonl"
    with path.open("a", encoding="utf-8") as stream:
        for kind, number in cases:
            if (kind, number) not in known and time.monotonic() < end:
                try:
                    result = run_case(kind, seed, number, folder, bases)
                except Exception:  # noqa: BLE001 - a case that cannot be made is none; its number is missing
                    print(f"{kind} {number} of seed {seed} was not made", file=sys.stderr)
                    traceback.print_exc()
                    continue
                print(json.dumps(asdict(result)), file=stream, flush=True)


if __name__ == "__main__":
    main()
