"""``adaptrt`` for models that are only timed: ``python -m tests.bench.random_model engine …``.

Random weights hardly rank: over the 120 pairs of the retrieval gate, errors like INT8's (1 - cosine
3e-4) move nDCG@10 by 0.02 at 32 dimensions, up or down. Only that figure is judged less strictly.
``make bench`` takes the sample this way too, calibrated on few texts.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from export.cli import main as adaptrt
from export.gate import retrieval

MIN_NDCG = 0.9


def main(arguments: Sequence[str] | None = None) -> int:
    """The command's exit code."""
    strict, retrieval.MIN_NDCG = retrieval.MIN_NDCG, MIN_NDCG
    try:
        return adaptrt(arguments)
    finally:
        retrieval.MIN_NDCG = strict


if __name__ == "__main__":
    sys.exit(main())
