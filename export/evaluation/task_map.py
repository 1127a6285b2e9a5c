"""Which adapter embeds a text of an MTEB task, as mteb's own implementation of the model chooses.

The map is that of mteb's ``jina_models.py`` (tests/interop compares the two). Its keys are a task
type, or a type and the text's role in it. Prefixes are not here: they are the bundle's own, which
the model was trained with for retrieval alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from runtimes.choices import BASE_TASK

ADAPTERS = {
    "Retrieval-query": "retrieval.query",
    "Retrieval-document": "retrieval.passage",
    "Clustering": "separation",
    "Reranking": "separation",
    "Classification": "classification",
    "MultilabelClassification": "classification",
    "PairClassification": "classification",
    "STS": "text-matching",
    "BitextMining": "text-matching",
    "Summarization": "text-matching",
}
ROLES = ("query", "document")


def adapter_for(task_type: str, role: str | None = None) -> str:
    """The adapter's name; ``base`` for a type that the map lacks, for which mteb sets none.

    ``role`` is ``query`` or ``document`` where the task has both, as Reranking has too: there both
    sides are embedded alike.
    """
    for key in (f"{task_type}-{role}", task_type):
        if key in ADAPTERS:
            return ADAPTERS[key]
    return BASE_TASK


def adapters_of(task_types: Iterable[str]) -> tuple[str, ...]:
    """Every adapter that tasks of these types need, in the map's order."""
    needed = set()
    for task_type in task_types:
        split = any(key.startswith(f"{task_type}-") for key in ADAPTERS)
        needed |= {adapter_for(task_type, role) for role in (ROLES if split else (None,))}
    return tuple(name for name in dict.fromkeys((*ADAPTERS.values(), BASE_TASK)) if name in needed)
