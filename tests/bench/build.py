"""Time, peak memory and size of builds, each in a process of its own, against the targets.

``make bench-build``: the sample; a full-size random checkpoint in FP16 for three architectures,
for one, and for all tasks; its calibration for INT8 on 256 texts of up to 8192 tokens. Writes
``builds.json`` and prints a table.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.bench.plan_tables import markdown
from tests.bench.reports import FOLDER
from tests.bench.summary import machine

REPORT = FOLDER / "builds" / "builds.json"
# Limits that were set before it was measured.
TARGETS: Mapping[str, str] = {
    "sample, three architectures": "60 s",
    "full size, one architecture": "480 s, 10 GB",
    "full size, calibration": "600 s, 8 GB",
}


def run(arguments: list[str], out: Path) -> dict[str, float]:
    """Wall and CPU seconds, peak resident memory and what was written of one ``adaptrt`` command.

    ``others`` is the share of the cores' time that other processes took meanwhile.
    """
    before, busy, start = written(out), _busy(), time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "export.cli", *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        sys.exit(f"adaptrt {' '.join(arguments)} exited with {code}")
    seconds, own = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
    return {
        "seconds": seconds,
        "cpu_seconds": own,
        "peak_bytes": usage.ru_maxrss * 1024,
        "bundle_bytes": written(out) - before,
        "others": max(0.0, (_busy() - busy - own) / seconds / (os.cpu_count() or 1)),
    }


def written(folder: Path) -> int:
    """Bytes of the files below a folder; files that share their content count once."""
    stats = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum({stat.st_ino: stat.st_size for stat in stats}.values())


def _busy() -> float:
    """Seconds that all cores together were not idle since the machine started (Linux)."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def table() -> str:
    """The committed report: a row per build."""
    report = json.loads(REPORT.read_text(encoding="utf-8"))
    rows = [
        (
            name,
            f"{row['seconds']:.0f}",
            f"{row['cpu_seconds']:.0f}",
            f"{row['peak_bytes'] / 1e9:.1f} GB",
            f"{row['bundle_bytes'] / 1e9:.2f} GB",
            f"{row['others']:.0%}",
            TARGETS.get(name, ""),
        )
        for name, row in report["builds"].items()
    ]
    head = ("build", "seconds", "CPU seconds", "peak memory", "written", "others", "target")
    caption = (
        f"*Whole commands, FP16 ({report['gpus']}); the full-size model has random weights and "
        f"{report['checkpoint_bytes'] / 1e9:.2f} GB. “Others” is the share of the cores' time that "
        f"other processes took. {report['machine']}, {report['date']}*"
    )
    return "\n\n".join([markdown(head, rows), caption])


def main() -> None:
    from tests.zoo import SIZES, write_original

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--gpu", default="sm89", help="of the builds for one architecture")
    parser.add_argument("--only", default="", help="cases, separated by semicolons")
    given = parser.parse_args()
    out, gpu = Path(given.out), str(given.gpu)
    full = out / "full-size-random"
    if not (full / "model.safetensors").is_file():
        write_original(full, SIZES["full"])
    bundles = out / "bundles"
    common = ["engine", "--out", str(bundles), "--precision", "fp16"]
    model = ["--model", str(full)]
    cases = {
        "sample, three architectures": common,
        "full size, three architectures": [*common, *model],
        "full size, one architecture": [*common, *model, "--gpu", gpu],
        "full size, all tasks, one architecture": [*common, *model, "--gpu", gpu, "--task", "all"],
        "full size, calibration": ["calibrate", "--out", str(bundles), *model],
    }
    chosen = given.only.split(";") if given.only else list(cases)
    figures: dict[str, dict[str, float]] = {}
    for name in chosen:
        shutil.rmtree(bundles, ignore_errors=True)  # a calibration would be reused
        bundles.mkdir(parents=True)
        figures[name] = run(cases[name], bundles)
    shutil.rmtree(bundles, ignore_errors=True)
    report: dict[str, Any] = {
        "command": "make bench-build",
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "gpus": f"sm86, sm89 and sm120, or {gpu} alone",
        "checkpoint_bytes": written(full),
        "builds": figures,
    }
    path = out / REPORT.name
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"{'build':40} {'seconds':>8} {'CPU s':>8} {'peak GB':>8}")
    for name, row in figures.items():
        peak = row["peak_bytes"] / 1e9
        print(f"{name:40} {row['seconds']:8.1f} {row['cpu_seconds']:8.1f} {peak:8.2f}")
    print(f"{path}; to publish it: cp {path} {REPORT.parent}/ and make figures")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
