"""All mutations in several processes: ``python -m tests.torture.mutations --out DIR --jobs 2``.

Each case that ended is written down at once, so what is stopped, or killed, goes on where the same
command is given again. In the end ``DIR/<trial>.json`` has each kind's report, as far as it came,
which ``python -m tests.torture --out DIR`` then takes as it is.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.torture.mutations.kinds import KINDS, wanted
from tests.torture.mutations.results import done
from tests.torture.mutations.trial import report_of, work
from tests.torture.report import write


def main() -> int:
    """The command; 1 where a case ended as none may."""
    parser = argparse.ArgumentParser(prog="tests.torture.mutations", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seed", type=int, default=22)
    parser.add_argument("--count", type=int, help="cases of all kinds [the full run's]")
    parser.add_argument("--jobs", type=int, default=1, help="processes that fork [1]")
    parser.add_argument("--minutes", type=float, default=240, help="no case is begun after [240]")
    parser.add_argument("--report", action="store_true", help="run nothing, report what is known")
    given = parser.parse_args()
    folder, seed = given.out / "mutations", given.seed
    if not given.report:
        options = ["--seed", str(seed), "--minutes", str(given.minutes)]
        options += [] if given.count is None else ["--count", str(given.count)]
        with ThreadPoolExecutor(given.jobs) as pool:
            parts = [f"--part={number}/{given.jobs}" for number in range(given.jobs)]
            list(pool.map(lambda part: work(folder, *options, part), parts))
    results = done(folder, seed)
    failed = 0
    for kind, count in wanted(given.count, list(KINDS)).items():
        report = report_of(kind, count, seed, results)
        write(report, given.out)
        ends = ", ".join(f"{number} × {end}" for end, number in report.ended.items())
        print(f"{report.name}: {report.cases} of {count}; {len(report.failures)} failed; {ends}")
        for failure in report.failures:
            print(f"  {failure.case}: {failure.seen}")
        failed += len(report.failures)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
