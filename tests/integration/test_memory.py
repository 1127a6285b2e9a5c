"""Resident memory over hundreds of calls, in processes of their own (Linux)."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests.bench.soak import AT_MOST, SETTINGS, alone, growth, mix

CALLS, WARM = 600, 1 / 3


@pytest.fixture(scope="module")
def runs(small_bundle: Path) -> dict[str, dict[str, Any]]:
    return {s: alone(small_bundle, "onnxruntime", s, CALLS) for s in SETTINGS}


def kept(run: dict[str, Any]) -> float:
    """Bytes at the end, beyond those after loading."""
    return float(median(run["samples"][-5:])) - float(run["loaded"])


def test_resident_memory_stays_after_the_first_calls(runs: dict[str, dict[str, Any]]) -> None:
    assert growth(runs["as it is"]["samples"], WARM) < AT_MOST


def test_executor_that_leaks_is_seen(runs: dict[str, dict[str, Any]]) -> None:
    """The negative control."""
    assert growth(runs["leak"]["samples"], WARM) > AT_MOST


def test_what_long_texts_needed_is_given_back(runs: dict[str, dict[str, Any]]) -> None:
    """The former setting kept 50 MB for a model of 5."""
    assert kept(runs["as it is"]) < kept(runs["arena"]) / 2


def test_mix_has_short_batches_and_outliers() -> None:
    shapes = mix(5000, 0, 8192, 32)
    assert max(tokens for _, tokens in shapes) == 8192
    assert min(tokens for _, tokens in shapes) == 2
    assert max(rows for rows, _ in shapes) > 16
    assert sum(rows * tokens <= 512 for rows, tokens in shapes) > 0.95 * len(shapes)
    assert shapes == mix(5000, 0, 8192, 32)
