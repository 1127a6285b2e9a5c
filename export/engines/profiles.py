"""Which shapes engines are built for: one profile for all, or named ones by length."""

from __future__ import annotations

from collections.abc import Sequence

from export.spec import Limits
from runtimes.errors import InputError
from runtimes.profiles import DEFAULT, Profile

# The shape kernels are tuned for: a typical serving batch, well inside every published limit.
OPT_BATCH, OPT_TOKENS = 8, 256
PRESETS = {
    "short": Profile(name="short", min=(1, 1), opt=(OPT_BATCH, OPT_TOKENS), max=(32, 512)),
    "long": Profile(name="long", min=(1, 512), opt=(1, 4096), max=(4, 8192)),
}


def engine_profiles(names: Sequence[str], limits: Limits) -> tuple[Profile, ...]:
    """The profiles of an engine, cut to the limits; no names: one that spans the limits.

    A profile takes memory for its largest shape alone, so short batches and long texts cost less
    apart than one profile for large batches of long texts. Raises :class:`InputError` for unknown
    names and for profiles that leave texts out.
    """
    if names:
        chosen = _named(names, limits)
    else:
        most = (limits.max_batch, limits.max_tokens)
        chosen = [Profile(name=DEFAULT, min=(1, 1), opt=(OPT_BATCH, OPT_TOKENS), max=most)]
    return tuple(_cut(profile, limits) for profile in chosen)


def _named(names: Sequence[str], limits: Limits) -> list[Profile]:
    """The presets of these names, which together take every text of the limits."""
    known = ", ".join(PRESETS)
    if unknown := [name for name in names if name not in PRESETS]:
        raise InputError(f"PROFILES: got {unknown[0]!r}, expected some of {known}")
    if len(set(names)) < len(names):
        raise InputError(f"PROFILES: got {','.join(names)}, expected each name once")
    chosen = [PRESETS[name] for name in names]
    if all(profile.min[1] > 1 for profile in chosen):
        least = min(profile.min[1] for profile in chosen)
        raise InputError(
            f"PROFILES: got {','.join(names)}, which takes no text below {least} tokens; add short"
        )
    if (most := max(profile.max[1] for profile in chosen)) < limits.max_tokens:
        raise InputError(
            f"PROFILES: got {','.join(names)}, which takes no text above {most} "
            f"tokens, but MAX_TOKENS is {limits.max_tokens}"
        )
    for profile in chosen:
        if profile.min[1] >= limits.max_tokens > 1:
            raise InputError(
                f"PROFILES: {profile.name} begins at {profile.min[1]} tokens, "
                f"MAX_TOKENS is {limits.max_tokens}; leave it out"
            )
    return chosen


def _cut(profile: Profile, limits: Limits) -> Profile:
    """The profile within the limits."""
    most = (min(profile.max[0], limits.max_batch), min(profile.max[1], limits.max_tokens))
    best = (min(profile.opt[0], most[0]), min(profile.opt[1], most[1]))
    return Profile(name=profile.name, min=profile.min, opt=best, max=most)
