"""A small retrieval in six languages that the sample gets right, and what the embedder gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adaptrt import Embedder
from calibration.corpus import retrieval_pairs

QUESTIONS = (
    "undo a pushed commit without rewriting history",
    "В какой день вход в музей паровозов бесплатный?",
    "长时间低头看手机，脖子酸痛怎么缓解？",
    "霧ヶ沢温泉の露天風呂は何時まで入れますか。",
    "Was tun, wenn der Inhalt der Biotonne festgefroren ist?",
    "A che ora scende l'ultima funivia dal Monte Cervara?",
    "Un caractère étrange apparaît avant le premier en-tête de mon fichier CSV",
)
PASSAGES = {p.query: p.passage for p in retrieval_pairs() if p.query in QUESTIONS}
ANSWERS = [PASSAGES[question] for question in QUESTIONS]  # the right passage of each, in order


def embed(
    bundle: Path, texts: Sequence[str], *, runtime: str = "onnxruntime", **options: Any
) -> np.ndarray[Any, Any]:
    """What the embedder gives."""
    with Embedder.load(bundle, runtime=runtime) as embedder:
        return embedder.encode(texts, **options)


def distance(theirs: Any, ours: Any) -> float:
    """The largest difference of a number; the shapes must be equal."""
    theirs, ours = np.asarray(theirs, np.float64), np.asarray(ours, np.float64)
    assert theirs.shape == ours.shape
    return float(np.abs(theirs - ours).max())
