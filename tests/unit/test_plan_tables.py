"""The committed reports of ``make plans``, and the tables that are made of them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from export.engines.gpus import GPUS
from export.engines.predict import EFFICIENCY
from export.spec import BuildSpec
from tests.bench import plan_tables
from tests.bench.plan_tables import load_plans
from tests.bench.plans import CASES

SIZES = plan_tables.known()


@pytest.mark.parametrize("size", SIZES)
def test_report_is_of_the_present_fit(size: str) -> None:
    """A kept prediction goes stale with the fit: run `make plans` again."""
    assert load_plans(size)["efficiency"] == asdict(EFFICIENCY)


@pytest.mark.parametrize("size", SIZES)
def test_report_has_every_kind_of_bundle_and_architecture(size: str) -> None:
    found = {(row["case"], row["gpu"]) for row in load_plans(size)["engines"]}
    assert {case for case, _ in found} == {case.name for case in CASES}
    assert {gpu for _, gpu in found} == set(BuildSpec.gpus)


@pytest.mark.parametrize("size", SIZES)
def test_every_table_says_what_it_rests_on(size: str) -> None:
    assert "built, never run" in plan_tables.engines(size)
    for table in (plan_tables.predicted(size), plan_tables.worth(size)):
        assert "**predicted, not measured**" in table
        assert all(f"| {gpu} |" in table for gpu in GPUS)


def test_a_size_without_a_report_says_how_to_make_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "sample" in SIZES
    monkeypatch.setattr(plan_tables, "PLANS", Path("nowhere"))
    assert plan_tables.block("sample", plan_tables.engines).endswith("not built yet; `make plans`.")


def test_a_gpu_without_the_type_has_no_time() -> None:
    a10 = [row for row in plan_tables.gpus().splitlines() if row.startswith("| A10 ")]
    assert a10 == ["| A10 | sm86 | 125 | 125 | 250 | – | 31.2 | 600 | 1.695 | 150 |"]


@pytest.mark.parametrize(
    ("lengths", "shown"),
    [([], "none"), ([64], "64"), ([64, 128, 256], "64 to 256"), ([64, 256], "64, 256")],
)
def test_lengths_in_a_row_are_a_range(lengths: list[int], shown: str) -> None:
    assert plan_tables._range(lengths) == shown
