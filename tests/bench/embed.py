"""``make bench-embed``: adaptrt embed beside ``Embedder.encode``, more workers, and its memory.

Each contender is a process of its own (:mod:`tests.bench.embed_one`); their order is shuffled in
every round. ``--scale 0.02`` tries everything in a few minutes. The report becomes the one that the
documents' tables are of by being copied to ``docs/benchmarks/embed/sample.json``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.guard import Usage, others
from tests.bench.kills import write_corpus
from tests.bench.summary import machine

TASK = "classification"
SHORT, MIXED = 50_000, 2_000  # texts
_PAYLOAD = 50_000  # bytes beside each text, for the memory
_SIZES = {"1 GB": 20_000, "0.1 GB": 2_000}  # rows with so much beside the text
# Splits of the corpora that several share: small enough that they end together.
_SHARED = 20_000


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way: ``count`` workers or actors of ``threads`` (None: every core)."""

    name: str
    how: str
    count: int = 1
    threads: int | None = None
    split_bytes: int | None = None


YARDSTICK = Contender(name="Embedder.encode", how="encode")
LOCAL = Contender(name="adaptrt embed", how="local")
SHARED = tuple(
    Contender(name=f"{title} of 1 thread", how=how, count=count, threads=1, split_bytes=_SHARED)
    for how, count, title in (
        ("local", 1, "1 worker"),
        ("local", 2, "2 workers"),
        ("ray", 1, "1 Ray actor"),
        ("ray", 2, "2 Ray actors"),
    )
)


def write_mixed(path: Path, texts: int) -> None:
    """Texts of 1 to 1000 words, most of them short: lengths spread evenly by their logarithm."""
    random_ = random.Random(22)
    words = "the station near a river where people walk each morning before work".split()  # noqa: SIM905
    with path.open("w", encoding="utf-8") as stream:
        for index in range(texts):
            length = round(10 ** random_.uniform(0, 3))
            text = " ".join(random_.choices(words, k=length))
            stream.write(json.dumps({"text": text, "n": index}) + "\n")


def write_heavy(path: Path, rows: int) -> None:
    """Short texts with much beside them: the file is read through, and little is embedded."""
    with path.open("w", encoding="utf-8") as stream:
        for index in range(rows):
            row = {"text": f"text number {index}", "n": index, "more": "x" * _PAYLOAD}
            stream.write(json.dumps(row) + "\n")


class Bench:
    """Where contenders run, and with what."""

    def __init__(self, bundle: Path, out: Path, ray: Path | None) -> None:
        self.bundle, self.out, self.ray = bundle, out, ray
        self.rows: list[dict[str, Any]] = []

    def run(self, corpus: Path, contender: Contender) -> None:
        """One row more."""
        python = self.ray if contender.how == "ray" else Path(sys.executable)
        command = [str(python), "-m", "tests.bench.embed_one", contender.how, "--task", TASK]
        command += ["--bundle", str(self.bundle), "--corpus", str(corpus)]
        command += ["--out", str(self.out / "embedded"), "--count", str(contender.count)]
        if contender.threads is not None:
            command += ["--threads", str(contender.threads)]
        if contender.split_bytes is not None:
            command += ["--split-bytes", str(contender.split_bytes)]
        shutil.rmtree(self.out / "embedded", ignore_errors=True)
        before = _usage()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{contender.name}: {done.stderr[-2000:]}")
        found = json.loads(done.stdout.splitlines()[-1])
        row = {"corpus": corpus.stem, "contender": contender.name, **found}
        if contender.how != "ray":  # whose nodes are nobody's children
            row["others"] = round(others(before, _usage(), len(os.sched_getaffinity(0))), 4)
        self.rows.append(row)
        rate = found["tokens"] / found["seconds"]
        print(f"{corpus.stem:8} {contender.name:28} {rate:8.0f} tokens/s", file=sys.stderr)


def contenders(corpus: str, *, ray: bool) -> Iterator[Contender]:
    """Those of one corpus."""
    if corpus in _SIZES:
        yield LOCAL
        return
    yield from (YARDSTICK, LOCAL)
    if corpus == "short":
        yield from (c for c in SHARED if ray or c.how != "ray")


def rate_of(rows: list[dict[str, Any]], corpus: str, contender: str, key: str) -> float:
    """The median over rounds."""
    found = [row for row in rows if (row["corpus"], row["contender"]) == (corpus, contender)]
    rates = (row["steady"] if key == "steady" else row["tokens"] / row["seconds"] for row in found)
    return float(median(rates))


def targets(rows: list[dict[str, Any]], *, ray: bool) -> dict[str, dict[str, float]]:
    """What was asked of it, and found."""
    found = {}
    for corpus in ("short", "mixed"):
        ours, theirs = (rate_of(rows, corpus, c.name, "whole") for c in (LOCAL, YARDSTICK))
        found[f"{corpus}_to_encode"] = {"least": 0.95, "found": round(ours / theirs, 3)}
    for first, name in ((0, "workers"), (2, "actors")) if ray else ((0, "workers"),):
        one, two = (rate_of(rows, "short", SHARED[first + i].name, "steady") for i in (0, 1))
        found[f"two_{name}_to_linear"] = {"least": 0.9, "found": round(two / (2 * one), 3)}
    peaks = {row["corpus"]: row["peak_bytes"] for row in rows if row["corpus"] in _SIZES}
    small, large = peaks["0.1 GB"], peaks["1 GB"]
    found["memory_of_ten_times_the_corpus"] = {"most": 1.1, "found": round(large / small, 3)}
    found["memory_of_1_gb"] = {"most": 1 << 30, "found": large}
    return found


def main() -> int:
    """The command; 0 where every target was met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--ray", type=Path, help="the Python that has Ray; without, no actors")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    shutil.rmtree(given.out, ignore_errors=True)
    given.out.mkdir(parents=True)
    bench = Bench(given.bundle, given.out, given.ray)
    corpora = {name: given.out / f"{name}.jsonl" for name in ("short", "mixed", *_SIZES)}
    write_corpus(corpora["short"], round(SHORT * given.scale))
    write_mixed(corpora["mixed"], round(MIXED * given.scale))
    for name, rows in _SIZES.items():
        write_heavy(corpora[name], round(rows * given.scale))
    shuffle = random.Random(23)
    for _ in range(given.rounds):
        everything = [
            (corpora[name], contender)
            for name in corpora
            for contender in contenders(name, ray=given.ray is not None)
        ]
        shuffle.shuffle(everything)
        for corpus, contender in everything:
            bench.run(corpus, contender)
    for path in corpora.values():
        path.unlink()
    report = {
        "command": "make bench-embed",
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
        "bundle": given.bundle.name,
        "scale": given.scale,
        "rounds": given.rounds,
        "rows": bench.rows,
        "targets": targets(bench.rows, ray=given.ray is not None),
    }
    (given.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["targets"], indent=1))
    return 0 if all(map(met, report["targets"].values())) else 1


def met(target: dict[str, float]) -> bool:
    """Whether what was found is within its bound."""
    return target.get("least", 0) <= target["found"] <= target.get("most", float("inf"))


def _usage() -> Usage:
    """Of this process and those that it has waited for."""
    now, below = Usage.now(), resource.getrusage(resource.RUSAGE_CHILDREN)
    return replace(now, own=now.own + below.ru_utime + below.ru_stime)


if __name__ == "__main__":
    sys.exit(main())
