"""What was aimed at, beside what was reached: tables of ratios between contenders of one report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.bench.plan_tables import markdown
from tests.bench.reports import (
    COLUMNS,
    INT8,
    NOT_MEASURED,
    OURS,
    Report,
    caption,
    case_title,
    extra_gb,
    load,
    names,
    ratio,
    row_of,
)

_PYTORCH, _NAIVE, _ST = ("PyTorch FlashAttention", "naive ONNX export", "sentence-transformers")
_BF16, _ST_BF16, _COMPILED = "PyTorch BF16", "sentence-transformers BF16", "PyTorch BF16 compiled"
_OURS_BF16, _OURS_INT8 = "adaptrt OpenVINO BF16", "adaptrt OpenVINO INT8"


@dataclass(frozen=True)
class Aim:
    """How many times faster one of ours is than another, or its share of the other's memory.

    ``cases`` gives the target of each, or None where there is none; ``instead`` names another
    contender where a case has one of its own.
    """

    title: str
    ours: str
    other: str
    cases: Mapping[str, float | None]
    memory: bool = False
    instead: Mapping[str, str] = field(default_factory=dict)

    def measured(self, report: Report, case: str) -> float | None:
        other = self.instead.get(case, self.other)
        if not self.memory:
            return ratio(report, other, self.ours, case)
        rows = [row_of(report, who, case) for who in (self.ours, other)]
        ours, others = (extra_gb(report, row) if row else None for row in rows)
        return None if ours is None or others is None else ours / others


def against(name: str, aims: Sequence[Aim]) -> str:
    """What was reached, with the target in brackets."""
    cases = [case for case in COLUMNS if any(case in aim.cases for aim in aims)]
    report = load(name) if name in names() else None
    rows = [(aim.title, *(_reached(report, aim, case) for case in cases)) for aim in aims]
    head = ("times as fast as (target)", *(case_title(report, case) for case in cases))
    return "\n\n".join([*([caption(report)] if report else ()), markdown(head, rows)])


def _reached(report: Report | None, aim: Aim, case: str) -> str:
    if case not in aim.cases:
        return ""
    value = aim.measured(report, case) if report else None
    target = aim.cases[case]
    shown = NOT_MEASURED if value is None else f"{value:.2f}"
    return shown if target is None else f"{shown} ({target:g})"


def _targets(*values: float) -> dict[str, float | None]:
    return dict(zip(COLUMNS, values, strict=True))


_ANY: dict[str, float | None] = dict.fromkeys(COLUMNS[:-1])
_CORPUS = {"corpus": _ST_BF16}
AIMS: dict[str, tuple[str, tuple[Aim, ...]]] = {
    "cpu-full-aims": (
        "cpu-full",
        (
            Aim(
                _PYTORCH, OURS, _PYTORCH, {"1x128": 2.5, "1x512": 2.2, "1x2048": 1.9, "1x8192": 2.4}
            ),
            Aim(_NAIVE, OURS, _NAIVE, {"1x128": 1.5, "1x512": 1.15, "1x2048": 1.5, "1x8192": 6}),
            Aim(
                "extra memory as a share of the naive export's",
                OURS,
                _NAIVE,
                {"1x2048": 0.25, "1x8192": 0.05},
                memory=True,
            ),
            Aim(_ST, OURS, _ST, {"corpus": 3}),
        ),
    ),
    "cpu-mid-aims": ("cpu-mid", (Aim(f"{_PYTORCH}, INT8", INT8, _PYTORCH, _ANY),)),
    "zen4-full-aims": (
        "zen4-full",
        (
            Aim(f"{_PYTORCH}, FP32", OURS, _PYTORCH, _ANY),
            Aim(
                f"{_PYTORCH}, INT8",
                INT8,
                _PYTORCH,
                _ANY | {"1x512": 5, "1x2048": 3.3, "1x8192": 3.4},
            ),
        ),
    ),
    "zen4-mid-aims": (
        "zen4-mid",
        (
            Aim(f"{_PYTORCH}, FP32", OURS, _PYTORCH, _ANY),
            Aim(f"{_PYTORCH}, INT8", INT8, _PYTORCH, _ANY),
            Aim(f"{_ST}, FP32", OURS, _ST, {"corpus": None}),
            Aim(f"{_ST}, INT8", INT8, _ST, {"corpus": None}),
        ),
    ),
    # BF16 and INT8 in OpenVINO, INT8 with BF16 for what is not quantised.
    "cpu-targets": (
        "zen5-full",
        (
            Aim(
                f"BF16 over {_BF16}; of the corpus, over {_ST_BF16}",
                _OURS_BF16,
                _BF16,
                _targets(1.3, 1.2, 1.3, 1.2, 1.3, 3),
                instead=_CORPUS,
            ),
            Aim(f"BF16 over {_COMPILED}", _OURS_BF16, _COMPILED, _ANY),
            Aim(
                f"BF16 over {OURS} (FP32)", _OURS_BF16, OURS, _targets(2.1, 2.1, 2.1, 2.0, 1.7, 2.1)
            ),
            Aim(f"INT8 over {INT8}", _OURS_INT8, INT8, _targets(1.3, 1.3, 1.4, 1.3, 1.5, 1.2)),
            Aim(
                f"INT8 over {_BF16}; of the corpus, over {_ST_BF16}",
                _OURS_INT8,
                _BF16,
                _targets(2.0, 1.8, 1.9, 1.8, 1.5, 4),
                instead=_CORPUS,
            ),
        ),
    ),
}
