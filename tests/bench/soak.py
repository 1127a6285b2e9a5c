"""Resident memory over thousands of calls of mixed shapes: ``make soak``.

On a random checkpoint, 64 wide with 2 layers. Each setting runs in a process of its own. ``leak``
and ``arena`` are what the figure is held against: an executor that keeps 16 kB of every call, and
ONNX Runtime's arena, as it was before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from runtimes import Embedder
from runtimes.arrays import Ids
from tests.bench.plan_tables import markdown
from tests.bench.reports import FOLDER, ROOT
from tests.bench.summary import machine

REPORTS = FOLDER / "soak"
SETTINGS = ("as it is", "arena", "leak")
RUNTIMES = {"onnxruntime": SETTINGS, "openvino": SETTINGS[:1]}
CALLS, WARM = 5000, 500
AT_MOST = 0.02  # growth after the warm calls
_SAMPLES = 50  # of resident memory over all calls
_LEAK = 16384  # bytes of each call
Shape = tuple[int, int]


def mix(calls: int, seed: int, max_tokens: int, max_batch: int) -> list[Shape]:
    """(rows, tokens) as of a service: short texts in batches, one in fifty long, few very long."""
    rng = np.random.default_rng(seed)
    shapes: list[Shape] = []
    for _ in range(calls):
        kind = rng.random()
        if kind < 0.002:
            shapes.append((1, max_tokens))
        elif kind < 0.02:
            shapes.append((1, int(rng.integers(min(512, max_tokens), max_tokens // 2 + 1))))
        else:
            tokens = int(np.clip(rng.lognormal(3.6, 0.9), 2, min(512, max_tokens)))
            most = max(1, min(max_batch, 512 // tokens))
            shapes.append((int(rng.integers(1, most + 1)), tokens))
    return shapes


def resident() -> int:
    """Bytes of this process in memory (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


def growth(samples: list[int], warm: float = WARM / CALLS) -> float:
    """Of the last tenth's median over that of the tenth that follows the warm calls."""
    tenth = max(1, len(samples) // 10)
    begin = round(warm * len(samples))
    before = median(samples[begin : begin + tenth])
    return median(samples[-tenth:]) / before - 1


def run(bundle: Path, runtime: str, setting: str, calls: int, seed: int) -> dict[str, Any]:
    """The calls, in this process; resident memory, sampled evenly."""
    if setting == "arena":
        _keep_the_arena()
    rng = np.random.default_rng(seed)
    samples: list[int] = []
    kept: list[bytearray] = []
    with Embedder.load(bundle, runtime=runtime, threads=1, spinning=False) as embedder:
        manifest = embedder.manifest
        task = manifest.tasks[0]
        shapes = mix(calls, seed, manifest.max_tokens, manifest.max_batch)
        vocab = manifest.architecture.vocab
        loaded, start = resident(), time.monotonic()
        every = max(1, calls // _SAMPLES)
        for number, (rows, tokens) in enumerate(shapes, 1):
            ids: list[Ids] = [rng.integers(5, vocab, tokens) for _ in range(rows)]
            embedder.run_rows(ids, [task] * rows)
            if setting == "leak":
                kept.append(bytearray(b"\1" * _LEAK))
            if number % every == 0:
                samples.append(resident())
    return {
        "setting": setting,
        "runtime": runtime,
        "calls": calls,
        "loaded": loaded,
        "samples": samples,
        "peak_sample": max(samples),
        "growth": growth(samples),
        "seconds": round(time.monotonic() - start, 1),
    }


def _keep_the_arena() -> None:
    """As ONNX Runtime does by itself: no call is long enough to have it shrunk."""
    import runtimes.executors.ort as executor

    executor._most_kept = lambda device, budget: sys.maxsize


def alone(bundle: Path, runtime: str, setting: str, calls: int, seed: int = 0) -> dict[str, Any]:
    """:func:`run` in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.soak", "--bundle", bundle, "--runtime", runtime]
    command += ["--setting", setting, "--calls", calls, "--seed", seed]
    done = subprocess.run(
        [str(word) for word in command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def built(runtime: str, out: Path) -> Path:
    """The random checkpoint's bundle for a target, FP32."""
    from export.cli import main as adaptrt
    from tests.zoo import write_original

    model = out / "small"
    if not model.is_dir():
        write_original(model)
    options = ("--task", "separation", "--precision", "fp32", "--parity-tokens", "64")
    place = ("--model", str(model), "--target", runtime, "--out", str(out / "bundles"))
    if adaptrt(["--quiet", "engine", *options, *place]) != 0:
        raise RuntimeError(f"no bundle for {runtime}")
    return out / "bundles" / "small" / f"separation-fp32-{runtime}"


def table() -> str:
    """The committed report: a row per executor and setting."""
    report = json.loads((REPORTS / "small.json").read_text(encoding="utf-8"))
    rows = [
        (
            row["runtime"],
            _WORDS[row["setting"]],
            *(f"{size / 1e6:.0f}" for size in (row["loaded"], _end(row), row["peak_sample"])),
            f"{row['growth']:+.1%}",
        )
        for row in report["runs"]
    ]
    marks = ("loaded, MB", "at the end", "at most", f"growth after {report['warm']} calls")
    head = ("executor", "setting", *marks)
    caption = f"*{report['runs'][0]['calls']} calls; {report['machine']}, {report['date']}*"
    return "\n\n".join([markdown(head, rows), caption])


_WORDS = {
    "as it is": "as it is",
    "arena": "arena never shrunk, as before",
    "leak": "control: 16 kB of each call are kept",
}


def _end(row: dict[str, Any]) -> float:
    samples = row["samples"]
    return float(median(samples[-max(1, len(samples) // 10) :]))


def main() -> None:
    """One setting, printed as JSON; without one every setting, written to a report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, help="of one setting")
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--setting", choices=SETTINGS)
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/soak"))
    chosen = parser.parse_args()
    if chosen.setting is not None:
        found = run(chosen.bundle, chosen.runtime, chosen.setting, chosen.calls, chosen.seed)
        print(json.dumps(found))
        return
    runs = []
    for runtime, settings in RUNTIMES.items():
        bundle = built(runtime, chosen.out)
        for setting in settings:
            runs.append(alone(bundle, runtime, setting, chosen.calls))
            print(f"{runtime}, {setting}: {runs[-1]['growth']:+.2%}", file=sys.stderr)
    report = {
        "command": "make soak",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "warm": WARM,
        "at_most": AT_MOST,
        "runs": runs,
    }
    chosen.out.mkdir(parents=True, exist_ok=True)
    path = chosen.out / "small.json"
    path.write_text(json.dumps(report) + "\n", encoding="utf-8")
    print(f"{path}; to publish it: cp {path} {REPORTS.relative_to(ROOT)}/ and make figures")


if __name__ == "__main__":
    main()
