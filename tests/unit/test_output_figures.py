"""How the table of vector types is computed, on literal vectors."""

from __future__ import annotations

import numpy as np

from runtimes.choices import OutputType
from tests.bench import outputs


def test_scores_are_in_a_cosines_units() -> None:
    bits = np.array([[0b11110000], [0b11111111]], np.uint8)
    assert outputs.hamming(bits, bits).tolist() == [[1, 0], [0, 1]]
    axes = np.eye(2, dtype=np.float32) * 100
    assert outputs.cosine(axes, -axes).tolist() == [[-1, 0], [0, -1]]
    assert outputs.euclidean(axes, axes).round(6).tolist() == [[0, -1], [-1, 0]]


def test_only_the_best_by_bits_are_ranked_again() -> None:
    found = np.linspace(1, -1, outputs.RESCORED + 5)[None]
    better = -found
    scores = outputs.rescored(found, better)[0]
    assert scores[: outputs.RESCORED].tolist() == better[0, : outputs.RESCORED].tolist()
    assert scores[outputs.RESCORED :].max() < scores[: outputs.RESCORED].min()


def test_the_report_has_every_type_at_every_length() -> None:
    report = outputs.load_report()
    for width in {row["dimensions"] for row in report["grid"]}:
        rows = [row for row in report["grid"] if row["dimensions"] == width]
        assert {name for row in rows for name in row["types"]} == set(OutputType)
        assert {row["dimensions"] for row in report["ranges"]} >= {width}
