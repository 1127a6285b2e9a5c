"""The parity gate: every graph that is shipped and can run here, against the reference.

Texts come in padded batches on our side and unpadded on the reference's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from runtimes.arrays import Ids, Vectors
from runtimes.errors import GateError
from runtimes.executors.base import Runtime
from runtimes.text.tokens import TextTokenizer

TEXTS = Path(__file__).parent / "data" / "parity.jsonl"
_BATCH = 8
# Texts are joined to documents of at least so many tokens; none is a length that was traced.
DOCUMENT_TOKENS = (600, 2000, 4000, 8000)


@dataclass(frozen=True)
class ParityText:
    """One text of the gate, tokenised."""

    name: str
    ids: Ids
    task: str = ""
    task_id: int | None = None  # what a switchable graph takes


@dataclass(frozen=True, kw_only=True)
class TextResult:
    """How one text compares."""

    name: str
    task: str
    tokens: int
    cosine: float
    max_abs: float


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """How one executed graph compares with the reference over all texts."""

    reference: str
    executed: str
    rows: int
    min_cosine: float
    mean_cosine: float
    max_abs: float
    threshold: float
    mean_threshold: float
    passed: bool
    texts: tuple[TextResult, ...]

    def summary(self) -> dict[str, Any]:
        """The report without its texts, as the manifest holds it."""
        return {k: v for k, v in asdict(self).items() if k != "texts"}


def texts_sha256(*more: Path) -> str:
    """Identifies the gate's texts in a bundle; INT8's gate has ``more`` files of them."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in (TEXTS, *more))).hexdigest()


def parity_texts(
    tokenizer: TextTokenizer, prefix: str, longest: int, texts: Path = TEXTS
) -> list[ParityText]:
    """Short texts, paragraphs and documents up to about ``longest`` tokens, in a fixed order."""
    lines = [json.loads(line) for line in texts.read_text(encoding="utf-8").splitlines()]
    named = [(f"{i:02d}-{line['language']}", line["text"]) for i, line in enumerate(lines)]
    sizes = [len(ids) for ids in _encode_within(tokenizer, [text for _, text in named], "")]
    for goal in DOCUMENT_TOKENS:
        if goal <= min(longest, tokenizer.max_tokens):
            document = _join([line["text"] for line in lines], sizes, goal)
            named.append((f"document-{goal}", document))
    return tokenised(tokenizer, prefix, named)


def tokenised(
    tokenizer: TextTokenizer, prefix: str, named: Sequence[tuple[str, str]]
) -> list[ParityText]:
    """(name, text) pairs as the gate's texts, cut to what the bundle takes."""
    rows = _encode_within(tokenizer, [text for _, text in named], prefix)
    return [ParityText(name, ids) for (name, _), ids in zip(named, rows, strict=True)]


