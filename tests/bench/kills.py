"""``adaptrt embed`` killed at random moments, again and again; its bytes must be the same after it.

A run that nobody disturbs gives the folder that all others are compared with. Then the same job is
begun, its driver or one of its workers gets SIGKILL at a random moment, and it is begun again,
until so many kills were survived. ``make embed-kills`` runs it; a short one is in the tests.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from tests.bench.summary import machine

_WORDS = "the station near a river where people walk each morning before their work begins"
_DEADLINE = 3600.0  # seconds for one run


@dataclass(kw_only=True)
class Report:
    """What was survived: kills by victim, runs that came to their end and were the same."""

    texts: int
    parts: int
    undisturbed_seconds: float
    driver_kills: int = 0
    worker_kills: int = 0
    finished_runs: int = 0
    seconds: float = 0.0

    @property
    def kills(self) -> int:
        """Of both."""
        return self.driver_kills + self.worker_kills


def write_corpus(path: Path, texts: int) -> None:
    """Short texts of two to twenty words, as JSON lines."""
    random_ = random.Random(21)
    words = _WORDS.split()
    with path.open("w", encoding="utf-8") as stream:
        for index in range(texts):
            text = " ".join(random_.choices(words, k=random_.randint(2, 20)))
            stream.write(json.dumps({"text": text, "n": index}) + "\n")


def survive(
    bundle: Path,
    folder: Path,
    *,
    texts: int,
    kills: int,
    workers: int = 2,
    task: str | None = None,
    split_bytes: int = 20_000,
    seed: int = 21,
) -> Report:
    """Raises AssertionError where a folder is not the same as the undisturbed one."""
    corpus = folder / "texts.jsonl"
    write_corpus(corpus, texts)
    command = [
        *(sys.executable, "-m", "export.cli", "embed", str(corpus), "--bundle", str(bundle)),
        *("--keep", "n", "--workers", str(workers), "--split-bytes", str(split_bytes)),
        *(("--task", task) if task else ()),
    ]
    start = time.perf_counter()
    subprocess.run([*command, "--out", folder / "alone"], check=True, capture_output=True)
    alone = time.perf_counter() - start
    expected = hashes(folder / "alone")
    parts = sum(name.endswith(".parquet") for name in expected)
    report = Report(texts=texts, parts=parts, undisturbed_seconds=round(alone, 1))
    random_, out = random.Random(seed), folder / "killed"
    start = time.perf_counter()
    finished = False
    while not finished or report.kills < kills:  # the last kill too is followed by an end
        if finished := _run([*command, "--out", str(out)], random_, alone, kills, report):
            assert hashes(out) == expected, _difference(hashes(out), expected)
            report.finished_runs += 1
            shutil.rmtree(out)
    report.seconds = round(time.perf_counter() - start, 1)
    return report


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _run(
    command: list[str], random_: random.Random, alone: float, kills: int, report: Report
) -> bool:
    """One run with kills, until its driver was killed or it came to its end; whether it did."""
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as driver:
        while driver.poll() is None:
            # As many kills as it takes; what is left of a run that had them all is undisturbed.
            left = report.kills < kills
            try:
                driver.wait(random_.uniform(0.01, max(1.0, alone / 4)) if left else _DEADLINE)
                break
            except subprocess.TimeoutExpired:
                assert left, "a run that nobody disturbs does not end"
            if random_.random() < 0.5:
                driver.kill()
                driver.wait()
                report.driver_kills += 1
                return False
            report.worker_kills += _kill_worker(driver.pid, random_)
        assert driver.stderr is not None
        said = driver.stderr.read()
    # Three of its workers in a row were killed at one split: it gives up, and goes on when asked.
    assert driver.returncode in (0, 1), said
    return driver.returncode == 0


def _kill_worker(driver: int, random_: random.Random) -> int:
    """Kill one; how many, for there may be none yet or any more."""
    try:
        children = Path(f"/proc/{driver}/task/{driver}/children").read_text().split()
        workers = [c for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]
        if workers:
            os.kill(int(random_.choice(workers)), signal.SIGKILL)
        return min(1, len(workers))
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _difference(found: dict[str, str], expected: dict[str, str]) -> str:
    names = sorted(found.keys() | expected.keys())
    return ", ".join(name for name in names if found.get(name) != expected.get(name))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--task")
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--split-bytes", type=int, default=20_000)
    arguments = parser.parse_args()
    shutil.rmtree(arguments.out, ignore_errors=True)
    arguments.out.mkdir(parents=True)
    report = survive(
        arguments.bundle,
        arguments.out,
        texts=arguments.texts,
        kills=arguments.kills,
        task=arguments.task,
        split_bytes=arguments.split_bytes,
        seed=arguments.seed,
    )
    where = {"command": "make embed-kills", "machine": machine(), "date": date.today().isoformat()}
    found = where | asdict(report)
    (arguments.out / "kills.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
