"""An executor that is not ONNX Runtime: ONNX's own reference implementation of the operators.

All there is to a new executor: this file, and the row of ``EXECUTORS`` that names it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
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
        # Of a copy: onnx refuses weights with a second hard link, as a Triton repository makes one.
        with TemporaryDirectory() as folder:
            copy = Path(shutil.copytree(graph.parent, Path(folder) / "graph")) / graph.name
            self._evaluator = ReferenceEvaluator(onnx.load(copy))

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
