"""INT8's own gate: texts no calibration sees, and retrieval over pairs of query and passage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calibration.corpus import RETRIEVAL, TEXTS, held_back, retrieval_pairs
from calibration.retrieval import compare_retrieval
from export.parity import ParityText, tokenised
from export.spec import Precision
from runtimes.embedder import Vectors
from runtimes.errors import GateError
from runtimes.tokens import TextTokenizer

MIN_NDCG, MIN_OVERLAP = 0.99, 0.95  # at 10, against FP32's own ranking
_QUERY, _PASSAGE = "query-", "passage-"


def gate_files(precision: str) -> tuple[Path, ...]:
    """The files of texts that a precision's gate takes beside the common ones."""
    return (TEXTS, RETRIEVAL) if precision == Precision.INT8 else ()


def held_back_texts(tokenizer: TextTokenizer, prefix: str) -> list[ParityText]:
    """The held-back texts, then the queries and the passages, pair by pair, in a fixed order."""
    named = [(f"held-{i:03d}-{text.language}", text.text) for i, text in enumerate(held_back())]
    pairs = retrieval_pairs()
    named += [(f"{_QUERY}{i:03d}-{pair.language}", pair.query) for i, pair in enumerate(pairs)]
    named += [(f"{_PASSAGE}{i:03d}-{pair.language}", pair.passage) for i, pair in enumerate(pairs)]
    return tokenised(tokenizer, prefix, named)


def require_retrieval(
    exact: Vectors, ours: Vectors, texts: Sequence[ParityText], graph: str
) -> dict[str, Any]:
    """nDCG@10 and top-10 overlap by task; :class:`GateError` below what is asked.

    Queries and passages are embedded with one task each time, the two sides of a comparison
    alike: what is measured is how much of FP32's ranking INT8 keeps.
    """
    found: dict[str, Any] = {}
    for task in dict.fromkeys(text.task for text in texts):
        queries, passages = (
            [i for i, t in enumerate(texts) if t.task == task and t.name.startswith(kind)]
            for kind in (_QUERY, _PASSAGE)
        )
        kept = compare_retrieval(exact[queries], exact[passages], ours[queries], ours[passages])
        found[task] = vars(kept)
        if not (kept.ndcg_ratio >= MIN_NDCG and kept.overlap >= MIN_OVERLAP):
            raise GateError(
                f"retrieval was not kept by {graph}, task {task}: nDCG@10 "
                f"{kept.ndcg_ratio:.4f} of FP32's, expected at least {MIN_NDCG}; top-10 overlap "
                f"{kept.overlap:.4f}, expected at least {MIN_OVERLAP}; nothing was published"
            )
    return found
