"""How the word embeddings' table is stored in fewer bits.

Each row has a scale of its own, or one for each block of its numbers, so that a row is quantised
without a look at any other, and the table block by block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.quantise import Matrix
from calibration.rounding import rounded_weight, stored_steps, weight_scales
from export.checkpoint.names import WORD
from export.spec import BuildSpec
from runtimes.schemes import Storage
from runtimes.tables import TABLES

TABLE, SCALES = f"{WORD}.weight", f"{WORD}.weight_scale"


@dataclass(frozen=True)
class QuantisedTable:
    """How the table is stored; ``dtype`` is that of its scales and of the rest of the graph."""

    storage: Storage
    dtype: str

    def tensor(self, name: str, rows: Matrix) -> NDArray[np.generic]:
        """Of ``rows [n, width]`` in FP32 the stored numbers, or their scales."""
        scales = weight_scales(rows.T, self.dtype, self.storage)
        return scales if name == SCALES else stored_steps(rows.T, scales, self.storage)

    def restored(self, rows: Matrix) -> Matrix:
        """What is left of ``rows [n, width]``, in FP32."""
        return rounded_weight(rows.T, self.dtype, self.storage).T

    def scale_shape(self, entries: int, width: int) -> tuple[int, ...]:
        """The scales' shape of a table ``[entries, width]``."""
        block = self.storage.block
        return (entries,) if block is None else (entries, width // block)


def quantised_table(spec: BuildSpec) -> QuantisedTable | None:
    """How a build stores the table; None: in the type of the rest of the graph."""
    storage = TABLES[spec.embeddings].storage
    return None if storage is None else QuantisedTable(storage, spec.dtype)
