"""``python -m tests.torture --out DIR`` runs the trials; a file for each, ``<trial>.json``.

A trial whose file is there, of the same seed and as many cases, is not run again: what was
interrupted goes on where it stopped. ``--assemble FILE`` puts all files of DIR into one, which the
page of the documentation is made of; ``--only`` then takes what it names from DIR and leaves the
others as they are.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.summary import machine
from tests.torture.report import Report, read, write
from tests.torture.trials import TRIALS, Trial


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 1 where a case ended as none may."""
    parser = argparse.ArgumentParser(prog="tests.torture", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--only", default="", help="names of trials, separated by commas [all]")
    parser.add_argument("--seed", type=int, default=22)
    parser.add_argument("--minutes", type=float, default=240, help="no trial is begun after [240]")
    parser.add_argument("--assemble", type=Path, metavar="FILE")
    counts = {trial.option: trial.count for trial in TRIALS}
    for option, count in counts.items():
        parser.add_argument(f"--{option}", type=int, default=count, help=f"cases [{count}]")
    given = parser.parse_args(argv)
    known = [trial.name for trial in TRIALS]
    names = [name for name in given.only.split(",") if name] or known
    if unknown := [name for name in names if name not in known]:
        parser.error(f"--only: no trial {unknown[0]}; there are {', '.join(known)}")
    chosen = [trial for trial in TRIALS if trial.name in names]
    if given.assemble is not None:
        assemble(given.out, given.assemble, chosen)
        return 0
    given.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * given.minutes
    reports = []
    for trial in chosen:
        if time.monotonic() > end:
            print(f"{trial.name}: not begun, the time is up", file=sys.stderr)
            continue
        count = getattr(given, trial.option.replace("-", "_"))
        reports.append(one(trial, count, given.seed, given.out))
        print(line(reports[-1]))
        for failure in reports[-1].failures:
            print(f"  {failure.case}: {failure.seen}")
    return int(any(report.failures for report in reports))


def one(trial: Trial, count: int, seed: int, out: Path) -> Report:
    """Run the trial, or read what it gave before."""
    path = out / f"{trial.name.replace(' ', '-')}.json"
    if path.is_file():
        before = read(path)
        if before.seed == seed and (trial.rounds or trial.kept or before.asked == count):
            return before
    folder = (out / "work" / path.stem).absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    report = trial.run(count, seed, folder)
    write(report, out)
    shutil.rmtree(folder, ignore_errors=True)
    return report


def line(report: Report) -> str:
    """What the terminal shows of a trial."""
    ends = ", ".join(f"{count} × {end}" for end, count in report.ended.items())
    return (
        f"{report.name}: {report.cases} of {report.asked}, {len(report.failures)} failed; {ends}; "
        f"{report.seconds:.0f} s, {report.peak_mb:.0f} MB"
    )


def assemble(out: Path, file: Path, chosen: Sequence[Trial]) -> None:
    """The chosen trials' reports into ``file``, over those of them that it holds."""
    before = json.loads(file.read_text("utf-8")) if file.is_file() else {"trials": []}
    reports = {trial["name"]: trial for trial in before["trials"]}
    for trial in chosen:
        path = out / f"{trial.name.replace(' ', '-')}.json"
        if path.is_file():
            reports[trial.name] = asdict(read(path))
    order = {trial.name: number for number, trial in enumerate(TRIALS)}
    whole = before | {
        "command": "make torture",
        "machine": machine(),
        "date": f"{datetime.now(tz=UTC):%Y-%m-%d}",
        "trials": sorted(reports.values(), key=lambda r: order.get(r["name"], len(order))),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
