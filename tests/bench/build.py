"""Time and peak memory of builds, each in a process of its own, against the targets.

``make bench-build``: the sample; a full-size random checkpoint in FP16 for one architecture and
for all tasks. Writes ``bench-build.json`` and prints a table.
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
    """Wall seconds and peak resident memory (GB) of one ``adaptrt engine``."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "export.cli", "engine", *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        sys.exit(f"adaptrt engine {' '.join(arguments)} exited with {code}")
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_gb": usage.ru_maxrss * 1024 / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--gpu", default="sm89")
    out: Path = parser.parse_args().out
    gpu: str = parser.parse_args().gpu
    full = out / "full-size-random"
    if not (full / "model.safetensors").is_file():
        write_original(full, SIZES["full"])
    common = ["--out", str(out), "--precision", "fp16"]
    cases = {
        "sample, three architectures": common,
        f"full size, {gpu}": [*common, "--model", str(full), "--gpu", gpu],
        f"full size, all tasks, {gpu}": [*common, "--model", str(full), "--gpu", gpu,
                                         "--task", "all"],
    }  # fmt: skip
    figures = {}
    for name, arguments in cases.items():
        figures[name] = run(arguments)
        for bundles in ("sample", full.name):
            shutil.rmtree(out / bundles / "classification-fp16", ignore_errors=True)
    report = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(),
              "builds": figures}  # fmt: skip
    (out / "bench-build.json").write_text(json.dumps(report, indent=2) + "\n")
    print(f"{'build':32} {'seconds':>8} {'CPU s':>8} {'peak GB':>8}")
    for name, row in figures.items():
        print(f"{name:32} {row['seconds']:8.1f} {row['cpu_seconds']:8.1f} {row['peak_gb']:8.2f}")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
