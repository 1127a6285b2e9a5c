"""Vectors as integers and bits: the order of bits, rounding, saturation, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from runtimes.choices import OutputType
from runtimes.errors import AdaptrtError, InputError
from runtimes.outputs import OUTPUTS, converter
from tests.runtime_support import Array
from tests.unit.test_embedder import TEXTS, embedder, runtime_of

RANGES = {"a": {"8": 1.27}, "b": {"8": 12.7}}
ROW = np.array([[0.01, 0.014, 0.016, -0.016, 1.27, 1.30, -1.27, -2.0]], np.float32)


def converted(output: str, vectors: Array, tasks: tuple[str, ...] = ("a",)) -> Array:
    return converter(output, vectors.shape[1], tasks, RANGES)(vectors)


def test_int8_rounds_to_nearest_and_saturates() -> None:
    """Plain ``astype`` would make -126 of 1.30's 130, and cut 1.6 to 1."""
    steps = converted("int8", ROW)
    assert steps.dtype == np.int8
    assert steps.tolist() == [[1, 1, 2, -2, 127, 127, -127, -127]]


def test_uint8_is_int8_plus_128() -> None:
    steps = converted("uint8", ROW)
    assert steps.dtype == np.uint8
    assert steps.tolist() == [[129, 129, 130, 126, 255, 255, 1, 1]]


def test_each_row_has_the_range_of_its_task() -> None:
    rows = np.full((3, 8), 1.0, np.float32)
    assert converted("int8", rows, ("a", "b", "a"))[:, 0].tolist() == [100, 10, 100]


def test_opposite_vectors_have_opposite_integers() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(0, 0.6, (50, 8)).astype(np.float32)
    ours = converted("int8", vectors, ("a",) * 50)
    np.testing.assert_array_equal(converted("int8", -vectors, ("a",) * 50), -ours)
    assert {ours.min(), ours.max()} == {-127, 127}


def test_bits_begin_with_the_highest_and_zero_is_not_above_zero() -> None:
    signs = np.zeros((2, 16), np.float32)
    signs[0, [0, 9]] = 0.5  # the first byte's highest bit, the second one's second highest
    signs[1] = -0.5
    signs[1, [7, 15]] = 1e-30
    assert converted("ubinary", signs, ("a", "a")).tolist() == [[128, 64], [1, 1]]
    assert converted("binary", signs, ("a", "a")).tolist() == [[0, -64], [-127, -127]]


@pytest.mark.parametrize("kind", OutputType)
def test_no_vectors_have_the_type_and_width_of_some(kind: OutputType) -> None:
    row = OUTPUTS[kind]
    for vectors in (np.empty((0, 8), np.float32), ROW):
        found = converter(kind, 8, ("a",) * len(vectors), RANGES)(vectors)
        assert found.dtype == row.dtype
        assert found.shape == (len(vectors), row.bytes_per_vector(8) // found.itemsize)


def test_bytes_of_a_whole_vector() -> None:
    sizes = {kind.value: row.bytes_per_vector(1024) for kind, row in OUTPUTS.items()}
    assert sizes == {"float32": 4096, "int8": 1024, "uint8": 1024, "binary": 128, "ubinary": 128}


@pytest.mark.parametrize("output", ["int4", "", None, 8, ["int8"]])
def test_an_unknown_type_lists_the_known_ones(output: Any) -> None:
    known = "expected one of float32, int8, uint8, binary, ubinary"
    with pytest.raises(InputError, match=f"^output: got .*, {known}$"):
        converter(output, 8, ("a",), RANGES)


@pytest.mark.parametrize("output", ["binary", "ubinary"])
def test_bits_that_fill_no_byte_are_refused(output: str) -> None:
    with pytest.raises(InputError, match="got 12 dimensions, expected a multiple of 8"):
        converter(output, 12, ("a",), RANGES)


@pytest.mark.parametrize("ranges", [{}, {"a": {"16": 1.0}}, {"b": {"8": 1.0}}])
@pytest.mark.parametrize("output", ["int8", "uint8"])
def test_a_bundle_without_the_range_is_to_be_built_again(output: str, ranges: Any) -> None:
    with pytest.raises(InputError, match=f"^output: {output} needs the range of a's .* again$"):
        converter(output, 8, ("a",), ranges)
    bits = converter("ubinary", 8, ("a",), ranges)(ROW)
    assert bits.tolist() == [[0b11101100]]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("output", ["int8", "uint8", "binary", "ubinary"])
def test_what_is_not_finite_has_no_integer(output: str, value: float) -> None:
    vectors = ROW.copy()
    vectors[0, 3] = value
    with pytest.raises(AdaptrtError, match=f"not finite, so it has no {output}"):
        converted(output, vectors)


def test_the_embedder_converts_what_it_cuts() -> None:
    ranges = {"retrieval.query": {"2": 1.0, "4": 0.8, "8": 0.5}}
    subject = embedder(output_ranges=ranges)
    for width in (4, 8):
        floats = subject.encode(TEXTS, dimensions=width)
        limit = ranges["retrieval.query"][str(width)]
        steps = np.clip(np.round(floats.astype(np.float64) * 127 / limit), -127, 127)
        np.testing.assert_array_equal(subject.encode(TEXTS, dimensions=width, output="int8"), steps)
    np.testing.assert_array_equal(
        subject.encode(TEXTS, output=OutputType.UBINARY), np.packbits(subject.encode(TEXTS) > 0, -1)
    )


def test_a_text_has_the_same_integers_in_any_company() -> None:
    """Ranges of the batch, as other libraries take them, would give it others."""
    subject = embedder(output_ranges={"retrieval.query": {"2": 1.0, "4": 0.8, "8": 0.5}})
    together = subject.encode(TEXTS, output="int8")
    alone = np.concatenate([subject.encode([text], output="int8") for text in TEXTS])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("options", [{"output": "int8"}, {"output": "binary", "dimensions": 4}])
def test_nothing_runs_for_an_output_that_is_refused(options: dict[str, Any]) -> None:
    subject = embedder()
    with pytest.raises(InputError, match=r"^output: "):
        subject.encode(["x"], **options)
    assert runtime_of(subject).calls == []
