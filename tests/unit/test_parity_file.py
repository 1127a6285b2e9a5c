"""What verify reads of a bundle: records and arrays of any contents are read or refused."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export.gate.parity_file import read_parity, read_vectors
from runtimes.errors import AdaptrtError, GateError, InputError
from tests.support import changed

REPORT = {
    "reference": "torch",
    "executed": "onnxruntime-cpu",
    "rows": 1,
    "min_cosine": 0.99,
    "mean_cosine": 1,
    "max_abs": 0.1,
    "threshold": 0.99,
    "mean_threshold": 0.998,
    "passed": True,
    "texts": [{"name": "00-en", "task": "a", "tokens": 3, "cosine": 0.99, "max_abs": 0.1}],
}
LOSS = {
    "figure": "nDCG@10",
    "units": 144,
    "confidence": 0.98,
    "exact": 0.9,
    "ours": 0.9,
    "loss": 0.0,
    "low": -0.01,
    "high": 0.01,
    "limit": 0.02,
}
RECORD = {
    "texts_sha256": "0" * 64,
    "parity_tokens": 64,
    "reference_bf16_min_cosine": 0.99,
    "executors": ["portable"],
    "graphs": {"portable": REPORT},
    "quantisation": {"losses": {"portable": [LOSS | {"task": "a"}]}, "looks": 1, "gemms": []},
}
NEEDED = [
    ("texts_sha256",),
    ("parity_tokens",),
    ("executors",),
    ("graphs",),
    ("quantisation",),
    ("quantisation", "losses"),
    ("quantisation", "looks"),
    *(("graphs", "portable", key) for key in REPORT if key not in ("rows", "max_abs", "passed")),
    *(("graphs", "portable", "texts", 0, key) for key in ("name", "task")),
    *(("quantisation", "losses", "portable", 0, key) for key in LOSS),
]
HOSTILE = [True, "x", "\x1b[2J", -5, 1e300, 10**30, [], {}, [None], {"": []}, {"a": {"b": None}}]
OPTIONAL = {
    ("executors",),
    ("quantisation",),
    ("quantisation", "losses"),
    ("quantisation", "looks"),
    ("graphs", "portable", "mean_threshold"),
}


def refused(path: Path, raw: Any) -> str:
    """The refusal, one printable line; empty where it is read."""
    path.write_text(json.dumps(raw))
    message = ""
    try:
        read_parity(path)
    except InputError as error:
        message = str(error)
        path.unlink()
    assert message.isprintable() or not message
    return message


def test_record_of_today_and_of_before_is_read(tmp_path: Path) -> None:
    assert refused(tmp_path / "parity.json", RECORD) == ""
    for at in OPTIONAL:
        assert refused(tmp_path / "parity.json", changed(RECORD, at, ...)) == ""


@pytest.mark.parametrize("at", NEEDED, ids=str)
def test_entry_that_is_missing_or_of_another_type_is_named(
    tmp_path: Path, at: tuple[Any, ...]
) -> None:
    path = tmp_path / "parity.json"
    if at not in OPTIONAL:
        assert f"{at[-1]}: missing" in refused(path, changed(RECORD, at, ...))
    refusals = [refused(path, changed(RECORD, at, value)) for value in HOSTILE]
    assert sum(bool(message) for message in refusals) >= 6
    if at not in OPTIONAL:
        message = refused(path, changed(RECORD, at, None))
        assert f"{at[-1]}: got None" in message or "[...]" in message


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(at=st.sampled_from(NEEDED), value=ANYTHING)
@settings(
    max_examples=200,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_json_anywhere_is_read_or_refused(
    tmp_path: Path, at: tuple[Any, ...], value: Any
) -> None:
    refused(tmp_path / "parity.json", changed(RECORD, at, value))


def test_vectors_are_read_as_they_were_written(tmp_path: Path) -> None:
    vectors = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.save(tmp_path / "v.npy", vectors)
    found = read_vectors(tmp_path / "v.npy", (3, 4))
    (tmp_path / "v.npy").unlink()
    assert not isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, vectors)


@pytest.mark.parametrize(
    ("array", "error", "words"),
    [
        (np.ones((3, 5), np.float32), GateError, r"shape \[3, 5\], expected \[3, 4\]"),
        (np.ones((0, 4), np.float32), GateError, r"shape \[0, 4\]"),
        (np.ones(12, np.float32), GateError, r"shape \[12\]"),
        (np.ones((3, 4), np.float64), InputError, "not an array of FP32"),
        (np.array([{"a": 1}], object), InputError, "not an array"),
        (np.full((3, 4), np.nan, np.float32), InputError, "not finite"),
    ],
)
def test_other_arrays_are_refused(
    tmp_path: Path, array: Any, error: type[AdaptrtError], words: str
) -> None:
    np.save(tmp_path / "v.npy", array, allow_pickle=True)
    with pytest.raises(error, match=words):
        read_vectors(tmp_path / "v.npy", (3, 4))


def test_archive_of_arrays_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "v.npy").open("wb") as stream:
        np.savez(stream, a=np.ones((3, 4), np.float32))
    with pytest.raises(InputError, match="not an array"):
        read_vectors(tmp_path / "v.npy", (3, 4))


@pytest.mark.filterwarnings("ignore")
def test_damaged_header_is_refused_whatever_it_says(tmp_path: Path) -> None:
    """One that promises 4 TB takes no memory."""
    path = tmp_path / "v.npy"
    np.save(path, np.ones((3, 4), np.float32))
    sound, dice = path.read_bytes(), random.Random(0)
    huge = sound[10:128].replace(b"(3, 4)", b"(1000000, 1000000)")
    headers = [b"(" * 3000, b"-" * 5000 + b"1", b"{1: 2}", huge]
    cases = [sound[:8] + len(h).to_bytes(2, "little") + h + bytes(48) for h in headers]
    for _ in range(1000):
        raw = bytearray(sound)
        for _ in range(dice.choice([1, 3])):
            raw[dice.randrange(128)] = dice.choice([dice.randrange(256), *b"(){}'\",-019\n# "])
        cases.append(bytes(raw[: dice.choice([len(raw), dice.randrange(len(raw))])]))
    for case in cases:
        path.write_bytes(case)
        try:
            assert read_vectors(path, (3, 4)).shape == (3, 4)
        except AdaptrtError:
            continue
