"""The cases of :mod:`tests.torture.embedder`, each in a process of its own, with a limit of time.

On the random checkpoint with every task, by ONNX Runtime and by OpenVINO.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from tests.torture.embedder import CASES, CLEAR, LIMIT_SECONDS, VALID
from tests.torture.judge import ADAPTRT, LIMIT_MB, environment, run
from tests.torture.report import Failure, Report
from tests.zoo import write_original

TARGETS = ("onnxruntime", "openvino")


def embedders(
    count: int,
    seed: int,
    folder: Path,
    *,
    targets: Collection[str] = TARGETS,
    cases: Collection[str] = tuple(CASES),
    bundle: Path | None = None,
) -> Report:
    """Every case ``count`` times with each target, or with ``bundle`` where there is one."""
    start = time.monotonic()
    env = environment(folder / "private")
    ended: Counter[str] = Counter()
    failures, peak = [], 0.0
    for target in targets:
        opened = bundle or _build(folder, target)
        for number in range(count):
            for name in cases:
                command = (sys.executable, "-m", "tests.torture.embedder")
                outcome = run((*command, name, opened, seed + number), env=env, limit=LIMIT_SECONDS)
                peak = max(peak, outcome.peak_mb)
                said = outcome.stdout.strip() or outcome.stderr.strip()[-300:] or "nothing"
                good = outcome.code == 0 and said in (VALID, CLEAR) and outcome.peak_mb < LIMIT_MB
                ended["hang" if outcome.code is None else said if good else "failure"] += 1
                if not good:
                    case = f"{name}, {target}, seed {seed + number}"
                    failures.append(Failure(case, f"exit {outcome.code}: {said}"))
    return Report(
        name="embedder",
        seed=seed,
        asked=count * len(targets) * len(cases),
        ended=dict(sorted(ended.items())),
        failures=failures,
        seconds=round(time.monotonic() - start, 1),
        peak_mb=round(peak),
    )


def _build(folder: Path, target: str) -> Path:
    model = folder / "small"
    if not model.is_dir():
        write_original(model)
    words = ("engine", "--model", model, "--target", target, "--precision", "fp32", "--out", folder)
    form = ("--adapter", "switchable", "--head", "chunks", "--parity-tokens", 16)
    outcome = run((*ADAPTRT, *words, *form, "--name", target))
    if outcome.code != 0:
        raise RuntimeError(outcome.stderr[-1000:])
    return folder / "small" / target
