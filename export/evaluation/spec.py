"""What is scored, on what, and how: frozen and without mteb."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtimes.choices import Choice, OutputType
from runtimes.errors import InputError


class Preset(Choice):
    """Tasks by one name."""

    FAST = "fast"  # the project's own: no download
    RELEASE = "release"  # those with a published score


@dataclass(frozen=True, kw_only=True)
class EvaluationSpec:
    """What is scored, on what, and how.

    ``reference`` is a folder, a hub id or ``none``; None is the sample's for bundles of the
    sample. ``tasks`` replace the preset's. ``dimensions`` None is the full length. ``output``
    is what bundles give; the reference gives float32. ``gate`` asks
    for what :func:`export.evaluation.scores.require_gate` needs.
    """

    bundles: Sequence[Path]
    reference: str | None = None
    revision: str | None = None
    tasks: Sequence[str] = ()
    preset: Preset = Preset.FAST
    dimensions: int | None = None
    prefix: bool = True
    output: OutputType = OutputType.FLOAT32
    runtime: str | None = None  # None: on a CPU, what each bundle was built for
    out: Path = Path("build/eval")
    gate: bool = False

    @property
    def settings(self) -> Mapping[str, object]:
        """What shapes vectors beside bundle and model."""
        return {
            "dimensions": self.dimensions,
            "prefix": self.prefix,
            "output": self.output,
            "runtime": self.runtime,
        }


def evaluation_spec(arguments: Namespace) -> EvaluationSpec:
    """What the options of ``adaptrt eval`` ask for."""
    tasks = [name.strip() for name in (arguments.tasks or "").split(",")]
    names = tuple(name for name in tasks if name)
    if arguments.tasks is not None and not names:
        raise InputError("--tasks: the list is empty, expected names of MTEB's tasks")
    return EvaluationSpec(
        bundles=tuple(arguments.bundle),
        reference=arguments.reference,
        revision=arguments.revision,
        tasks=names,
        preset=Preset.parse("--preset", arguments.preset),
        dimensions=arguments.dimensions,
        prefix=arguments.prefix,
        output=OutputType.parse("--output-type", arguments.output_type),
        runtime=arguments.runtime,
        out=arguments.out,
        gate=arguments.gate,
    )
