"""How the word embeddings' table is stored in fewer bits.

Each row has a scale of its own, or one for each block of its numbers, so that a row is quantised
without a look at any other, and the table block by block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.quantise import Matrix
from calibration.rounding import learned_steps, stored_steps, weight_scales, wide_scales
from export.checkpoint.names import WORD
from runtimes.schemes import Storage

TABLE, SCALES = f"{WORD}.weight", f"{WORD}.weight_scale"


@dataclass(frozen=True, eq=False)
class QuantisedTable:
    """How the table is stored; ``dtype`` is that of its scales and of the rest of the graph.

    ``moment [width, width]`` says which errors of a row matter
    (:mod:`export.quantisation.table`); without one each number is the nearest there is.
    """

    storage: Storage
    dtype: str
    moment: NDArray[np.float64] | None = None

    def tensor(self, name: str, rows: Matrix) -> NDArray[np.generic]:
        """Of ``rows [n, width]`` in FP32 the stored numbers, or their scales."""
        scales = weight_scales(rows.T, self.dtype, self.storage)
        return scales if name == SCALES else self._steps(rows, scales)

    def restored(self, rows: Matrix) -> Matrix:
        """What is left of ``rows [n, width]``, in FP32."""
        scales = weight_scales(rows.T, self.dtype, self.storage)
        wide = wide_scales(scales, rows.shape[1]).T.astype(np.float32)
        left: Matrix = self._steps(rows, scales).astype(np.float32) * wide
        return left

    def scale_shape(self, entries: int, width: int) -> tuple[int, ...]:
        """The scales' shape of a table ``[entries, width]``."""
        block = self.storage.block
        return (entries,) if block is None else (entries, width // block)

    def _steps(self, rows: Matrix, scales: NDArray[np.floating]) -> NDArray[np.generic]:
        if self.moment is None:
            return stored_steps(rows.T, scales, self.storage)
        wide = wide_scales(scales, rows.shape[1])
        return learned_steps(rows.T, self.moment, wide, self.storage).T
