"""Histogram and observers against values worked out by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from calibration.observers import (
    BINS,
    HEADROOM,
    OBSERVERS,
    Histogram,
    entropy,
    min_max,
    mse,
    percentile,
)
from calibration.quantise import fake_quantise, magnitudes, stored_scale
from runtimes.errors import InputError
from runtimes.schemes import FP8, INT8, STORAGES
from tests.support import Array


def histogram(*values: Array | list[float]) -> Histogram:
    made = Histogram()
    for part in values:
        made.add(np.asarray(part))
    return made


def filled(made: Histogram) -> dict[int, int]:
    """Bins that hold something."""
    return {int(i): int(made.counts[i]) for i in np.flatnonzero(made.counts)}


def one_per_bin() -> Histogram:
    """A uniform distribution on [0, 1)."""
    return histogram((np.arange(BINS) + 0.5) / BINS)


def test_values_are_counted_by_magnitude() -> None:
    made = histogram([0.1, 0.6, -0.6, -3.9])
    assert (made.limit, made.maximum, made.count) == (4.0, 3.9, 4)
    assert filled(made) == {51: 1, 307: 2, 1996: 1}  # floor(512 |x|)


def test_range_doubles_and_pairs_of_bins_merge() -> None:
    made = histogram([0.9, 0.0])
    assert (made.limit, filled(made)) == (1.0, {0: 1, 1843: 1})
    made.add(np.array([1.5]))
    assert (made.limit, filled(made)) == (2.0, {0: 1, 921: 1, 1536: 1})


def test_power_of_two_is_below_the_limit() -> None:
    made = histogram([4.0])
    assert (made.limit, filled(made)) == (8.0, {1024: 1})


def test_range_can_grow_beyond_all_bins_at_once() -> None:
    made = histogram([1e-6, 2e-6], [1e6])
    assert (made.limit, filled(made)) == (2.0**20, {0: 2, 1953: 1})


def test_order_and_grouping_do_not_matter() -> None:
    values = np.random.default_rng(0).standard_cauchy(5000).astype(np.float32)
    whole = histogram(values)
    parts = histogram(*np.split(np.sort(values), 10))
    assert whole.digest() == parts.digest()
    assert whole.count == 5000


def test_digest_is_stable_and_sees_every_count() -> None:
    assert histogram([0.1, 0.6, -0.6, -3.9]).digest() == (
        "679e10886a3c61123d161ca89311f6202faadb592a32ce4565c934809d0db2b5"
    )
    assert histogram([0.1, 0.6, -3.9]).digest() != histogram([0.1, 0.6, -0.6, -3.9]).digest()
    assert histogram([3.9]).digest() != histogram([3.9001]).digest()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
def test_any_element_type_and_shape(dtype: type) -> None:
    made = histogram(np.array([[1, -2], [3, 30000]], dtype))
    assert (made.limit, made.maximum, made.count) == (32768.0, 30000.0, 4)
    assert filled(made) == {0: 3, 1875: 1}


def test_nothing_added_changes_nothing() -> None:
    assert histogram(np.empty((0, 4))).count == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    made = histogram([1.0])
    before = made.digest()
    with pytest.raises(InputError, match=r"got (nan|inf), expected finite"):
        made.add(np.array([2.0, bad, 3.0]))
    assert made.digest() == before


def test_min_max_clips_nothing_and_leaves_room() -> None:
    assert min_max(histogram([0.1, -3.9, 2.0]), INT8) == HEADROOM * 3.9
    assert HEADROOM > 1


def test_percentile_is_linear_within_a_bin() -> None:
    made = one_per_bin()
    assert percentile(made, INT8, 0.5) == 0.5
    assert percentile(made, INT8, 0.75) == 0.75
    assert percentile(made, INT8, 0.500244140625) == 0.500244140625  # half a bin more


def test_percentile_never_exceeds_the_maximum() -> None:
    assert percentile(one_per_bin(), INT8) == 2047.5 / 2048


def test_percentile_leaves_outliers_out() -> None:
    made = histogram(np.full(9999, 1.0), [1000.0])  # limit 1024, bins of 0.5
    assert percentile(made, INT8, 0.9999) == 1.5  # the end of the bin that holds 1.0
    assert percentile(made, INT8, 0.99995) > 999


def test_entropy_keeps_what_128_levels_hold_exactly() -> None:
    """128 bins of alternating counts lose nothing as 128 levels; wider ranges average them."""
    body = (np.arange(128) + 0.5) / BINS
    made = histogram(np.repeat(body, np.tile([1000, 3000], 64)), [0.99])
    assert entropy(made, INT8) == 128 / BINS


def test_entropy_of_a_uniform_distribution_is_its_maximum() -> None:
    assert entropy(one_per_bin(), INT8) == 2047.5 / 2048


def test_entropy_is_not_decided_by_one_outlier() -> None:
    """Its bin has probability 0 in the clipped distribution: the divergence was infinite."""
    values = np.random.default_rng(0).standard_normal(100_000)
    made = histogram(values, [300.0])  # limit 512: 128 bins are 32
    assert 32 <= entropy(made, INT8) < 40


def test_mse_of_a_uniform_distribution() -> None:
    """a³/(12·127²) + (1 - a)³/3 is least at a = 254/255; the nearest edge of a bin is 2040."""
    assert mse(one_per_bin(), INT8) == 2040 / BINS


def test_mse_is_the_least_error_there_is() -> None:
    values = np.random.default_rng(0).laplace(size=200_000)
    made = histogram(values)

    def error(amplitude: float) -> float:
        step = amplitude / 127
        return float(np.square(np.clip(np.rint(values / step), -127, 127) * step - values).mean())

    least = min(error(a) for a in np.linspace(2, made.maximum, 200))
    assert error(mse(made, INT8)) < 1.005 * least
    assert error(min_max(made, INT8)) > 1.4 * least


def test_mse_of_a_uniform_distribution_in_e4m3() -> None:
    """k·a³ + (1 - a)³/3 is least at a = 1/(1 + √3k), the levels' gaps h being 32 down to 2⁻⁹.

    k = Σh³/12 / 448³: six gaps of 32, eight of each half as wide: 19504.8 / 448³ = 2.169e-4.
    a = 0.97512, and the nearest edge of a bin is 1997.
    """
    assert mse(one_per_bin(), FP8) == 1997 / BINS


def test_mse_in_e4m3_is_the_least_error_there_is() -> None:
    """A float's error follows the value: clipping gains little where outliers are rare."""
    values = np.random.default_rng(0).laplace(size=200_000).astype(np.float32)
    made = histogram(values)

    def error(amplitude: float) -> float:
        kept = fake_quantise(values, stored_scale(amplitude, "float32", FP8), FP8)
        return float(np.square(kept - values).mean())

    least = min(error(a) for a in np.linspace(2, made.maximum, 200))
    assert error(mse(made, FP8)) < 1.01 * least
    assert error(mse(made, INT8)) > 1.05 * least  # the other grid's choice clips too much


