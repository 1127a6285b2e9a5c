"""An INT8 engine of the sample beside ONNX Runtime on a CPU, on ten texts; prints one JSON object.

``python -m tests.gpu.int8_first build TARGET SM OUT`` and ``… compare BUNDLE RUNTIME``. INT8
products whose sums are stored in FP16 before they are scaled overflow on this model (2.6 % of them
exceed 65504 in an emulation, and every vector is NaN or far off). Ten texts tell that in a minute.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from adaptrt import Embedder
from export.build import judging
from export.cli import main as adaptrt
from export.gate.texts import TEXTS as TEXTS_FILE
from runtimes.choices import PlanRule
from runtimes.errors import AdaptrtError

COUNT = 10
NAME = "int8-first"
# Short texts and few of them for the ranges: whether sums overflow does not hang on the details.
QUICK = ("--calibration-texts", "64", "--parity-tokens", "64", "--max-tokens", "512")


def build(target: str, sm: str, out: Path) -> int:
    """The bundle. Its engine is to be compared, not refused: no gate runs it, no rule stops it."""
    chosen = ("--target", target, "--gpu", sm, "--precision", "int8", "--name", NAME)
    options = (*chosen, "--allow-plan", ",".join(PlanRule), "--out", str(out), *QUICK)
    with mock.patch.object(judging, "device_sm", return_value=None):
        return adaptrt(["engine", *options])


def texts() -> list[str]:
    """Of several languages and lengths, every fifth of the gate's."""
    lines = TEXTS_FILE.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines[:: len(lines) // COUNT][:COUNT]]


def compare(bundle: Path, runtime: str) -> dict[str, Any]:
    """Least cosine of the runtime's vectors to ONNX Runtime's; 0 where some are no numbers."""
    with Embedder.load(bundle) as usual:
        reference = usual.encode(texts())
    with Embedder.load(bundle, runtime=runtime) as embedder:
        vectors, name = embedder.encode(texts()), embedder.runtime.name
    finite = np.isfinite(vectors).all(1)
    cosines = (reference * vectors).sum(1)[finite]
    return {
        "executed": name,
        "texts": len(vectors),
        "not_finite": int((~finite).sum()),
        "min_cosine": float(cosines.min()) if finite.all() else 0.0,
    }


def main(arguments: Sequence[str]) -> int:
    try:
        match arguments:
            case ["build", target, sm, out]:
                return build(target, sm, Path(out))
            case ["compare", bundle, runtime]:
                print(json.dumps(compare(Path(bundle), runtime)))
                return 0
    except AdaptrtError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(__doc__, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
