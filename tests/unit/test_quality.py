"""Losses of quality: sound vectors lose little, and every way of being broken is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest

from calibration import looks
from calibration.corpus import graded_pairs, questions
from calibration.evidence import Outcome
from calibration.quality import LIMITS, SetVectors, losses
from tests.support import Array

ASKED, GRADED = looks.LOOKS[0]
SIDES = [field.name for field in fields(SetVectors)]
WIDTH = 64


def unit(rows: Array) -> Array:
    found: Array = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return found


def vectors(rng: np.random.Generator) -> SetVectors:
    """Of a model that knows something: topics have a direction, and so has each answer."""
    asked = questions()[:ASKED]
    _, topics = np.unique([q.topic for q in asked], return_inverse=True)
    subject = rng.standard_normal((10, WIDTH))[topics] + rng.standard_normal((ASKED, WIDTH))
    near = [unit(subject + 0.4 * rng.standard_normal((ASKED, WIDTH))) for _ in range(4)]
    negatives = unit(np.repeat(subject, 3, axis=0) + rng.standard_normal((3 * ASKED, WIDTH)))
    first = rng.standard_normal((GRADED, WIDTH))
    grades = np.array([pair.score for pair in graded_pairs()[:GRADED]])[:, None]
    second = unit(first * grades / 5 + rng.standard_normal((GRADED, WIDTH)))
    return SetVectors(
        queries=near[0],
        passages=near[1],
        classed=near[2],
        clustered=near[3],
        negatives=negatives,
        first=unit(first),
        second=second,
    )


def changed(of: SetVectors, change: Callable[[Array], Array]) -> SetVectors:
    return SetVectors(**{side: change(getattr(of, side)) for side in SIDES})


def found(exact: SetVectors, ours: SetVectors) -> dict[str, Outcome]:
    sets = questions()[:ASKED], graded_pairs()[:GRADED]
    return {loss.figure: loss.outcome for loss in losses(exact, ours, *sets, looks.confidence())}


@pytest.fixture(scope="module")
def exact() -> SetVectors:
    return vectors(np.random.default_rng(3))


def test_equal_vectors_lose_nothing(exact: SetVectors) -> None:
    sets = questions()[:ASKED], graded_pairs()[:GRADED]
    for loss in losses(exact, exact, *sets, looks.confidence()):
        assert (loss.loss, loss.low, loss.high) == (0, 0, 0), loss.figure
        assert loss.exact > 0.3, loss.figure  # the made-up model is not a poor one


def test_rounding_is_accepted(exact: SetVectors) -> None:
    rng = np.random.default_rng(0)
    size = 0.01 / np.sqrt(WIDTH)  # 1 - cosine 5e-5
    ours = changed(exact, lambda rows: unit(rows + size * rng.standard_normal(rows.shape)))
    assert found(exact, ours) == dict.fromkeys(LIMITS, Outcome.ACCEPTED)


BROKEN: dict[str, Callable[[Array], Array]] = {
    "noise": lambda x: unit(x + 0.5 * np.random.default_rng(1).standard_normal(x.shape) / 8),
    "all the same": lambda x: np.repeat(x[:1], len(x), axis=0),
    "another's": lambda x: np.roll(x, 1, axis=0),
    "signs lost": np.abs,
    "half is zero": lambda x: unit(np.where(np.arange(x.shape[1]) < WIDTH // 2, x, 0)),
    "NaN": lambda x: np.where(np.arange(len(x))[:, None] == 5, np.nan, x),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_refused(exact: SetVectors, name: str) -> None:
    assert Outcome.REFUSED in found(exact, changed(exact, BROKEN[name])).values()
