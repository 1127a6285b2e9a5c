"""What ``make bench-api`` sends and counts; a vector that is another's is seen."""

from __future__ import annotations

import base64
import json

import numpy as np

from tests.bench import api, api_load
from tests.support import Array, sample_tokenizer


def answer(vectors: Array, order: list[int]) -> bytes:
    data = [
        {"index": i, "embedding": base64.b64encode(vectors[i].astype("<f4").tobytes()).decode()}
        for i in order
    ]
    return json.dumps({"data": data}).encode()


def test_workloads_hold_every_text_and_one_of_the_greatest_length() -> None:
    tokenizer = sample_tokenizer()
    loads = api_load.workloads(tokenizer)
    assert len(loads["mixed"].texts) == 48
    assert {len(request) for request in loads["mixed"].requests} == {1, 2, 3, 4}
    assert max(len(row) for row in tokenizer.tokenize(loads["short"].texts)) <= api_load.SHORT
    (row,) = tokenizer.tokenize(loads["long"].texts)
    assert api_load.LONG - 2 <= len(row) <= api_load.LONG


def test_a_fifth_of_a_workload_is_bad_where_that_is_asked_for() -> None:
    loads = api_load.workloads(sample_tokenizer())
    good = api_load.bodies(loads["mixed"], "m", "t")
    assert all(texts for _, texts in good)
    some = api_load.bodies(loads["mixed, a fifth bad"], "m", "t")
    bad = sum(not texts for _, texts in some)
    assert len(some) - bad == len(good)
    assert 0.15 < bad / len(some) < 0.25


def test_answers_that_are_wrong_are_seen() -> None:
    vectors = np.eye(3, 4, dtype=np.float32)
    assert api._verdict(200, answer(vectors, [0, 1, 2]), vectors) == "right"
    assert api._verdict(200, answer(vectors, [0, 2, 1]), vectors) == "lost or out of order"
    assert api._verdict(200, answer(vectors, [0, 1]), vectors) == "lost or out of order"
    assert api._verdict(200, answer(vectors[[1, 0, 2]], [0, 1, 2]), vectors) == "another vector"
    assert api._verdict(503, b"", vectors) == "status 503"


def test_a_target_that_is_missed_is_not_met() -> None:
    assert api.met({"found": 0.9, "at_least": 0.9})
    assert not api.met({"found": 0.89, "at_least": 0.9})
    assert api.met({"found": 3.0, "at_most": 3.0})
    assert not api.met({"found": 3.1, "at_most": 3.0})
    assert not api.met({"found": float("nan"), "at_most": 3.0})
