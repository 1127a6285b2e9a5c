"""An executor that is not ONNX Runtime: ONNX's own reference implementation of the operators.

All there is to a new executor: this file, and the row of ``EXECUTORS`` that names it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from runtimes.arrays import Arrays
from runtimes.choices import GraphKind
from runtimes.executors.base import RuntimeBase, while_open
from runtimes.manifest import Manifest
from runtimes.open import Executor, OpenOptions


class ReferenceRuntime(RuntimeBase):
    """A graph computed in NumPy, operator by operator."""

    name = "onnx-reference-cpu"

    def __init__(self, graph: Path) -> None:
        # onnx.load refuses weights with a second hard link, as a Triton repository makes one.
        model = ir.external_data.load_to_model(ir.load(graph))
        self._evaluator = ReferenceEvaluator(ir.to_proto(model))

    @while_open
    def run(self, inputs: Arrays) -> Arrays:
        """Execute once; every output of the graph by name."""
        values = self._evaluator.run(None, dict(inputs))
        return dict(zip(self._evaluator.output_names, map(np.asarray, values), strict=True))


def open_reference(folder: Path, manifest: Manifest, _: OpenOptions) -> ReferenceRuntime:
    return ReferenceRuntime(folder / manifest.artifact(GraphKind.PORTABLE).path)


REFERENCE = Executor(
    name="onnx_reference", graph=GraphKind.PORTABLE, opener=open_reference, judges=True
)
