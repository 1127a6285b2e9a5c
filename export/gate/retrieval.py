"""INT8's own gate: texts no calibration sees, and retrieval over pairs of query and passage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from calibration.corpus import RETRIEVAL, TEXTS, held_back, retrieval_pairs
from calibration.retrieval import Retrieval, compare_retrieval
from export.gate.compare import ParityText, tokenised
from runtimes.arrays import Vectors
from runtimes.errors import GateError
from runtimes.schemes import Scheme
from runtimes.text.tokens import TextTokenizer

MIN_NDCG, MIN_OVERLAP = 0.99, 0.95  # at 10, against FP32's own ranking
_QUERY, _PASSAGE = "query-", "passage-"


def gate_files(scheme: Scheme) -> tuple[Path, ...]:
    """The files of texts that a scheme's gate takes beside the common ones."""
    return (TEXTS, RETRIEVAL) if scheme.gates_retrieval else ()


def held_back_texts(tokenizer: TextTokenizer, prefix: str) -> list[ParityText]:
    """The held-back texts in a fixed order."""
    named = [(f"held-{i:03d}-{text.language}", text.text) for i, text in enumerate(held_back())]
    return tokenised(tokenizer, prefix, named)


def retrieval_texts(
    tokenizer: TextTokenizer, prefix: str, task: str, tasks: Sequence[str]
) -> list[ParityText]:
    """The queries and the passages that ``task`` embeds in a bundle of ``tasks``, pair by pair.

    A bundle with both retrieval tasks embeds each side with its own, as its users do; any other
    embeds both sides with every task it has.
    """
    sides = {_QUERY: "retrieval.query", _PASSAGE: "retrieval.passage"}
    split = set(sides.values()) <= set(tasks)
    texts: list[ParityText] = []
    for kind, owner in sides.items():
        if not split or task == owner:
            texts += tokenised(
                tokenizer,
                prefix,
                [
                    (
                        f"{kind}{i:03d}-{pair.language}",
                        pair.query if kind == _QUERY else pair.passage,
                    )
                    for i, pair in enumerate(retrieval_pairs())
                ],
            )
    return texts


def require_retrieval(
    exact: Vectors, ours: Vectors, texts: Sequence[ParityText], graph: str
) -> dict[str, Retrieval]:
    """nDCG@10 and top-10 overlap by the queries' task; :class:`GateError` below what is asked."""
    found: dict[str, Retrieval] = {}
    passage_tasks = dict.fromkeys(t.task for t in texts if t.name.startswith(_PASSAGE))
    for task in dict.fromkeys(t.task for t in texts if t.name.startswith(_QUERY)):
        other = task if task in passage_tasks else next(iter(passage_tasks))
        queries, passages = _rows(texts, _QUERY, task), _rows(texts, _PASSAGE, other)
        kept = compare_retrieval(exact[queries], exact[passages], ours[queries], ours[passages])
        found[task] = kept
        if not (kept.ndcg_ratio >= MIN_NDCG and kept.overlap >= MIN_OVERLAP):
            raise GateError(
                f"retrieval was not kept by {graph}, task {task}: nDCG@10 "
                f"{kept.ndcg_ratio:.4f} of FP32's, expected at least {MIN_NDCG}; top-10 overlap "
                f"{kept.overlap:.4f}, expected at least {MIN_OVERLAP}; nothing was published"
            )
    return found


def _rows(texts: Sequence[ParityText], kind: str, task: str) -> list[int]:
    return [i for i, t in enumerate(texts) if t.task == task and t.name.startswith(kind)]
