"""``make bench-gpu``: executors against PyTorch FlashAttention-2 on this machine's GPU.

Each round starts each executor in a fresh process, so ratios come from one run and the machine's
drift falls on all alike. Writes ``bench-gpu.json`` and ``bench-gpu.md``. Exit code 4 where there is
no GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.gpu.device import Gpu, find_gpu
from tests.gpu.probe import PROBES
from tests.gpu.steps import DONE, NOT_RUN, Outcome, not_run, run_step

TIMED = {"1x128": (1, 128), "32x128": (32, 128), "8x512": (8, 512), "1x8192": (1, 8192)}
BUILD_TIMEOUT, RUN_TIMEOUT = 1800, 600
# PyTorch on the model itself: its own FlashAttention-2 kernel, and that of the flash-attn package.
OF_TORCH = ("torch", "flash_attn")
_QUANTISED = ("int8", "fp8", "int8w", "int4w")
RTX_GPUS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
# Least ratio of PyTorch's time to ours that the project aims at, FP16.
TARGETS = {"1x128": 1.3, "32x128": 1.0, "8x512": 1.0}


@dataclass(frozen=True)
class Contender:
    """Who runs: one :data:`OF_TORCH`, or one of the project's runtimes.

    ``refit``: from a stripped engine.
    """

    executor: str
    precision: str
    refit: bool = False

    def __str__(self) -> str:
        return f"{self.executor}{' refitted' if self.refit else ''} {self.precision}"

    @property
    def baseline(self) -> Contender:
        """PyTorch in the same type; INT8 is compared with FP16."""
        return Contender("torch", "bf16" if self.precision == "bf16" else "fp16")


@dataclass(frozen=True)
class Workplace:
    """Where the models and bundles of one size are."""

    folder: Path
    size: str
    gpu: Gpu

    @property
    def model(self) -> Path:
        """The sample is part of the project; other sizes are random."""
        return Path("export/sample") if self.size == "sample" else self.folder / self.size

    def bundle(self, contender: Contender) -> Path:
        """A bundle that the contender can run."""
        target = "onnxruntime" if contender.executor.startswith("onnx") else contender.executor
        out = self.folder / "bundles" / (target + ("-refit" if contender.refit else ""))
        return out / self.model.name / f"base-{contender.precision}"


def contenders(gpu: Gpu, precisions: Sequence[str]) -> list[Contender]:
    """Everything worth trying on this GPU, PyTorch first.

    ONNX Runtime's CUDA provider has no quantised products and refuses such bundles.
    """
    executors = ["onnxruntime_cuda", "tensorrt"]
    if gpu.sm in RTX_GPUS:
        executors.append("tensorrt_rtx")
    baselines = dict.fromkeys(Contender("torch", p).baseline for p in precisions)
    pairs = [(e, p) for p in precisions for e in executors]
    return [
        *baselines,
        *(Contender("flash_attn", baseline.precision) for baseline in baselines),
        *(Contender(e, p) for e, p in pairs if e != "onnxruntime_cuda" or p not in _QUANTISED),
    ]


def make_model(place: Workplace) -> Outcome:
    """A random checkpoint of the size asked for."""
    name = f"checkpoint {place.size}"
    if (place.model / "model.safetensors").is_file():
        return Outcome(name, DONE, reason="there already")
    return run_step(name, ["-m", "tests.zoo", place.model, "--size", place.size], BUILD_TIMEOUT)


def make_bundle(place: Workplace, contender: Contender) -> Outcome:
    """``adaptrt engine`` for one contender; the gate of the full size runs on short texts."""
    bundle = place.bundle(contender)
    name = f"build {place.size} for {contender}"
    if (bundle / "manifest.json").is_file():
        return Outcome(name, DONE, reason="there already")
    target = bundle.parents[1].name.removesuffix("-refit")
    command = "export.cli" if place.size == "sample" else "tests.bench.random_model"
    return run_step(
        name,
        [
            "-m",
            command,
            "engine",
            "--model",
            place.model,
            "--task",
            "base",
            "--target",
            target,
            "--precision",
            contender.precision,
            "--gpu",
            place.gpu.sm,
            "--out",
            bundle.parents[1],
            "--name",
            bundle.name,
            "--parity-tokens",
            2048 if place.size == "sample" else 64,
            *(["--refittable"] if contender.refit else []),
        ],
        BUILD_TIMEOUT,
    )


def run_contender(place: Workplace, contender: Contender, name: str, *more: object) -> Outcome:
    """The worker's report, timed or (``--vectors FILE``) compared."""
    of_torch = contender.executor in OF_TORCH
    folder = place.model if of_torch else place.bundle(contender)
    if not of_torch and not (folder / "manifest.json").is_file():
        return not_run(name, "its bundle was not built")
    return run_step(
        name,
        [
            "-m",
            "tests.bench.gpu_worker",
            contender.executor,
            folder,
            "--precision",
            contender.precision,
            *more,
        ],
        RUN_TIMEOUT,
    )


