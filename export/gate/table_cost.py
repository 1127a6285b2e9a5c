"""What a quantised table of embeddings costs alone: the reference, reading the rows that are left.

A row's stored numbers depend on that row only, so what the reference gathers is quantised on its
way; everything else stays FP32 and PyTorch's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from export.checkpoint.names import WORD
from export.gate.compare import embed, row_cosines
from export.gate.texts import ParityText
from export.graph.table import QuantisedTable
from runtimes.arrays import Vectors
from runtimes.manifest import TableCost
from runtimes.text.tokens import TextTokenizer

if TYPE_CHECKING:
    from torch import Tensor, nn

    from runtimes.executors.torch_reference import FlashReference

LONGEST = 512  # tokens of a text: what is asked is what rows lose, not what length does


@dataclass
class TableTrial:
    """Collects the cost task by task; ``beside``: an adapter's part is not in the stored rows."""

    table: QuantisedTable
    beside: bool
    _cosines: list[NDArray[np.float64]] = field(default_factory=list)

    def add(
        self,
        model: nn.Module,
        reference: FlashReference,
        texts: Sequence[ParityText],
        exact: Vectors,
        tokenizer: TextTokenizer,
    ) -> None:
        """Run the reference's ``model`` with the table on those of ``texts`` that are short."""
        short = [row for row, text in enumerate(texts) if len(text.ids) <= LONGEST]
        with _rows_of(model, self.table, beside=self.beside):
            ours = embed(reference, [texts[row] for row in short], tokenizer)
        self._cosines.append(row_cosines(exact[short], ours))

    @property
    def cost(self) -> TableCost:
        """Over all texts so far."""
        cosines = np.concatenate(self._cosines)
        return TableCost(
            rows=len(cosines),
            min_cosine=float(cosines.min()),
            mean_cosine=float(cosines.mean()),
        )


@contextmanager
def _rows_of(model: nn.Module, table: QuantisedTable, *, beside: bool) -> Iterator[None]:
    embedding = model.get_submodule(WORD)
    stored = getattr(embedding, "base_layer", embedding) if beside else embedding
    hook = stored.register_forward_hook(_restore(table))
    try:
        yield
    finally:
        hook.remove()


def _restore(table: QuantisedTable) -> Callable[[nn.Module, object, Tensor], Tensor]:
    def restore(_: nn.Module, __: object, rows: Tensor) -> Tensor:
        flat = rows.detach().cpu().float().reshape(-1, rows.shape[-1]).numpy()
        restored = np.ascontiguousarray(table.restored(flat))
        return rows.new_tensor(restored).reshape(rows.shape)

    return restore
