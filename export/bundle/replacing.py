"""The choices a bundle is built with, so that a build with other ones does not replace it.

A bundle's name says them too (:mod:`export.bundle.plan`), all but the GPUs; but ``NAME`` can be
anything, and former versions had shorter names.
"""

from __future__ import annotations

from pathlib import Path

from export.bundle.plan import BundlePlan, engine_names, used_profiles
from export.bundle.staging import read_former
from export.spec import BuildSpec
from runtimes.choices import Accumulation, AdapterMode, Target
from runtimes.combinations import fits_hub
from runtimes.errors import InputError, shown
from runtimes.manifest import Manifest


def require_replaceable(final: Path, spec: BuildSpec, plan: BundlePlan) -> None:
    """:class:`InputError` unless nothing is at ``final``, or a bundle that this build makes anew.

    The checkpoint may be another one of the same name; a choice or an engine that would be lost
    is named, with the ways out.
    """
    former = read_former(final)
    if former is None:
        return
    choices = _choices(spec, plan)
    other = [f"{k}={shown(v)}" for k, v in _recorded(former).items() if v != choices[k]]
    built = {gpu or spec.gpus[0] for gpu, _ in engine_names(spec)}
    gpus = {str(a.gpu) for a in former.artifacts if a.gpu is not None} - built
    lost = [f"was built with {', '.join(other)}"] if other else []
    lost += [f"holds engines for {', '.join(_in_order(gpus))}"] if gpus else []
    if lost:
        more = f"add GPU={','.join(_in_order(built | gpus))}, " if gpus and not other else ""
        raise InputError(
            f"OUT: {final} {' and '.join(lost)}, which this build would replace; "
            f"{more if spec.target is Target.TENSORRT_RTX else ''}choose another place (NAME=... "
            "or OUT=...), or delete it"
        )


def _in_order(gpus: set[str]) -> list[str]:
    """``sm120`` after ``sm89``."""
    return sorted(gpus, key=lambda gpu: (len(gpu), gpu))


def _recorded(manifest: Manifest) -> dict[str, object]:
    """By variable; the layout where there was a choice, which schema 1.4 brought."""
    pruned = manifest.vocabulary is not None
    chosen = manifest.schema_minor >= 4 and fits_hub(manifest.adapter, manifest.head, pruned=pruned)
    layout = {"LAYOUT": manifest.layout} if chosen else {}
    return layout | {
        "TASK": ",".join(map(str, manifest.tasks)),
        "ADAPTER": manifest.adapter,
        "RANK": manifest.slot_rank,
        "INTERFACE": manifest.interface,
        "HEAD": manifest.head,
        "PRECISION": manifest.precision,
        "TARGET": manifest.target.name,
        "MAX_BATCH": manifest.max_batch,
        "MAX_TOKENS": manifest.max_tokens,
        "PROFILES": ",".join(manifest.named_profiles),
        "ATTENTION_ACCUMULATION": manifest.attention_accumulation or Accumulation.FP32,
        "VOCABULARY": pruned,
        "REFITTABLE": any(entry.stripped for entry in manifest.artifacts),
    }


def _choices(spec: BuildSpec, plan: BundlePlan) -> dict[str, object]:
    return {
        "TASK": ",".join(plan.tasks),
        "ADAPTER": spec.adapter.value,
        "RANK": spec.rank if spec.adapter is AdapterMode.SLOT else None,
        "INTERFACE": spec.interface.value,
        "HEAD": spec.head.value,
        "LAYOUT": spec.layout,
        "PRECISION": spec.precision.value,
        "TARGET": spec.target.value,
        "MAX_BATCH": spec.limits.max_batch,
        "MAX_TOKENS": spec.limits.max_tokens,
        "PROFILES": ",".join(used_profiles(spec)),
        "ATTENTION_ACCUMULATION": spec.attention_accumulation,
        "VOCABULARY": spec.vocabulary is not None,
        "REFITTABLE": spec.refittable,
    }