def _encode_within(tokenizer: TextTokenizer, texts: Sequence[str], prefix: str) -> list[Ids]:
    """A bundle for few tokens truncates the gate's texts too, and says nothing of it."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tokenizer.encode(texts, prefix)


def _join(texts: Sequence[str], sizes: Sequence[int], goal: int) -> str:
    chosen: list[str] = []
    total = 0
    while total < goal + 2 * len(chosen):  # each text's size counts two special tokens
        index = len(chosen) % len(texts)
        chosen.append(texts[index])
        total += sizes[index]
    return " ".join(chosen)


def thin(texts: Sequence[ParityText], index: int) -> list[ParityText]:
    """Every third text, from ``index`` on, and the shortest document.

    For the further tasks of one build: their graphs are the first one's byte for byte, only the
    weights differ, and a wrong weight shows in any text. Neighbouring tasks get other texts.
    """
    short = [t for t in texts if not t.name.startswith("document")]
    documents = [t for t in texts if t.name.startswith("document")]
    return short[index % 3 :: 3] + documents[:1]


def batches(texts: Sequence[ParityText]) -> Iterator[list[int]]:
    """Indices of padded batches: neighbours in length, and one of the shortest beside a longest.

    Memory of a masked attention grows with batch × longest²; the budget is that of one document
    of 2000 tokens, so longer ones run alone.
    """
    order = sorted(range(len(texts)), key=lambda i: (len(texts[i].ids), i))
    long = [i for i in order if len(texts[i].ids) >= DOCUMENT_TOKENS[0]]
    order = [i for i in order if i not in long]
    if len(order) > _BATCH:
        yield [order.pop(0), order.pop()]
    for start in range(0, len(order), _BATCH):
        yield order[start : start + _BATCH]
    for index in long:
        yield [index]


def embed(runtime: Runtime, texts: Sequence[ParityText], tokenizer: TextTokenizer) -> Vectors:
    """Vectors of all texts, in their order, computed in padded batches."""
    result: Vectors | None = None
    plan = list(batches(texts))
    for batch in tqdm(plan, desc=f"parity {runtime.name}", disable=None, leave=False):
        tokens = tokenizer.pad([texts[i].ids for i in batch])
        inputs = dict(tokens.inputs())
        if texts[batch[0]].task_id is not None:
            inputs["task_id"] = np.array([texts[i].task_id for i in batch], np.int64)
        rows = runtime.run(inputs)["sentence_embedding"]
        if result is None:
            result = np.empty((len(texts), rows.shape[1]), np.float32)
        result[batch] = rows
    return np.empty((0, 0), np.float32) if result is None else result


def compare(
    reference: Vectors,
    vectors: Vectors,
    texts: Sequence[ParityText],
    *,
    names: Mapping[str, str],
    threshold: float,
    mean_threshold: float | None = None,
) -> ParityReport:
    """Cosine (in FP64) and greatest difference per text; NaN anywhere fails.

    ``names`` has ``reference`` and ``executed``. Every text must reach ``threshold`` and their
    mean ``mean_threshold`` (by default the same).
    """
    mean_threshold = threshold if mean_threshold is None else mean_threshold
    cosines = row_cosines(reference, vectors)
    gaps = np.abs(reference.astype(np.float64) - vectors).max(axis=1)
    results = tuple(
        TextResult(name=t.name, task=t.task, tokens=len(t.ids), cosine=float(c), max_abs=float(g))
        for t, c, g in zip(texts, cosines, gaps, strict=True)
    )
    least, mean = float(cosines.min()), float(cosines.mean())
    return ParityReport(
        **names,
        rows=len(texts),
        min_cosine=least,
        mean_cosine=mean,
        max_abs=float(gaps.max()),
        threshold=threshold,
        mean_threshold=mean_threshold,
        passed=least >= threshold and mean >= mean_threshold,
        texts=results,
    )


def row_cosines(a: Vectors, b: Vectors) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Cosine of each pair of rows, in FP64; capped at 1, which rounding can pass by 1e-16."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    cosines: np.ndarray[Any, np.dtype[np.float64]] = np.minimum((x * y).sum(axis=1) / norms, 1.0)
    return cosines


def require(report: ParityReport, graph: str) -> None:
    """Raise :class:`GateError` naming the worst texts unless the report passed."""
    if report.passed:
        return
    worst = sorted(report.texts, key=lambda t: -np.inf if np.isnan(t.cosine) else t.cosine)[:3]
    listed = ", ".join(
        f"{t.task} {t.name} ({t.tokens} tokens): {t.cosine:.7f}".strip() for t in worst
    )
    mean = ""
    if report.mean_threshold != report.threshold:
        mean = f", mean {report.mean_cosine:.7f}, expected at least {report.mean_threshold}"
    raise GateError(
        f"parity failed for {graph}: minimum cosine {report.min_cosine:.7f}, expected at least "
        f"{report.threshold}{mean}; worst texts: {listed}; nothing was published"
    )
