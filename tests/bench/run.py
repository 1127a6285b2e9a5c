"""``make bench``: every contender over every case, alternating, medians and ratios.

Each round starts each contender in a fresh process, in an order drawn anew, so that memory is its
own and the machine's drift falls on all alike. A case that took over 15 seconds is run in the
first round only. Writes ``bench.json``, ``bench.md`` and ``bench.png``.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from tests.bench import cases as texts
from tests.bench import ceilings, summary
from tests.bench.cases import CASES
from tests.bench.contenders import CONTENDERS, GROUPS, named
from tests.bench.plots import save
from tests.bench.preparation import missing, prepare
from tests.bench.summary import Samples
from tests.bench.tables import every

# Texts of the mixed corpus by size. In padded batches sentence-transformers needs five minutes
# for 256 of them at mid size, a third of the time the whole run should take.
SIZES = {"sample": 256, "mid": 128, "full": 256}
TOO_SLOW = 15.0  # seconds; not repeated in later rounds


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured. ``timeout`` is the seconds that one process may take."""

    work: Path
    rounds: int
    seed: int
    contenders: Sequence[str]
    cases: Sequence[str]
    corpus_texts: int
    timeout: float

    def order(self, number: int) -> list[str]:
        """In which a round starts the contenders."""
        return random.Random(f"{self.seed} {number}").sample(self.contenders, len(self.contenders))


def measure(plan: Plan) -> Samples:
    """All rounds: the machine's ceilings, then each contender in a process."""
    samples = Samples()
    skip: set[tuple[str, str]] = set()
    precisions = frozenset(CONTENDERS[contender].precision for contender in plan.contenders)
    for number in range(plan.rounds):
        _say(f"round {number + 1}/{plan.rounds}: matrix products")
        samples.ceilings.append(ceilings.measure(precisions | {"FP32"}))
        samples.order.append(plan.order(number))
        for contender in samples.order[-1]:
            mine = CONTENDERS[contender].cases
            wanted = [c for c in plan.cases if c in mine and (contender, c) not in skip]
            _say(f"round {number + 1}/{plan.rounds}: {contender}")
            if not wanted:
                continue
            lines, reason = run_worker(plan, contender, wanted)
            samples.add(contender, number, lines)
            if reason:
                samples.stopped[contender] = reason
                _say(f"  stopped: {reason}")
            skip |= {(contender, r["case"]) for r in lines[1:] if r["seconds"] > TOO_SLOW}
    return samples


def run_worker(
    plan: Plan, contender: str, cases: Sequence[str]
) -> tuple[list[dict[str, Any]], str | None]:
    """One contender in a process of its own: what it said, and why it stopped early if it did."""
    python = str(CONTENDERS[contender].python)
    command = [python, "-m", "tests.bench.worker", contender, str(plan.work)]
    options = ["--cases", ",".join(cases), "--texts", str(plan.work / "cases.json")]
    try:
        process = subprocess.run(
            [*command, *options],
            capture_output=True,
            text=True,
            timeout=plan.timeout,
            cwd=Path(__file__).parents[2],
        )
    except subprocess.TimeoutExpired as error:
        said = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        whole = said[: said.rfind("\n") + 1]
        return _lines(whole), f"after {plan.timeout:.0f} s"
    reason = None
    if process.returncode:
        last = process.stderr.strip().splitlines()[-1:] or [f"exit {process.returncode}"]
        reason = last[0]
    return _lines(process.stdout), reason


def _lines(text: str) -> list[dict[str, Any]]:
    """The JSON lines; libraries print others."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def report_of(plan: Plan, size: str, samples: Samples, skipped: dict[str, str]) -> dict[str, Any]:
    measured = ceilings.medians(samples.ceilings)
    rows = summary.rows(samples)
    summary.add_shares(rows, plan.work / "model", measured)
    agreed = summary.agreement(samples)
    return {
        "command": f"make bench BENCH_SIZE={size}",
        "size": size,
        "weights": "trained" if size == "sample" else "random",
        "machine": summary.machine(),
        "date": date.today().isoformat(),
        "gemm_gflops": measured["FP32 ONNX Runtime"][ceilings.LARGE],
        "ceilings": measured,
        "rounds": plan.rounds,
        "seed": plan.seed,
        "order": samples.order,
        "corpus_texts": plan.corpus_texts,
        "skipped": skipped,
        "stopped": samples.stopped,
        "contenders": summary.per_contender(samples),
        **({} if agreed is None else {"cosine_to": agreed[0], "least_cosine": agreed[1]}),
        "rows": rows,
    }


def main() -> None:
    arguments = _arguments()
    work = Path(arguments.out).resolve() / arguments.size
    work.mkdir(parents=True, exist_ok=True)
    corpus_texts = arguments.corpus_texts or SIZES[arguments.size]
    texts.save(texts.all_cases(corpus_texts), work / "cases.json")
    skipped = {name: why for name in arguments.only if (why := missing(name)) is not None}
    skipped |= prepare(work, arguments.size, [n for n in arguments.only if n not in skipped])
    for name, why in skipped.items():
        _say(f"skipped: {name}: {why}")
    plan = Plan(
        work=work,
        rounds=arguments.rounds,
        seed=arguments.seed,
        contenders=[name for name in arguments.only if name not in skipped],
        cases=arguments.cases,
        corpus_texts=corpus_texts,
        timeout=arguments.timeout,
    )
    report = report_of(plan, arguments.size, measure(plan), skipped)
    (work / "bench.json").write_text(json.dumps(report, indent=2) + "\n")
    (work / "bench.md").write_text(every(report) + "\n")
    save(report, work / "bench.png")
    print(every(report))
    print(f"written: {work}/bench.json, bench.md, bench.png")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="mid")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the order within each round")
    groups = ", ".join(f"{name} for {len(members)} of them" for name, members in GROUPS.items())
    parser.add_argument("--only", type=named, default="all", help=f"contenders; {groups}")
    parser.add_argument("--cases", type=lambda text: text.split(","), default=",".join(CASES))
    parser.add_argument("--corpus-texts", type=int, help=f"by size: {SIZES}")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for one process")
    arguments = parser.parse_args()
    for names, known in ((arguments.only, CONTENDERS), (arguments.cases, CASES)):
        for name in names:
            if name not in known:
                parser.error(f"{name!r}: expected one of {', '.join(known)}")
    return arguments


if __name__ == "__main__":
    main()
