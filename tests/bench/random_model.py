"""``adaptrt`` for models that are only timed: ``python -m tests.bench.random_model engine …``.

Random weights hardly tell texts apart, so errors like INT8's (1 - cosine 2e-3) move rankings more
than those of a trained model. Only quality is judged less strictly, cosines are not.
``make bench`` takes the sample this way too, calibrated on few texts.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from calibration import quality
from export.cli import main as adaptrt

MILDNESS = 10  # times a figure's limit


def main(arguments: Sequence[str] | None = None) -> int:
    """The command's exit code."""
    strict = quality.LIMITS
    quality.LIMITS = {figure: MILDNESS * limit for figure, limit in strict.items()}
    try:
        return adaptrt(arguments)
    finally:
        quality.LIMITS = strict


if __name__ == "__main__":
    sys.exit(main())
