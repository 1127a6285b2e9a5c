"""INT8 and FP8 arithmetic and smoothing against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.quantise import (
    MIN_SCALE,
    fake_quantise,
    magnitudes,
    quantise,
    single_scale,
    stored_scale,
    weight_scale,
)
from calibration.smoothing import ALPHAS, choose_alpha, input_factors, quantised_product
from runtimes.schemes import FP8, INT8


def test_values_round_to_even_steps_and_saturate() -> None:
    values = np.array([0.0, 0.5, 1.5, -2.5, 63.4, 64.1, -64.0, -100.0], np.float32)
    found = quantise(values, np.array(0.5), INT8)
    assert found.dtype == np.int8
    assert found.tolist() == [0, 1, 3, -5, 127, 127, -128, -128]
    np.testing.assert_array_equal(
        fake_quantise(values, np.array(1.0), INT8), [0, 0, 2, -2, 63, 64, -64, -100]
    )


def test_scale_is_a_127th_of_the_amplitude_in_its_stored_type() -> None:
    assert stored_scale(254.0, "float32", INT8) == 2.0
    assert stored_scale(1.0, "float16", INT8) == np.float16(1 / 127)
    assert stored_scale(1.0, "float16", INT8).dtype == np.float16


def test_dead_channel_keeps_a_usable_scale() -> None:
    weight = np.array([[1.27, 0.0], [-2.54, 0.0]], np.float32)
    np.testing.assert_allclose(weight_scale(weight, "float32", INT8), [0.02, MIN_SCALE], rtol=1e-6)
    assert (weight_scale(weight, "float16", INT8) > 0).all()


def test_weight_scales_are_per_output_channel() -> None:
    weight = np.array([[1.27, 127.0], [0.635, -63.5]], np.float32)
    steps = quantise(weight, weight_scale(weight, "float32", INT8), INT8)
    assert steps.tolist() == [[127, 127], [64, -64]]  # 63.5 is a tie, so to the even 64


def test_e4m3_keeps_three_bits_of_the_mantissa_and_saturates() -> None:
    """1.0625 is a tie between 1 and 1.125, so to the even 1; 464 would be NaN, were it not cut."""
    values = np.array([1.06, 1.0625, 1.0626, -2.3, 448, 463, 464, 465, 1e30], np.float32)
    found = quantise(values, np.array(1.0), FP8)
    assert found.dtype == "float8_e4m3fn"
    kept = [1, 1, 1.125, -2.25, 448, 448, 448, 448, 448]
    assert found.astype(np.float32).tolist() == kept
    infinite = quantise(np.array([np.inf, -np.inf], np.float32), np.array(1.0), FP8)
    assert infinite.astype(np.float32).tolist() == [448, -448]


def test_e4m3_has_subnormals_below_a_64th() -> None:
    values = np.array([2**-6, 2**-7, 2**-9, 2**-10, 1.1 * 2**-10, -(2**-12)], np.float32)
    kept = fake_quantise(values, np.array(1.0), FP8)
    assert kept.tolist() == [2**-6, 2**-7, 2**-9, 0, 2**-9, 0]


def test_magnitudes_are_the_numbers_of_the_type() -> None:
    assert magnitudes(INT8).tolist() == list(range(128))
    found = magnitudes(FP8)
    assert len(found) == 127
    assert found[:3].tolist() == [0, 2**-9, 2**-8]
    assert found[-3:].tolist() == [384, 416, 448]


def test_e4m3_weight_has_one_scale() -> None:
    weight = np.array([[1.0, 224.0], [0.5, -448.0]], np.float32)
    scale = weight_scale(weight, "float16", FP8)
    assert (scale.shape, float(scale)) == ((), 1.0)
    assert quantise(weight, scale, FP8).astype(np.float32).tolist() == weight.tolist()
    assert weight_scale(weight, "float16", INT8).shape == (2,)


def test_factors_follow_the_published_formula() -> None:
    channel_max = np.array([16.0, 1.0], np.float32)
    weight = np.array([[1.0, -0.5], [0.25, 0.1]], np.float32)
    # s = max|x|^0.5 / max|W|^0.5 = (4, 2); 1/s = (0.25, 0.5), geometric mean 1: (0.707, 1.414)
    found = input_factors(channel_max, weight, 0.5, "float32")
    np.testing.assert_allclose(found, [2**-0.5, 2**0.5], rtol=1e-6)


def test_alpha_zero_is_no_smoothing() -> None:
    assert (
        input_factors(np.ones(3, np.float32), np.eye(3, dtype=np.float32), 0, "float32") == 1
    ).all()


@pytest.mark.parametrize("dead", [np.zeros(4), np.array([0, 1, 0, 2])])
def test_factors_of_dead_channels_are_finite_in_fp16(dead: np.ndarray) -> None:
    factors = input_factors(dead.astype(np.float32), np.zeros((4, 2), np.float32), 0.5, "float16")
    assert np.isfinite(factors).all()
    assert (factors > 0).all()


def outlier_case() -> tuple[np.ndarray, np.ndarray]:
    """A GEMM one of whose input channels is 50 times as strong as the others."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((256, 32)).astype(np.float32)
    rows[:, 3] *= 50
    return rows, rng.standard_normal((32, 16)).astype(np.float32)


