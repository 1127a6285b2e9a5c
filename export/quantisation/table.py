"""How a build stores the table of embeddings; INT4's rounding is learned from what vectors feel.

A row's error is changed on its way: the first LayerNorm takes away its mean, and the layers carry
some directions further than others. ``moment [width, width]`` is the mean of ``g gᵀ`` over the
tokens of some texts, with ``g`` the gradient of a random direction of the text's vector with
respect to the token's row: ``eᵀ·moment·e`` is the squared change of a vector that an error ``e``
makes, to first order. Rows are rounded one number after the other so that it becomes small, as
:func:`calibration.rounding.learned_steps` rounds a weight for what it multiplies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from calibration.corpus import load_corpus
from calibration.stratify import Sample
from export.checkpoint.names import WORD
from export.console.progress import progress_bar
from export.gate.reference import reference_model
from export.graph.table import QuantisedTable
from export.quantisation.subject import Subject, sample_texts
from runtimes.executors.torch_reference import exact_products
from runtimes.tables import TABLES
from runtimes.text.tokens import shorten

_TEXTS, _TOKENS, _BATCH = 64, 32, 16
_PROBES = 8  # random directions of each text's vector


def table_of(subject: Subject) -> QuantisedTable | None:
    """What the bundle's table is stored as; None: in the type of the rest of the graph."""
    row = TABLES[subject.spec.embeddings]
    if row.storage is None:
        return None
    moment = row_moment(subject) if row.learned else None
    return QuantisedTable(row.storage, subject.spec.dtype, moment)


def row_moment(subject: Subject) -> NDArray[np.float64]:
    """The moment over short texts of every task, by transformers and PEFT in FP32.

    The texts are the project's own: rows hold the same numbers in a bundle of some of the tokens.
    """
    samples = sample_texts(subject, load_corpus(None))
    chosen = sorted(samples, key=lambda sample: abs(len(sample.ids) - _TOKENS))[:_TEXTS]
    width = subject.checkpoint.config.hidden
    moment, tokens = np.zeros((width, width)), 0
    random = torch.Generator().manual_seed(0)
    for task in progress_bar(sorted({sample.task for sample in chosen}), "table", "task"):
        model = reference_model(subject.checkpoint, task).eval().requires_grad_(False)
        of_task = [sample for sample in chosen if sample.task == task]
        for start in range(0, len(of_task), _BATCH):
            for gradients in _gradients(model, of_task[start : start + _BATCH], subject, random):
                rows = gradients.double().numpy()
                moment += rows.T @ rows
                tokens += len(rows)
    return moment / tokens


def _gradients(
    model: nn.Module, samples: Sequence[Sample], subject: Subject, random: torch.Generator
) -> Iterable[Tensor]:
    """For each probe ``[tokens, width]``, those of the texts' rows."""
    padded = subject.tokenizer.pad([shorten(sample.ids, 2 * _TOKENS) for sample in samples])
    mask = torch.from_numpy(padded.attention_mask)
    read: list[Tensor] = []

    def keep(_: nn.Module, __: object, rows: Tensor) -> Tensor:
        read.append(rows.detach().requires_grad_())
        return read[-1]

    hook = model.get_submodule(WORD).register_forward_hook(keep)
    try:
        with exact_products():
            ids = torch.from_numpy(padded.input_ids)
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
            means = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            vectors = means / means.norm(dim=-1, keepdim=True)
            for probe in range(_PROBES):
                directions = torch.randn(vectors.shape, generator=random)
                (gradients,) = torch.autograd.grad(
                    (vectors * directions).sum(), read[-1], retain_graph=probe + 1 < _PROBES
                )
                yield gradients[mask.bool()]
    finally:
        hook.remove()
