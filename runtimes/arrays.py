"""The arrays that packages hand to each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]  # inputs or outputs of a graph, by name
Vectors = NDArray[np.float32]
Encoded = NDArray[Any]  # vectors as float32, int8 or uint8: runtimes.outputs
Ids = NDArray[np.int64]
