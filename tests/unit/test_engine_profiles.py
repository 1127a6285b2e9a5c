"""PROFILES: names to shapes within the limits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from export.engines.profiles import engine_profiles
from export.spec import Limits
from runtimes.errors import InputError
from runtimes.text.batching import GPU, schedule


def test_short_and_long() -> None:
    short, long = engine_profiles(("short", "long"), Limits())
    assert (short.min, short.opt, short.max) == ((1, 1), (8, 256), (32, 512))
    assert (long.min, long.opt, long.max) == ((1, 512), (1, 4096), (4, 8192))


def test_profiles_are_cut_to_the_limits() -> None:
    short, long = engine_profiles(("short", "long"), Limits(max_batch=2, max_tokens=1024))
    assert (short.opt, short.max) == ((2, 256), (2, 512))
    assert (long.min, long.opt, long.max) == ((1, 512), (1, 1024), (2, 1024))


@pytest.mark.parametrize(
    ("names", "limits", "message"),
    [
        (("medium",), Limits(), "PROFILES: got 'medium', expected some of short, long"),
        (("short", "short"), Limits(), "each name once"),
        (("long",), Limits(), "takes no text below 512 tokens; add short"),
        (("short",), Limits(), "takes no text above 512 tokens, but MAX_TOKENS is 8192"),
        (("short", "long"), Limits(max_tokens=512), "long begins at 512 tokens"),
        (("short", "long"), Limits(max_tokens=9000), "takes no text above 8192"),
    ],
)
def test_profiles_that_leave_texts_out_are_refused(
    names: tuple[str, ...], limits: Limits, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        engine_profiles(names, limits)


@pytest.mark.parametrize(
    "lengths", [[600] * 9, [512] * 40, [8192] * 3, [5, 700, 700, 700, 700, 700]]
)
def test_every_scheduled_batch_fits_a_profile(lengths: list[int]) -> None:
    """600 tokens: 9 rows are within the token budget, but the long profile takes 4."""
    profiles = engine_profiles(("short", "long"), Limits())
    batches = list(schedule(lengths, 32, replace(GPU, profiles=profiles)))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert any(p.holds(len(batch), longest) for p in profiles)


def test_without_profiles_the_same_batches_would_not_fit() -> None:
    """Guards the test above."""
    assert max(map(len, schedule([600] * 9, 32, GPU))) > 4
