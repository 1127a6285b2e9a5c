"""Losses of quality: sound vectors lose little, and every way of being broken is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from calibration import looks
from calibration.corpus import graded_pairs, questions
from calibration.evidence import Outcome, worst
from calibration.quality import LIMITS, SetVectors, losses
from export.checkpoint.families import JINA_TASKS
from export.gate.quality import quality_losses
from export.gate.quality_texts import OWNERS, PASSAGES, quality_texts, side_of
from export.gate.texts import ParityText
from tests.support import Array

ASKED, GRADED = looks.LOOKS[0]
SIZES = {"negatives": 3 * ASKED, "first": GRADED, "second": GRADED}
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
    return SetVectors(**{side: change(getattr(of, side)) for side in OWNERS})


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


def texts_of(tasks: tuple[str, ...], look: int) -> list[ParityText]:
    ids = np.zeros(3, np.int64)
    return [
        ParityText(name, ids, task=task)
        for task in tasks
        for name, _ in quality_texts(task, tasks, look)
    ]


def test_a_side_is_embedded_by_its_task_where_all_are_there() -> None:
    texts = texts_of((*JINA_TASKS, "base"), 0)
    assert len(texts) == ASKED * (1 + 3 + 3) + 2 * GRADED
    for text in texts:
        side = side_of(text.name)
        assert side is not None
        assert OWNERS[side] == text.task


def test_one_task_embeds_every_side_and_the_passages_once() -> None:
    sides = [side_of(text.name) for text in texts_of(("separation",), 0)]
    assert set(sides) == OWNERS.keys() - set(PASSAGES[1:])
    assert sides.count("passages") == sides.count("queries") == ASKED


def test_looks_add_texts_and_repeat_none() -> None:
    names = [{t.name for t in texts_of(("base",), look)} for look in range(len(looks.LOOKS))]
    assert len(set.union(*names)) == sum(map(len, names))
    asked, graded = looks.LOOKS[-1]
    assert sum(map(len, names)) == 5 * asked + 2 * graded
    assert (asked, graded) == (len(questions()), len(graded_pairs()))


@pytest.mark.parametrize("tasks", [("separation",), JINA_TASKS], ids=len)
def test_rows_are_told_by_the_texts_names(exact: SetVectors, tasks: tuple[str, ...]) -> None:
    """Parity texts among them are left alone."""
    other = ParityText("00-en", np.zeros(3, np.int64), task=tasks[0])
    texts = [other, *texts_of(tasks, 0)]
    sides = [side_of(text.name) for text in texts[1:]]
    place = {side: iter(getattr(exact, side)) for side in OWNERS}
    rows = np.stack([exact.queries[0], *(next(place[side]) for side in sides if side)])
    judged = quality_losses(rows, rows, texts)
    assert [loss.figure for loss in judged] == list(LIMITS)
    assert {loss.task for loss in judged} == {"" if len(tasks) > 1 else "separation"}
    assert worst(judged, Outcome.REFUSED) is None
    broken = rows.copy()
    broken[1 + sides.index("queries") :: 2] *= -1
    assert worst(quality_losses(rows, broken, texts), Outcome.REFUSED) is not None
