"""Time and peak memory of builds, each in a process of its own, against the targets.

``make bench-build``: the sample; a full-size random checkpoint in FP16 for one architecture and
for all tasks; its calibration for INT8 on 256 texts of up to 8192 tokens. Writes
``bench-build.json`` and prints a table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.zoo import SIZES, write_original


def run(arguments: list[str]) -> dict[str, float]:
    """Wall seconds and peak resident memory (GB) of one ``adaptrt`` command."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "export.cli", *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        sys.exit(f"adaptrt {' '.join(arguments)} exited with {code}")
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_gb": usage.ru_maxrss * 1024 / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--gpu", default="sm89")
    parser.add_argument("--only", default="", help="the cases with this in their names")
    given = parser.parse_args()
    out, gpu = Path(given.out), str(given.gpu)
    full = out / "full-size-random"
    if not (full / "model.safetensors").is_file():
        write_original(full, SIZES["full"])
    common = ["engine", "--out", str(out), "--precision", "fp16"]
    cases = {
        "sample, three architectures": common,
        f"full size, {gpu}": [*common, "--model", str(full), "--gpu", gpu],
        f"full size, all tasks, {gpu}": [
            *common,
            "--model",
            str(full),
            "--gpu",
            gpu,
            "--task",
            "all",
        ],
        "full size, calibration": ["calibrate", "--out", str(out), "--model", str(full)],
    }
    figures = {}
    for name, arguments in cases.items():
        if given.only not in name:
            continue
        shutil.rmtree(out / full.name / "calibration", ignore_errors=True)  # it would be reused
        figures[name] = run(arguments)
        for bundles in ("sample", full.name):
            for bundle in (out / bundles).glob("classification-fp16*"):
                shutil.rmtree(bundle)
    report = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "builds": figures,
    }
    (out / "bench-build.json").write_text(json.dumps(report, indent=2) + "\n")
    print(f"{'build':32} {'seconds':>8} {'CPU s':>8} {'peak GB':>8}")
    for name, row in figures.items():
        print(f"{name:32} {row['seconds']:8.1f} {row['cpu_seconds']:8.1f} {row['peak_gb']:8.2f}")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
