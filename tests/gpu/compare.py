"""Cosines between two files of vectors; prints one JSON object."""

from __future__ import annotations

import json
import sys

import numpy as np


def main() -> None:
    """``python -m tests.gpu.compare REFERENCE.npz OURS.npz``: the least cosine per batch."""
    reference, ours = (np.load(path, allow_pickle=False) for path in sys.argv[1:3])
    cosines = {}
    for name in reference.files:
        a, b = (x[name].astype(np.float64) for x in (reference, ours))
        rows = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
        cosines[name] = float(rows.min()) if np.isfinite(rows).all() else 0.0
    print(json.dumps({"cosines": cosines, "min_cosine": min(cosines.values())}))


if __name__ == "__main__":
    main()
