"""MTEB tasks of the project's own texts: nothing is downloaded, and every score is deterministic.

They compare bundles with their checkpoint. How good a model is they do not say: their labels are
what the texts have by themselves, a language, the passage that answers a query, and the part of a
text that two have in common.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from mteb.abstasks import (
    AbsTask,
    AbsTaskClassification,
    AbsTaskClustering,
    AbsTaskRetrieval,
    AbsTaskSTS,
)
from mteb.abstasks.task_metadata import TaskMetadata

from calibration.corpus import RETRIEVAL, TEXTS, held_back, load_corpus, retrieval_pairs

_SPLIT = "test"
# ISO 639-1, as the texts have it, to mteb's codes.
_LANGUAGES = {
    "ar": "ara-Arab",
    "bn": "ben-Beng",
    "cs": "ces-Latn",
    "de": "deu-Latn",
    "el": "ell-Grek",
    "en": "eng-Latn",
    "es": "spa-Latn",
    "fa": "fas-Arab",
    "fr": "fra-Latn",
    "he": "heb-Hebr",
    "hi": "hin-Deva",
    "id": "ind-Latn",
    "it": "ita-Latn",
    "ja": "jpn-Jpan",
    "ko": "kor-Hang",
    "nl": "nld-Latn",
    "pl": "pol-Latn",
    "pt": "por-Latn",
    "ru": "rus-Cyrl",
    "th": "tha-Thai",
    "tr": "tur-Latn",
    "uk": "ukr-Cyrl",
    "vi": "vie-Latn",
    "zh": "zho-Hans",
}
_GRADES = 5  # of similarity: no more than four fifths of two texts are the same


def _metadata(
    name: str, kind: str, metric: str, what: str, file: Path, languages: set[str]
) -> TaskMetadata:
    """The revision is the file's hash, so that results on other texts are not taken for these."""
    return TaskMetadata(
        name=name,
        description=what,
        dataset={"path": "adaptrt", "revision": hashlib.sha256(file.read_bytes()).hexdigest()},
        type=kind,
        category="t2t",
        modalities=["text"],
        eval_splits=[_SPLIT],
        eval_langs=sorted(_LANGUAGES[code] for code in languages),
        main_score=metric,
        date=("2026-11-01", "2026-11-30"),
        domains=["Written"],
        task_subtypes=[],
        license="apache-2.0",
        annotations_creators="derived",
        dialect=[],
        sample_creation="created",
        bibtex_citation="",
    )


_PAIRS = {pair.language for pair in retrieval_pairs()}
_TEXTS = {text.language for text in held_back()}


class OfflineRetrieval(AbsTaskRetrieval):  # type: ignore[misc]  # mteb has no types here
    """Find the one passage, of those in all languages, that answers a query."""

    metadata = _metadata(
        "OfflineRetrieval",
        "Retrieval",
        "ndcg_at_10",
        "Queries and the passages that answer them, in twelve languages",
        RETRIEVAL,
        _PAIRS,
    )

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        """120 queries and as many passages."""
        pairs = list(enumerate(retrieval_pairs()))
        corpus = [{"id": f"p{i}", "title": "", "text": pair.passage} for i, pair in pairs]
        queries = [{"id": f"q{i}", "text": pair.query} for i, pair in pairs]
        split = {
            "corpus": Dataset.from_list(corpus),
            "queries": Dataset.from_list(queries),
            "relevant_docs": {f"q{i}": {f"p{i}": 1} for i, _ in pairs},
            "top_ranked": None,
        }
        self.dataset = {"default": {_SPLIT: split}}
        self.data_loaded = True


class OfflineSTS(AbsTaskSTS):  # type: ignore[misc]
    """Say how much of two texts is the same."""

    min_score, max_score = 0, _GRADES
    metadata = _metadata(
        "OfflineSTS",
        "STS",
        "cosine_spearman",
        "A passage, and one whose beginning is its own and whose end is another's",
        RETRIEVAL,
        _PAIRS,
    )

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        """120 pairs, each with a grade: so many fifths of the passage's beginning are kept."""
        pairs = retrieval_pairs()
        rows = []
        for i, pair in enumerate(pairs):
            following = pairs[(i + 1) % len(pairs)].passage
            grade = i % _GRADES
            own, other = (len(text) * grade // _GRADES for text in (pair.passage, following))
            mixed = pair.passage[:own] + following[other:]
            rows.append({"sentence1": pair.passage, "sentence2": mixed, "score": grade})
        self.dataset = DatasetDict({_SPLIT: Dataset.from_list(rows)})
        self.data_loaded = True


class OfflineClassification(AbsTaskClassification):  # type: ignore[misc]
    """Name a text's language, learnt from eight texts of each."""

    metadata = _metadata(
        "OfflineClassification",
        "Classification",
        "accuracy",
        "Short and long texts by their language",
        TEXTS,
        _TEXTS,
    )

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        """888 texts to learn from, 192 to judge, in 24 languages."""
        splits = {"train": load_corpus(None), _SPLIT: held_back()}
        self.dataset = DatasetDict(
            {
                name: Dataset.from_list([{"text": t.text, "label": t.language} for t in texts])
                for name, texts in splits.items()
            }
        )
        self.data_loaded = True


class OfflineClustering(AbsTaskClustering):  # type: ignore[misc]
    """Put texts of one language together."""

    max_fraction_of_documents_to_embed = None  # all of them
    metadata = _metadata(
        "OfflineClustering",
        "Clustering",
        "v_measure",
        "Short and long texts by their language",
        TEXTS,
        _TEXTS,
    )

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        """192 texts in 24 languages."""
        rows = [{"sentences": text.text, "labels": text.language} for text in held_back()]
        self.dataset = DatasetDict({_SPLIT: Dataset.from_list(rows)})
        self.data_loaded = True


OFFLINE: Mapping[str, type[AbsTask]] = {
    task.metadata.name: task
    for task in (OfflineRetrieval, OfflineSTS, OfflineClassification, OfflineClustering)
}
