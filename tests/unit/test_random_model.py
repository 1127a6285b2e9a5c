"""What is judged less strictly when a model's weights are random, and what is not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from calibration import quality
from tests.bench import random_model


def test_random_weights_may_lose_some_ranking_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    strict = quality.LIMITS
    seen: list[object] = []

    def run(arguments: Sequence[str]) -> int:
        seen.append((dict(quality.LIMITS), list(arguments)))
        return 3

    monkeypatch.setattr(random_model, "adaptrt", run)
    assert random_model.main(["engine"]) == 3
    assert seen == [({figure: 10 * limit for figure, limit in strict.items()}, ["engine"])]
    assert quality.LIMITS is strict
