"""What is judged less strictly when a model's weights are random, and what is not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from export.gate import retrieval
from tests.bench import random_model


def test_random_weights_may_lose_some_ranking_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[object] = []

    def run(arguments: Sequence[str]) -> int:
        seen.append((retrieval.MIN_NDCG, retrieval.MIN_OVERLAP, list(arguments)))
        return 3

    monkeypatch.setattr(random_model, "adaptrt", run)
    assert random_model.main(["engine"]) == 3
    assert seen == [(0.9, 0.95, ["engine"])]
    assert retrieval.MIN_NDCG == 0.99
