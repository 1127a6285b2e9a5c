"""Times that ``make gpu-check`` measured, which stand in the place of predicted ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from export.engines.gpus import GPUS
from runtimes.choices import Precision
from runtimes.typed_json import Plain, as_record, read_object

Times = Mapping[tuple[str, int, int], float]  # milliseconds by GPU, batch and tokens
_CASE = re.compile(r"(\d{1,4})x(\d{1,4})")


@dataclass(frozen=True, kw_only=True)
class _Device:
    name: Plain


@dataclass(frozen=True, kw_only=True)
class _Row:
    case: Plain
    executor: Plain
    precision: Plain
    milliseconds: float


@dataclass(frozen=True, kw_only=True)
class GpuCheck:
    """What is read of ``gpu-check.json``. ``timed_size`` is the model's: "sample" or "full"."""

    gpu: _Device
    timed_size: Plain
    rows: tuple[_Row, ...]

    @staticmethod
    def read(path: Path) -> GpuCheck:
        """The report in a file; :class:`runtimes.errors.InputError` where it is none."""
        hint = "`make gpu-check` writes it"
        return as_record(read_object(path), GpuCheck, path, hint)

    def times(self, precision: Precision) -> Times:
        """TensorRT's times of one precision, under the names of :data:`GPUS` where it has one."""
        own = [row.name for row in GPUS.values() if self.gpu.name in row.devices]
        name = own[0] if own else self.gpu.name
        return {
            (name, int(case[1]), int(case[2])): row.milliseconds
            for row in self.rows
            if row.executor.startswith("tensorrt") and row.precision == precision
            if (case := _CASE.fullmatch(row.case))
        }
