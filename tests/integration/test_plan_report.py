"""``make plans`` in small: plans of every kind of bundle without a gate, and their report."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.checkpoint.reader import Checkpoint
from export.engines.plan import Plan
from export.engines.plan_figures import PlanFigures
from export.engines.predict import CALLS
from export.spec import BuildSpec
from runtimes.choices import AdapterMode, Precision
from tests.bench.plans import BASE, CASES, Case, build, report

Plans = dict[str, dict[str, Plan]]
CHOSEN = (
    Case(precision=Precision.FP16),
    Case(precision=Precision.INT8),
    Case(precision=Precision.FP16, adapter=AdapterMode.SWITCHABLE),
)


@pytest.fixture(scope="module")
def plans(small: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Plans:
    folder = tmp_path_factory.mktemp("plans")
    return {case.name: build(small, case, folder / case.name) for case in CHOSEN}


def test_every_case_has_a_plan_for_each_architecture(plans: Plans, small: Checkpoint) -> None:
    assert {case.name for case in CHOSEN} <= {case.name for case in CASES}
    for own in plans.values():
        assert tuple(own) == BuildSpec.gpus
        assert {plan.gpu for plan in own.values()} == set(BuildSpec.gpus)
    assert set(PlanFigures.of(plans[BASE]["sm89"]).products) == {"Half×Half"}
    assert PlanFigures.of(plans["INT8"]["sm89"]).products["Int8×Int8"] >= 3 * small.config.layers


def test_report_says_what_is_built_and_what_is_predicted(plans: Plans, small: Checkpoint) -> None:
    found = report(small, plans)
    assert (found["layers"], found["hidden"]) == (small.config.layers, small.config.hidden)
    assert len(found["engines"]) == len(CHOSEN) * len(BuildSpec.gpus)
    loads = {f"{batch}x{tokens}" for batch, tokens in CALLS}
    assert all(set(row["milliseconds"]) == loads for row in found["predicted"])
    assert {row["case"] for row in found["predicted"]} == set(plans)
    assert {row["case"] for row in found["worth"]} == {"INT8"}  # what gives up accuracy for time
    assert found["efficiency"]["version"]


def test_nothing_is_left_of_the_builds(small: Checkpoint, tmp_path: Path) -> None:
    build(small, CHOSEN[0], tmp_path / "case")
    assert list(tmp_path.iterdir()) == []
