"""Runs cases: ``python -m tests.torture.mutations.worker FOLDER --seed 1 --total 500 --part 0/2``.

Everything heavy is loaded once; each case is a forked process. A JSON line per case is added to
``FOLDER/results-SEED.PART.jsonl``, and what stands in such files already is not run again. The
process has one thread, because only that one would go on in its children.
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
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from random import Random

from export.cli import main as adaptrt
from tests.torture.mutations.bases import TASK, Bases
from tests.torture.mutations.forked import run_forked
from tests.torture.mutations.judgement import Before, judge
from tests.torture.mutations.kinds import FULL, KINDS, counts, order
from tests.torture.mutations.places import Place, clear

_HEAVY = (
    *("export.build.calibrations", "export.build.pipeline", "export.gate.verify"),
    *("export.report.inspection", "export.triton.repository", "transformers", "peft"),
    *("onnxruntime", "onnxscript"),
)


@dataclass(frozen=True, kw_only=True)
class Result:
    """One case: ``ended`` as reports count it, ``seen`` where it ended as none may."""

    kind: str
    number: int
    ended: str
    seen: str | None
    seconds: float
    cpu: float
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


def done(folder: Path, seed: int) -> dict[tuple[str, int], Result]:
    """What the runs of this seed have found so far."""
    found: dict[tuple[str, int], Result] = {}
    for path in sorted(folder.glob(f"results-{seed}.*.jsonl")):
        for line in path.read_text().splitlines():
            with suppress(ValueError):  # the last line of a run that was killed
                result = Result(**json.loads(line))
                if result.seen is not None:  # it may have been mended since
                    found.pop((result.kind, result.number), None)
                    continue
                found[result.kind, result.number] = result
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--total", type=int, default=FULL)
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--case", type=int)
    arguments = parser.parse_args()
    part, parts = map(int, arguments.part.split("/"))
    wanted = {k: n for k, n in counts(arguments.total).items() if arguments.kind in (None, k)}
    cases = list(order(wanted, arguments.seed))[part::parts]
    if arguments.case is not None:
        cases = [(arguments.kind, arguments.case)]
    folder, seed = arguments.folder.absolute(), arguments.seed
    bases = Bases(folder / "bases")
    warm(bases)
    if (threads := len(list(Path("/proc/self/task").iterdir()))) != 1:
        raise RuntimeError(f"{threads} threads before the first fork")
    known = {} if arguments.case is not None else done(folder, seed)
    with (folder / f"results-{seed}.{part}of{parts}.jsonl").open("a") as stream:
        for kind, number in cases:
            if (kind, number) not in known:
                result = run_case(kind, seed, number, folder, bases)
                print(json.dumps(asdict(result)), file=stream, flush=True)
                if result.seen is not None:
                    print(f"{kind} {number}: {result.ended}: {result.seen}", flush=True)


if __name__ == "__main__":
    main()
