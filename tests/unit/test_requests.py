"""What a served request may hold, before any model sees it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from runtimes import InputError
from runtimes.serving.requests import MOST_TEXTS, Request, Router


def request(*texts: bytes, max_bytes: int = 10, **inputs: Any) -> Request:
    return Request.parse({"TEXT": np.array(texts, np.object_), **inputs}, max_bytes)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ((), "TEXT: got no text, expected at least one"),
        ((b"x", b""), "TEXT 1: empty, expected at least one character"),
        ((b"x", b"a\0b"), "TEXT 1: holds a NUL character"),
        ((b"x", b"\xff"), "TEXT 1: not valid UTF-8 at byte 0"),
        ((b"x", "é".encode() * 6), "TEXT 1: 12 bytes, expected at most 10; split the text, or"),
        ((b"0123456789",) * 17, "TEXT: 170 bytes in one request, expected at most 160; send fewer"),
        ((b"\xff" * 11,), "TEXT 0: 11 bytes, expected at most 10"),  # nothing was decoded
    ],
)
def test_text_that_is_refused_is_named(texts: tuple[bytes, ...], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        request(*texts)


def test_request_without_texts_is_refused() -> None:
    """Triton lets it through: it counts the inputs, and TASK is one. It was a KeyError."""
    with pytest.raises(InputError, match="TEXT: got no text, expected at least one"):
        Router([]).answer({"TASK": np.array([b"base"], np.object_)})


def test_millions_of_tiny_texts_are_refused_undecoded() -> None:
    """Their bytes fit a request; their vectors would not fit the machine."""
    tiny = np.full(MOST_TEXTS + 1, b"\xff", np.object_)
    with pytest.raises(InputError, match="TEXT: 16385 in one request, expected at most 16384"):
        Router([]).answer({"TEXT": tiny})


def test_texts_at_the_limits_are_taken() -> None:
    assert request(*[b"0123456789"] * 16).texts == ["0123456789"] * 16
    assert request("é".encode() * 5, b" ").texts == ["é" * 5, " "]


def test_no_task_is_no_task_for_every_text() -> None:
    with pytest.raises(InputError, match="TASK: got no text"):
        request(b"x", TASK=np.array([], np.object_))


def test_router_refuses_giants_at_once() -> None:
    giant = np.array([b"word " * 6_000_000], np.object_)
    start = time.perf_counter()
    with pytest.raises(InputError, match="TEXT 0: 30000000 bytes, expected at most 1048576"):
        Router([]).answer({"TEXT": giant})
    assert time.perf_counter() - start < 0.1
