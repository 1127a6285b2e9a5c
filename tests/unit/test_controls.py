"""The parity gate's negative controls in the table of verdicts."""

from __future__ import annotations

import numpy as np
import torch

from calibration.corpus import graded_pairs, questions
from calibration.quality import SetVectors
from export.proof.controls import CONTROLS
from runtimes.arrays import Vectors
from runtimes.outputs import truncate
from tests.bench.control_table import by_cosine
from tests.bench.controls import judged
from tests.bench.operating import lengths, side_texts
from tests.bench.operating import mapped as mapped_sides

WIDTH = 32


def vectors(look: tuple[int, int]) -> SetVectors:
    """A query near its passage; everything else at random."""
    rng = np.random.default_rng(3)
    counts = lengths(*look)
    rows = {
        side: truncate(rng.standard_normal((count, WIDTH)).astype("f4"), WIDTH)
        for side, count in counts.items()
    }
    unit = {
        side: (value / np.linalg.norm(value, axis=1, keepdims=True)).astype("f4")
        for side, value in rows.items()
    }
    return SetVectors(**unit)


def test_a_look_takes_of_every_side_what_belongs_to_its_questions() -> None:
    assert lengths(2, 3)["negatives"] == 6
    assert {side: len(texts) for side, texts in side_texts().items()} == lengths(
        len(questions()), len(graded_pairs())
    )


def test_what_is_fp32_is_accepted_and_another_order_is_for_cosines_to_refuse() -> None:
    same = judged(vectors, vectors, truncate, (WIDTH,))
    assert same["outcome"] == "accepted"
    assert by_cosine(same) == "accepted"
    reordered = judged(vectors, vectors, CONTROLS["dimensions in another order"].cut, (WIDTH,))
    assert reordered["outcome"] == "accepted"  # no cosine between texts has changed
    assert by_cosine(reordered) == "refused"


def test_vectors_of_the_wrong_texts_are_refused_by_quality() -> None:
    def turned(_: str, rows: Vectors) -> Vectors:
        found: Vectors = np.roll(rows, 1, axis=0)
        return found

    wrong = judged(vectors, lambda look: mapped_sides(vectors(look), turned), truncate, (WIDTH,))
    assert wrong["outcome"] == "refused"


def test_half_of_the_texts_lose_half_of_their_numbers() -> None:
    rows = vectors((2, 2)).queries
    cut = CONTROLS["every second text of half the dimensions"].cut(rows, WIDTH)
    assert not cut[0, WIDTH // 2 :].any()
    assert np.allclose(cut[1], rows[1])
    assert np.allclose(np.linalg.norm(cut, axis=1), 1)


def test_a_mean_that_is_not_scaled_keeps_its_length() -> None:
    pool = CONTROLS["mean not scaled to length 1"].pool
    pooled = pool(torch.nn.Identity(), torch.full((1, 3, 4), 2.0))
    assert pooled.tolist() == [[2.0, 2.0, 2.0, 2.0]]