def test_entropy_keeps_what_e4m3_levels_hold_exactly() -> None:
    """480 bins, each level's as many as its next is away, with counts of their own."""
    levels = magnitudes(FP8)[magnitudes(FP8) >= 16]
    counts = np.ones(480, int)
    for index, (low, high) in enumerate(pairwise([*levels, 480])):
        counts[int(low) : int(high)] = 1000 + 2000 * (index % 2)
    made = histogram(np.repeat((np.arange(480) + 0.5) / BINS, counts), [0.99])
    assert entropy(made, FP8) == 480 / BINS
    assert entropy(made, INT8) != 480 / BINS


def test_narrower_observers_clip_more() -> None:
    made = histogram(np.random.default_rng(1).standard_normal(100_000), [40.0])
    assert min_max(made, INT8) == HEADROOM * 40.0
    assert all(3 < OBSERVERS[name](made, INT8) < 27 for name in ("percentile", "entropy", "mse"))


@pytest.mark.parametrize("name", OBSERVERS)
def test_dead_tensor_has_a_usable_scale(name: str) -> None:
    """127 (448) times the least normal FP16, in which scales may be stored."""
    assert OBSERVERS[name](histogram(np.zeros(10)), INT8) == 127 * 2.0**-14
    assert OBSERVERS[name](histogram([1e-30]), INT8) == 127 * 2.0**-14
    assert OBSERVERS[name](histogram(np.zeros(10)), FP8) == 448 * 2.0**-14


@pytest.mark.parametrize("name", OBSERVERS)
def test_single_value_is_its_own_range(name: str) -> None:
    for storage in STORAGES.values():
        room = HEADROOM if name == "min-max" else 1
        assert OBSERVERS[name](histogram([3.0]), storage) == room * 3.0


@pytest.mark.parametrize("name", OBSERVERS)
def test_observers_give_plain_floats(name: str) -> None:
    found = OBSERVERS[name](histogram(np.random.default_rng(2).standard_normal(1000)), INT8)
    assert type(found) is float


@pytest.mark.parametrize("name", OBSERVERS)
def test_no_values_give_no_range(name: str) -> None:
    with pytest.raises(InputError, match="no values were added"):
        OBSERVERS[name](Histogram(), INT8)
