"""What ``adaptrt engine`` and :func:`adaptrt.build` are asked for, and the defaults of both."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from export.spec import BuildSpec, CalibrationSpec
from runtimes.arguments import check_flag, check_whole, expected_name
from runtimes.choices import ALL_TASKS, Precision
from runtimes.errors import InputError, shown

AUTO = "auto"
CPU = "cpu"  # of TARGET: what this CPU is recommended
_NAMES = ("model", "revision", "calibration_column", "name", "vocabulary", "device")
_CHOICES = (
    "task",
    "precision",
    "target",
    "gpu",
    "adapter",
    "interface",
    "head",
    "layout",
    "rest",
    "embeddings",
    "allow_plan",
    "attention_accumulation",
)
_PATHS = ("adapter_path", "out", "calibration_data", "calibration")
_WHOLE = ("rank", "parity_tokens", "calibration_texts")
_NUMBERS = ("int8_fallback_max",)
# None: not given, then the device's, or what is usual.
_WHOLE_OR_NONE = ("block", "max_batch", "max_tokens", "vocabulary_min_count")


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """A build as the user asks for it: names as text, ``auto`` not resolved yet.

    The fields are the command line's options of the same names, with ``None`` for what was not
    given. Raises :class:`InputError` for a value of another type, and for text that no file's name
    can hold; which values are allowed, :class:`export.spec.BuildSpec` checks.
    """

    model: str | None = None  # a folder or hub id; None: the embedded sample
    revision: str | None = None
    adapter_path: Path | None = None
    task: str = "classification"
    precision: str = Precision.FP16
    target: str = AUTO
    gpu: str = AUTO
    adapter: str = BuildSpec.adapter
    interface: str = BuildSpec.interface
    head: str = BuildSpec.head
    layout: str = AUTO
    rest: str = AUTO
    block: int | None = None  # None: the precision's own
    embeddings: str = BuildSpec.embeddings
    rank: int = BuildSpec.rank
    device: str | None = None  # a Jetson, whose row fills in what is None below
    max_batch: int | None = None
    max_tokens: int | None = None
    profiles: str | None = None
    allow_plan: str = ",".join(BuildSpec.allow_plan)
    attention_accumulation: str = BuildSpec.attention_accumulation
    refittable: bool = BuildSpec.refittable
    workspace: float | None = None  # GiB
    parity_tokens: int = BuildSpec.parity_tokens
    name: str | None = None
    out: Path = Path("build")
    calibration_data: Path | None = None
    calibration_column: str = CalibrationSpec.column
    calibration: Path | None = None
    calibration_texts: int = CalibrationSpec.texts
    observer: str = CalibrationSpec.observer
    int8_fallback_max: float = CalibrationSpec.fallback_max
    vocabulary: str | None = None  # None: every token
    vocabulary_min_count: int | None = None  # None: 1
    unknown: str | None = None  # None: error

    def __post_init__(self) -> None:
        for field in _NAMES:
            _check_name(field, getattr(self, field), str, "text")
        for field in _PATHS:
            _check_name(field, getattr(self, field), Path, "a path")
        for field in (*_CHOICES, "observer"):
            if not isinstance(value := getattr(self, field), str):
                raise InputError(f"{field.upper()}: got {shown(value)}, expected text")
        for field in _WHOLE:
            check_whole(field.upper(), getattr(self, field))
        for field in _WHOLE_OR_NONE:
            if (value := getattr(self, field)) is not None:
                check_whole(field.upper(), value)
        if not isinstance(self.unknown, str | None):
            raise InputError(f"UNKNOWN: got {shown(self.unknown)}, expected text")
        for field in (*_NUMBERS, *(() if self.workspace is None else ("workspace",))):
            _check_number(field, getattr(self, field))
        if self.profiles is not None and not isinstance(self.profiles, str):
            raise InputError(f"PROFILES: got {shown(self.profiles)}, expected text")
        check_flag("REFITTABLE", self.refittable)
        if self.task == ALL_TASKS and self.adapter_path:
            raise InputError("TASK=all with ADAPTER_PATH: name your adapter's task instead")

    @property
    def tasks(self) -> tuple[str, ...] | None:
        """The tasks to build a bundle for; None: every task of the checkpoint."""
        return None if self.task == ALL_TASKS else (self.task,)


def _check_name(field: str, value: object, kind: type, expected: str) -> None:
    """A name that a file can have."""
    if value is None:
        return
    variable, text = field.upper(), str(value)
    if not isinstance(value, kind) or not text:
        raise InputError(f"{variable}: got {shown(value)}, expected {expected}")
    if (name := expected_name(text)) is not None:
        raise InputError(f"{variable}: got {shown(text)}, expected {name}")


def _check_number(field: str, value: object) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value):  # type: ignore[arg-type]
        raise InputError(f"{field.upper()}: got {shown(value)}, expected a number")
