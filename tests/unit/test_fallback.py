"""Which GEMMs leave INT8, in which order, and when that is too many."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calibration.table import Calibration, Corpus, Counts, Range, Trial
from export.checkpoint.names import Module
from export.graph.precision_plan import PrecisionPlan
from export.quantisation.fallback import fall_back, next_fallback, quantise_everything
from runtimes.choices import Precision
from runtimes.errors import GateError
from runtimes.schemes import INT4W, INT8W, SCHEMES

NAMES = ("a", "b", "c", "d")
MODULES = {name: Module(name, (8, 8)) for name in NAMES}  # a quarter of the work each
COST = dict(zip(NAMES, (1e-4, 4e-4, 2e-4, 1e-4), strict=True))


@pytest.fixture
def calibration() -> Calibration:
    entry = Range(
        observer="min-max",
        amplitude=1.0,
        scale=1 / 127,
        histogram_digest="0" * 64,
        channel_max=(1.0,) * 8,
    )
    return Calibration(
        model_sha256="0" * 64,
        task="base",
        corpus=Corpus(sha256="0" * 64, counts=Counts(task={}, language={}, length={})),
        settings={"observer": "min-max"},
        tensors={n: replace(entry, cosine=1 - c, output_error=0.01) for n, c in COST.items()},
    )


FAILURE = "cosine 0.98, expected at least 0.99"


def plans_until(
    fallen_back: set[str], calibration: Calibration, limit: float
) -> list[PrecisionPlan]:
    """The plans of a build whose gate passes once all of these have fallen back."""
    plans = [quantise_everything(calibration, SCHEMES[Precision.INT8], "float16")]
    while not fallen_back <= plans[-1].fallback.keys():
        plans.append(fall_back(plans[-1], FAILURE, calibration, MODULES, limit))
    return plans


def test_everything_is_int8_where_the_gate_passes(calibration: Calibration) -> None:
    (plan,) = plans_until(set(), calibration, 0.25)
    assert (tuple(plan.quantised), dict(plan.fallback)) == (NAMES, {})
    assert (plan.scheme.precision, plan.dtype) == (Precision.INT8, "float16")


def test_the_most_sensitive_falls_back_first_with_its_reason(calibration: Calibration) -> None:
    plans = plans_until({"b", "c"}, calibration, 0.5)
    assert [set(plan.fallback) for plan in plans] == [set(), {"b"}, {"b", "c"}]
    assert tuple(plans[-1].quantised) == ("a", "d")
    assert plans[-1].fallback["b"] == (
        "cosine 0.98, expected at least 0.99; alone in INT8 it costs a mean 1 - cosine of 4.00e-04"
    )


def test_more_than_the_limit_fails_with_the_table(
    calibration: Calibration, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(GateError, match=r"1 of 4 GEMMs \(25% of the work, .*0\.98") as error:
        plans_until({"b", "c"}, calibration, 0.25)
    assert "\n" not in str(error.value)
    table = caplog.messages[-1]
    rows = [line.split()[0] for line in table.splitlines() if line.startswith(NAMES)]
    assert rows == ["b", "c", "a", "d"]
    assert "fell back" in table


def test_no_fallback_is_allowed_at_a_limit_of_zero() -> None:
    assert next_fallback(COST, {}, MODULES, 0.0) == {}


def test_a_third_of_the_error_left_goes_at_a_time() -> None:
    assert list(next_fallback(COST, {}, MODULES, 1.0)) == ["b"]
    even = dict.fromkeys(NAMES, 1e-4)
    assert list(next_fallback(even, {}, MODULES, 1.0)) == ["a", "b"]
    assert list(next_fallback(even, {"a", "b"}, MODULES, 1.0)) == ["c"]


@pytest.fixture
def weights_alone(calibration: Calibration) -> Calibration:
    """The same costs of a scheme without ranges, which eases to INT8."""
    return replace(
        calibration,
        settings={"observer": "none", "storage": "int4 weights", "block": 32},
        tensors={n: Trial(cosine=1 - c, output_error=0.1) for n, c in COST.items()},
    )


def test_weights_ease_to_int8_first_and_leave_it_once_no_more_may_ease(
    weights_alone: Calibration,
) -> None:
    """Half the work may leave INT4: b, then c; from then on the worse of these two is FP16."""
    plan = quantise_everything(weights_alone, SCHEMES[Precision.INT4W], "float16")
    assert set(plan.quantised.values()) == {None}
    expected = [
        ({"b"}, {"b"}, NAMES),
        ({"b", "c"}, {"b", "c"}, NAMES),
        ({"c"}, {"b", "c"}, ("a", "c", "d")),
        (set(), {"b", "c"}, ("a", "d")),
    ]
    for step in expected:
        plan = fall_back(plan, FAILURE, weights_alone, MODULES, 0.5)
        assert (set(plan.eased), set(plan.fallback), tuple(plan.quantised)) == step
    with pytest.raises(GateError, match=r"INT4W fails its gate even with 2 of 4 GEMMs .*float16"):
        fall_back(plan, FAILURE, weights_alone, MODULES, 0.5)


def test_an_eased_weight_is_stored_as_int8_and_the_others_as_they_were(
    weights_alone: Calibration,
) -> None:
    plan = quantise_everything(weights_alone, SCHEMES[Precision.INT4W].with_block(64), "float16")
    plan = fall_back(plan, FAILURE, weights_alone, MODULES, 0.5)
    assert plan.storages == dict.fromkeys(NAMES, replace(INT4W, block=64)) | {"b": INT8W}
    weight = np.ones((128, 3), np.float32)
    assert plan.tensor("b", "weight_scale", weight).shape == (3,)
    assert plan.tensor("a", "weight_scale", weight).shape == (3, 2)
    assert plan.tensor("a", "weight", weight).shape == (3, 128)


def test_table_names_what_left_a_scheme_without_ranges(
    weights_alone: Calibration, caplog: pytest.LogCaptureFixture
) -> None:
    plan = quantise_everything(weights_alone, SCHEMES[Precision.INT4W], "float16")
    with pytest.raises(GateError, match="0 of 4 GEMMs"):
        fall_back(plan, FAILURE, weights_alone, MODULES, 0.0)
    rows = [line.split() for line in caplog.messages[-1].splitlines() if line.startswith(NAMES)]
    assert rows[0] == ["b", "4.00e-04", "1.00e-01", "-", "int4w"]
