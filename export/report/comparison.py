"""Where a bundle's engines are predicted to pay beside another bundle's: calls of one text.

Both bundles' plans are read, so what the other precision's compiler fuses counts too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from export.engines.gpus import GPUS, Gpu
from export.engines.plan_file import Plans, bundle_plans
from export.engines.plan_sizes import Workload
from export.engines.predict import MIN_GAIN, PREDICTED, TypeUnsupportedError, nearest, predict
from export.engines.predicted_times import of_profile
from export.engines.traffic import traffic
from runtimes.errors import InputError, shown
from runtimes.manifest import Manifest, read_manifest

LENGTHS = tuple(2**power for power in range(4, 12))  # of the one text, tokens


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One call on one GPU: milliseconds and bytes of this bundle, then of the other."""

    tokens: int
    milliseconds: tuple[float, float]
    bytes: tuple[float, float]

    @property
    def gain(self) -> float:
        """The share of the other's time that this one saves."""
        return 1 - self.milliseconds[0] / self.milliseconds[1]

    @property
    def pays(self) -> bool:
        """Whether it saves enough to be worth the accuracy."""
        return self.gain >= MIN_GAIN


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """``calls`` by GPU, of those that both bundles' engines are for."""

    other: Path
    manifest: Manifest
    calls: Mapping[str, tuple[Compared, ...]]


def compare(bundle: Path, manifest: Manifest, against: Path) -> Comparison:
    """A bundle's calls beside those of the bundle in ``against``.

    Raises :class:`InputError` where that has no plans or is of another architecture.
    """
    other = read_manifest(against, files=False)
    if other.architecture != manifest.architecture:
        raise InputError(
            f"AGAINST: {shown(str(against))}: its model is {other.model.name}, of another shape "
            f"than {manifest.model.name}; name a bundle of the same model"
        )
    pairs = [(m, bundle_plans(p, m)) for p, m in ((bundle, manifest), (against, other))]
    if not pairs[1][1]:
        raise InputError(f"AGAINST: {shown(str(against))}: has no plan.json, expected engines")
    calls = {gpu.name: tuple(_calls(gpu, *pairs)) for gpu in GPUS.values()}
    return Comparison(
        other=against, manifest=other, calls={name: own for name, own in calls.items() if own}
    )


def _calls(
    gpu: Gpu, this: tuple[Manifest, Plans], other: tuple[Manifest, Plans]
) -> Iterator[Compared]:
    for tokens in LENGTHS:
        if tokens > min(this[0].max_tokens, other[0].max_tokens):
            return
        call = Workload(batch=1, tokens=tokens, heads=this[0].architecture.heads)
        found = [of_profile(plans, manifest, call) for manifest, plans in (this, other)]
        if not all(found):
            return
        plans = [nearest(gpu, own)[1] for own in found]
        try:
            times = [predict(plan, call, gpu).milliseconds for plan in plans]
        except TypeUnsupportedError:
            return
        moved = [sum(work.bytes for work in traffic(plan, call)) for plan in plans]
        yield Compared(tokens=tokens, milliseconds=(times[0], times[1]), bytes=(moved[0], moved[1]))


def comparison_lines(comparison: Comparison) -> Iterator[str]:
    """A table: of each GPU the time saved by length, and where that is worth it."""
    manifest, rows = comparison.manifest, comparison.calls
    yield f"against {comparison.other}: {manifest.precision.upper()}, {manifest.adapter}"
    if not rows:
        yield "  no GPU that both bundles' engines are for"
        return
    first = next(iter(rows.values()))
    yield f"  {'one text of so many tokens':<24}" + "".join(f"{c.tokens:>8}" for c in first)
    for index, name in enumerate(("MB moved", "MB moved, the other's")):
        cells = "".join(f"{c.bytes[index] / 1e6:>8.1f}" for c in first)
        yield f"  {name:<24}{cells}"
    yield f"  time saved, {PREDICTED}"
    for gpu, calls in rows.items():
        cells = "".join(f"{c.gain:>8.0%}" for c in calls)
        paying = [str(c.tokens) for c in calls if c.pays]
        where = f"pays at {', '.join(paying)}" if paying else "pays nowhere"
        yield f"    {gpu:<22}{cells}  {where}"


def comparison_json(comparison: Comparison) -> dict[str, object]:
    """The same as plain JSON types, by GPU and call."""
    return {
        "bundle": str(comparison.other),
        "precision": comparison.manifest.precision,
        "what": PREDICTED,
        "least_gain": MIN_GAIN,
        "calls": {
            gpu: {
                f"1x{c.tokens}": {
                    "milliseconds": list(c.milliseconds),
                    "bytes": list(c.bytes),
                    "saves": c.gain,
                    "pays": c.pays,
                }
                for c in calls
            }
            for gpu, calls in comparison.calls.items()
        },
    }
