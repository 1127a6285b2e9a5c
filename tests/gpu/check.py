"""``make gpu-check``: everything that runs on this machine's GPU, tried, compared and timed.

Every step is a process of its own with a limit of time; one that cannot run says why and the others
go on. The first tells whether an INT8 engine gives right vectors at all. Writes ``gpu-check.json``
and ``gpu-check.md``. Exit codes: 0 all that could run agrees, 1 a step failed, 3 vectors differ too
much, 4 there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.gpu import (
    OF_TORCH,
    RTX_GPUS,
    Contender,
    Workplace,
    contenders,
    list_missing,
    make_bundle,
    make_model,
    rows_of,
    run_contender,
    table,
    time_all,
)
from tests.gpu.device import Gpu, find_gpu
from tests.gpu.steps import DONE, FAILED, ROOT, Outcome, not_run, run_step

PRECISIONS = ("fp16", "bf16", "int8")
# The schemes' gates, written out: their package loads NumPy, which a CUDA image may have broken.
GATES = {
    "fp16": 0.9999,
    "bf16": 0.999,
    "int8": 0.99,
    "fp8": 0.995,
    "int8w": 0.9999,
    "int4w": 0.99,
}
RTX_EXAMPLE = "sm80,sm86,sm89,sm120"


def install_wheels(wheels: Path, site: Path) -> Outcome:
    """Unpack wheels into a folder of their own, which later steps find first."""
    site.mkdir(parents=True, exist_ok=True)
    files = sorted(wheels.glob("*.whl"))
    if not files:
        return Outcome("wheels", FAILED, reason=f"{wheels} holds no .whl file")
    step = run_step(
        "wheels",
        [
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-index",
            "--no-deps",
            "--upgrade",
            "--target",
            site,
            *files,
        ],
        600,
    )
    path = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(site), path)))
    return step


def compare_all(place: Workplace, who: Sequence[Contender]) -> list[Outcome]:
    """Vectors of every contender at every length against PyTorch FlashAttention-2."""
    outcomes = []
    for contender in who:
        mine = _vectors(place, contender)
        name = f"run {place.size} {contender}"
        outcomes.append(run_contender(place, contender, name, "--vectors", mine))
        if outcomes[-1].status != DONE or contender == contender.baseline:
            continue
        theirs = _vectors(place, contender.baseline)
        name = f"compare {place.size} {contender}"
        if not theirs.is_file():
            outcomes.append(not_run(name, f"{contender.baseline} did not run"))
            continue
        step = run_step(name, ["-m", "tests.gpu.compare", theirs, mine], 120)
        step.result["gate"] = GATES[contender.precision]
        outcomes.append(step)
    return outcomes


def check_int8(place: Workplace) -> list[Outcome]:
    """An INT8 engine of the sample on ten texts beside ONNX Runtime, by what runs on this card."""
    target = "tensorrt_rtx" if place.gpu.sm in RTX_GPUS else "tensorrt"
    out = place.folder / "bundles" / f"int8-first-{target}"
    bundle = out / "sample" / "int8-first"
    module = ["-m", "tests.gpu.int8_first"]
    name = f"build INT8 of the sample for {target}"
    steps = [run_step(name, [*module, "build", target, place.gpu.sm, out], 600)]
    name = f"INT8 on ten texts by {target}"
    if not (bundle / "manifest.json").is_file():
        return [*steps, not_run(name, "its bundle was not built")]
    step = run_step(name, [*module, "compare", bundle, target], 300)
    step.result["gate"] = GATES["int8"]
    return [*steps, step]


def check_rtx(place: Workplace) -> list[Outcome]:
    """Engines for other architectures on this card: what TensorRT-RTX says."""
    if place.gpu.sm not in RTX_GPUS:
        listed = ", ".join(RTX_GPUS)
        reason = f"it takes {listed}, not {place.gpu.sm}; full TensorRT is tried instead"
        return [not_run("TensorRT-RTX", reason)]
    out = place.folder / "bundles" / "rtx-others"
    build = run_step(
        "build sample for RTX architectures",
        [
            "-m",
            "export.cli",
            "engine",
            "--target",
            "tensorrt_rtx",
            "--gpu",
            RTX_EXAMPLE,
            "--parity-tokens",
            64,
            "--out",
            out,
        ],
        900,
    )
    own = run_step(
        f"TensorRT-RTX build for {place.gpu.sm}",
        [
            "-m",
            "export.cli",
            "engine",
            "--target",
            "tensorrt_rtx",
            "--gpu",
            place.gpu.sm,
            "--parity-tokens",
            64,
            "--out",
            out.with_name("rtx-own"),
        ],
        900,
    )
    if build.status != DONE:
        return [build, own]
    bundle = out / "sample" / "classification-fp16"
    says = f"what TensorRT-RTX says on {place.gpu.sm}"
    return [build, own, run_step(says, ["-m", "tests.gpu.rtx_probe", bundle], 300)]


def check_size(place: Workplace, precisions: Sequence[str]) -> list[Outcome]:
    """Build, run and compare one size; the sample also from refitted engines."""
    who = contenders(place.gpu, precisions)
    if place.size == "sample":
        who += [
            Contender(c.executor, c.precision, refit=True)
            for c in who
            if c.executor.startswith("tensorrt") and c.precision == "fp16"
        ]
    steps = [make_model(place)]
    steps += [make_bundle(place, c) for c in who if c.executor not in OF_TORCH]
    return steps + compare_all(place, who)


def verdict(steps: Sequence[Outcome]) -> int:
    """The exit code."""
    if any(s.result["min_cosine"] < s.result["gate"] for s in steps if "min_cosine" in s.result):
        return 3
    return 1 if any(step.status == FAILED for step in steps) else 0


def summary(gpu: Gpu, steps: Sequence[Outcome], rows: Sequence[dict[str, Any]]) -> str:
    """The report in Markdown."""
    lines = [
        f"# {gpu.name}",
        "",
        f"{gpu.sm}, {gpu.memory_gib:.0f} GiB, driver for CUDA {gpu.cuda}",
        "",
        "| step | result | seconds |",
        "|---|---|---|",
    ]
    for step in steps:
        words = step.status + (f": {step.reason}" if step.reason else "")
        if "min_cosine" in step.result:
            words += f", least cosine {step.result['min_cosine']:.7f} (gate {step.result['gate']})"
        lines.append(f"| {step.name} | {words.replace('|', '/')} | {step.seconds:.0f} |")
    return "\n".join([*lines, "", table(rows), ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--wheels", type=Path, help="a folder of wheels to use beside the image's")
    parser.add_argument("--sizes", default="sample,full")
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    folder: Path = options.out.resolve()
    steps = []
    if options.wheels is not None:
        steps.append(install_wheels(options.wheels.resolve(), folder / "site"))
    gpu = find_gpu()
    if isinstance(gpu, str):
        list_missing(gpu)
        return 4
    folder.mkdir(parents=True, exist_ok=True)
    precisions = options.precisions.split(",")
    steps.append(run_step("libraries", ["-m", "tests.gpu.probe"], 300))
    rows: list[dict[str, Any]] = []
    if "int8" in precisions:
        steps += check_int8(Workplace(folder, "sample", gpu))
    for size in options.sizes.split(","):
        place = Workplace(folder, size, gpu)
        steps += check_size(place, precisions)
        if size == "sample":
            steps += check_rtx(place)
    timed = time_all(place, contenders(gpu, precisions), options.rounds)  # the last size
    rows = rows_of(timed, contenders(gpu, precisions))
    steps += timed
    report = {
        "command": "make gpu-check",
        "gpu": gpu.to_json(),
        "commit": _commit(),
        "timed_size": place.size,
        "rows": rows,
        "steps": [step.to_json() for step in steps],
    }
    (folder / "gpu-check.json").write_text(json.dumps(report, indent=2) + "\n")
    text = summary(gpu, steps, rows)
    (folder / "gpu-check.md").write_text(text)
    print(text)
    return verdict(steps)


def _vectors(place: Workplace, contender: Contender) -> Path:
    return place.folder / f"{place.size}-{str(contender).replace(' ', '-')}.npz"


def _commit() -> str:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
