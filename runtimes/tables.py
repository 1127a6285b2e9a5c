"""How the word embeddings' table is stored, and the gate that a bundle has with it.

XLM-RoBERTa's table is 250,002 rows of the model's width: nearly half of what an FP16 engine holds.
A text reads few of them, so they can be stored in fewer bits and made numbers again after they are
gathered. ``TABLES`` has a row for each choice; the rest of the code asks the row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from runtimes.choices import Embeddings, Precision, Target
from runtimes.schemes import INT4W, INT8W, SCHEMES, Storage


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What a bundle is judged by.

    ``min_cosine`` is the least cosine to the FP32 reference that any text may have, ``mean_cosine``
    the least mean over all texts. ``gates_quality``: held-back texts and the quality of retrieval
    and similarity count too, at the least dimensions as well. ``max_score_change`` is the most by
    which means of benchmark scores may differ from the reference's.
    """

    min_cosine: float
    mean_cosine: float
    gates_quality: bool
    max_score_change: float


@dataclass(frozen=True, kw_only=True)
class Table:
    """One way to store the table.

    ``storage`` is that of a row, whose scale (or whose blocks' scales) lies beside it; None: the
    type of the rest of the graph. A bundle's gate is its precision's, but no stricter than
    ``gate``. ``targets`` are those whose executors read it. ``learned``: how numbers are rounded is
    learned from texts.
    """

    storage: Storage | None
    gate: Gate
    learned: bool = False
    targets: tuple[Target, ...] = tuple(Target)


TABLES: Mapping[Embeddings, Table] = {
    Embeddings.SAME: Table(
        storage=None,
        gate=Gate(min_cosine=1.0, mean_cosine=1.0, gates_quality=False, max_score_change=0.0),
    ),
    # FP16's gate. Alone it costs at most 3e-5 of a text's cosine (docs/decisions).
    Embeddings.INT8: Table(
        storage=INT8W,
        gate=Gate(
            min_cosine=0.9999, mean_cosine=0.9999, gates_quality=False, max_score_change=2e-3
        ),
    ),
    # INT4W's gate. The parser of TensorRT 10.3, JetPack's, knows no blocks, and OpenVINO 2026.4
    # gathers INT8 as it is stored but makes FP32 of INT4 when it compiles.
    Embeddings.INT4: Table(
        storage=replace(INT4W, block=128),
        gate=Gate(min_cosine=0.99, mean_cosine=0.995, gates_quality=True, max_score_change=2e-3),
        learned=True,
        targets=tuple(t for t in Target if t not in (Target.TENSORRT10, Target.OPENVINO)),
    ),
}


def gate_of(precision: Precision, embeddings: Embeddings) -> Gate:
    """What a bundle of these two is judged by."""
    scheme, table = SCHEMES[precision], TABLES[embeddings].gate
    return Gate(
        min_cosine=min(scheme.min_cosine, table.min_cosine),
        mean_cosine=min(scheme.mean_cosine, table.mean_cosine),
        gates_quality=scheme.gates_quality or table.gates_quality,
        max_score_change=max(scheme.max_score_change, table.max_score_change),
    )