def time_all(place: Workplace, who: Sequence[Contender], rounds: int) -> list[Outcome]:
    """Every contender in every round; one that cannot run is not tried again."""
    outcomes: list[Outcome] = []
    given_up: set[Contender] = set()
    for number in range(rounds):
        for contender in who:
            if contender in given_up:
                continue
            name = f"time {place.size} {contender}, round {number + 1}"
            outcome = run_contender(place, contender, name)
            outcome.result["contender"] = str(contender)
            outcome.result["round"] = number
            outcomes.append(outcome)
            if outcome.status != DONE:
                given_up.add(contender)
    return outcomes


def rows_of(outcomes: Sequence[Outcome], who: Sequence[Contender]) -> list[dict[str, Any]]:
    """Medians over rounds; ratios are PyTorch's time over ours, round by round."""
    times: dict[tuple[str, str], dict[int, float]] = {}
    for outcome in outcomes:
        for case, found in outcome.result.get("cases", {}).items():
            if "seconds" in found:
                key = (outcome.result["contender"], case)
                times.setdefault(key, {})[outcome.result["round"]] = found["seconds"]
    return list(_rows(times, who))


def _rows(
    times: dict[tuple[str, str], dict[int, float]], who: Sequence[Contender]
) -> Iterator[dict[str, Any]]:
    for case, (batch, tokens) in TIMED.items():
        for contender in who:
            mine = times.get((str(contender), case))
            if not mine:
                continue
            theirs = times.get((str(contender.baseline), case), {})
            ratios = [theirs[r] / mine[r] for r in mine if r in theirs]
            seconds = median(mine.values())
            target = TARGETS.get(case) if contender.precision == "fp16" else None
            yield {
                "case": case,
                "executor": contender.executor,
                "precision": contender.precision,
                "milliseconds": 1e3 * seconds,
                "tokens_per_second": batch * tokens / seconds,
                "rounds": len(mine),
                "times_torch": median(ratios) if ratios else None,
                "times_torch_range": [min(ratios), max(ratios)] if ratios else None,
                "target": None if contender.executor in OF_TORCH else target,
            }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: one line per case and executor."""
    lines = [
        "| case | executor | precision | ms a call | tokens/s | × PyTorch FA2 (range) |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratio = "–"
        if row["times_torch"] is not None:
            low, high = row["times_torch_range"]
            ratio = f"{row['times_torch']:.2f} ({low:.2f}–{high:.2f})"
            if row["target"] is not None:
                met = "met" if row["times_torch"] >= row["target"] else "missed"
                ratio += f", target {row['target']:g} {met}"
        lines.append(
            f"| {row['case']} | {row['executor']} | {row['precision']} | "
            f"{row['milliseconds']:.2f} | {row['tokens_per_second']:.0f} | {ratio} |"
        )
    return "\n".join(lines)


def list_missing(reason: str) -> None:
    """What a machine lacks, on standard error; each library is asked in a process of its own."""
    print(f"error: {reason}; a machine with an NVIDIA GPU is needed", file=sys.stderr)
    found = run_step("libraries", ["-m", "tests.gpu.probe"], 300).result
    for name in PROBES:
        print(f"  {name:13} {found.get(name, 'not found out')}", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", choices=("sample", "mid", "full"), default="full")
    parser.add_argument("--precisions", default="fp16,bf16")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    gpu = find_gpu()
    if isinstance(gpu, str):
        list_missing(gpu)
        return 4
    place = Workplace(options.out.resolve(), options.size, gpu)
    place.folder.mkdir(parents=True, exist_ok=True)
    who = contenders(gpu, options.precisions.split(","))
    steps = [make_model(place), *(make_bundle(place, c) for c in who if c.executor not in OF_TORCH)]
    steps += time_all(place, who, options.rounds)
    rows = rows_of(steps, who)
    report = {
        "command": "make bench-gpu",
        "gpu": gpu.to_json(),
        "size": options.size,
        "weights": "random",
        "rows": rows,
        "steps": [step.to_json() for step in steps],
    }
    (place.folder / "bench-gpu.json").write_text(json.dumps(report, indent=2) + "\n")
    text = f"{gpu.name}, CUDA {gpu.cuda}, {options.size} size\n\n{table(rows)}\n"
    (place.folder / "bench-gpu.md").write_text(text)
    print(text)
    for step in steps:
        if step.status != DONE:
            print(f"{step.name}: {step.status}: {step.reason}")
    return 0 if all(step.status in (DONE, NOT_RUN) for step in steps) else 1


if __name__ == "__main__":
    sys.exit(main())