def choose(rows: np.ndarray, weight: np.ndarray) -> tuple[float, float, float]:
    """Alpha, its error, and the error without smoothing."""
    channel_max = np.abs(rows).max(axis=0)

    def amplitude(factors: np.ndarray) -> float:
        return float((channel_max * factors).max())

    best = choose_alpha(rows, weight, channel_max, amplitude, INT8)
    plain = choose_alpha(rows, weight, channel_max, amplitude, INT8, alphas=(0.0,))
    return best.alpha, best.error, plain.error


def test_outlier_channel_is_smoothed_and_the_error_falls() -> None:
    alpha, error, plain = choose(*outlier_case())
    assert alpha in ALPHAS[1:]
    assert error < plain / 2


def test_smoothing_stays_off_where_it_gains_nothing() -> None:
    rows, weight = outlier_case()
    rows[:, 3] /= 50
    rows = np.sign(rows) * np.abs(rows).clip(0.9, 1.1)  # channels all alike
    alpha, error, plain = choose(rows, weight)
    assert (alpha, error) == (0.0, plain)


def test_product_without_rounding_is_unchanged_by_smoothing() -> None:
    rows, weight = outlier_case()
    channel_max = np.abs(rows).max(axis=0)
    factors = input_factors(channel_max, weight, 0.5, "float32")
    np.testing.assert_allclose(
        (rows * factors) @ (weight / factors[:, None]), rows @ weight, rtol=1e-3, atol=1e-3
    )
    near = quantised_product(rows, weight, factors, float((channel_max * factors).max()), INT8)
    assert np.abs(near - rows @ weight).max() < 0.05 * np.abs(rows @ weight).max()


def test_single_scale_and_shares_are_the_channels_own_scales() -> None:
    weight = np.array([[1.0, -0.5, 0.0], [-2.54, 0.25, 0.0]], np.float32)
    scale, shares = single_scale(weight, "float16", INT8)
    assert scale.shape == ()
    assert scale.dtype == shares.dtype == np.float16
    np.testing.assert_allclose(scale, 2.54 / 127, rtol=1e-3)
    np.testing.assert_allclose(shares[:2], [1, 0.5 / 2.54], rtol=1e-3)
    assert shares[2] > 0  # a dead channel's is small and no zero
    both = scale.astype(np.float32) * shares.astype(np.float32)
    steps = quantise(weight, both, INT8).astype(np.float32)
    np.testing.assert_allclose(steps * both, weight, atol=0.51 * float(both.max()))
    assert np.abs(steps[:, :2]).max(axis=0).min() >= 126  # a small channel uses its range too
