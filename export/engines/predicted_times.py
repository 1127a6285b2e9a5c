"""What a manifest says of times that no GPU has measured."""

from __future__ import annotations

from collections.abc import Mapping

from export.console.progress import log
from export.engines.gpus import GPUS, Gpu
from export.engines.plan import Plan
from export.engines.plan_file import Plans
from export.engines.plan_sizes import Workload
from export.engines.predict import (
    EFFICIENCY,
    PREDICTED,
    TypeUnsupportedError,
    nearest,
    predict,
    usual_calls,
)
from runtimes.manifest import Manifest, Predicted
from runtimes.profiles import choose


def predicted_times(plans: Plans, manifest: Manifest) -> Predicted | None:
    """Milliseconds of the usual calls on every GPU that multiplies the engines' types.

    None where no engine has a plan, and, with a warning, where one cannot be explained.
    """
    if not plans:
        return None
    sizes = manifest.architecture
    calls = usual_calls(sizes.heads, manifest.max_batch, manifest.max_tokens)
    try:
        times = {gpu.name: _times(gpu, plans, manifest, calls) for gpu in GPUS.values()}
    except ValueError as error:
        log.warning("warning: no times are predicted of the engines: %s", error)
        return None
    return Predicted(
        what=PREDICTED,
        source=EFFICIENCY.source,
        version=EFFICIENCY.version,
        milliseconds={name: own for name, own in times.items() if own},
    )


def times_on_gpus(name: str, plans: Mapping[str, Plan], call: Workload) -> Mapping[str, float]:
    """Milliseconds of one call by GPU, on those that ``plans`` have no nearer plan for."""
    times = {}
    for gpu in GPUS.values():
        nearest_name, plan = nearest(gpu, plans)
        if nearest_name != name:
            continue
        try:
            times[gpu.name] = predict(plan, call, gpu).milliseconds
        except TypeUnsupportedError:
            continue
    return times


def _times(
    gpu: Gpu, plans: Plans, manifest: Manifest, calls: tuple[Workload, ...]
) -> Mapping[str, float]:
    """By call, such as "8x512"; none where the GPU cannot multiply a type."""
    times = {}
    for call in calls:
        own = of_profile(plans, manifest, call)
        if not own:
            continue
        try:
            milliseconds = predict(nearest(gpu, own)[1], call, gpu).milliseconds
        except TypeUnsupportedError:
            return {}
        times[f"{call.batch}x{call.tokens}"] = float(f"{milliseconds:.3g}")
    return times


def of_profile(plans: Plans, manifest: Manifest, call: Workload) -> dict[str, Plan]:
    """Each engine's plan for the profile that such a call runs in."""
    index = choose(manifest.profiles, call.batch, call.tokens)
    if index is None:
        return {}
    return {path: own[index] for path, own in plans.items() if index < len(own)}
