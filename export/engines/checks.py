"""The engines of a staged bundle against the rules of :mod:`export.engines.plan_rules`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from export.engines.plan import PlanTensor
from export.engines.plan_file import Plans
from export.engines.plan_rules import TYPES, PlanSubject, check_plans
from export.graph.table import TABLE
from export.graph.trace import stored_slots
from export.spec import BuildSpec
from runtimes.choices import Accumulation, PlanRule
from runtimes.manifest import Architecture
from runtimes.schemes import INT8, Storage
from runtimes.tables import TABLES


def check_engines(
    plans: Plans,
    spec: BuildSpec,
    shape: Architecture,
    graph: Path,
    quantised: Mapping[str, Storage],
) -> tuple[PlanRule, ...]:
    """The rules that the engines' ``plans`` break with the specification's leave.

    ``shape`` is the model's, ``quantised`` are the GEMMs stored quantised, and how; ``graph`` is
    what the engines were built from, with its weights beside it. Raises
    :class:`runtimes.errors.GateError` for a rule broken without leave.
    """
    storage = TABLES[spec.embeddings].storage
    int8 = spec.scheme.storage == INT8 and bool(quantised)
    subject = PlanSubject(
        scheme=spec.scheme,
        adapter=spec.adapter,
        head=spec.head,
        architecture=shape,
        accumulator="Half" if spec.attention_accumulation is Accumulation.FP16 else "Float",
        quantised=Counter(quantised.values()),
        column_sums=_column_sums(graph, quantised) if int8 else {},
        table=None if storage is None else _table(graph, storage),
    )
    broken = check_plans(plans, subject, frozenset(spec.allow_plan))
    return tuple(rule for rule in PlanRule if rule in broken)


def _table(graph: Path, storage: Storage) -> PlanTensor:
    """The table of embeddings as a plan has it."""
    (shape,) = (slot.shape for slot in stored_slots(graph) if slot.name == TABLE)
    return PlanTensor(name=TABLE, shape=shape, type=TYPES[storage.dtype])


def _column_sums(graph: Path, quantised: Collection[str]) -> Mapping[str, float]:
    """By GEMM, the largest sum over K of the magnitudes of a column of its INT8 weight.

    A lowering may cut a weight for q, k and v: each part is named after the whole.
    """
    sums: dict[str, float] = {}
    for name, value in ir.load(graph).graph.initializers.items():
        gemm = next((own for own in quantised if name.startswith(f"{own}.")), None)
        if gemm is None or value.const_value is None or value.dtype is not ir.DataType.INT8:
            continue
        matrix = value.const_value.numpy()
        if matrix.ndim == 2:
            largest = float(np.abs(matrix.astype(np.int32)).sum(axis=0).max())
            sums[gemm] = max(largest, sums.get(gemm, 0.0))
    return sums
