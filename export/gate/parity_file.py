"""What a bundle keeps of its comparison: ``parity.json`` and the reference's vectors, both ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from calibration.evidence import Loss
from calibration.looks import LOOKS
from export.bundle.staging import write_json
from export.gate.gate import Reference, Verdict
from export.gate.texts import texts_sha256
from runtimes.arrays import Vectors
from runtimes.bundle_files import CHUNKS_FILE, PARITY_FILE, REFERENCE_FILE
from runtimes.errors import GateError, InputError
from runtimes.tables import Gate
from runtimes.typed_json import Plain, as_record, read_object

_HINT = "copy the bundle again or build it anew"
_Cosine = Annotated[float, Meta(ge=-1, le=1)]


@dataclass(frozen=True, kw_only=True)
class TextRecord:
    """Which text a row of the reference is of."""

    name: str
    task: str


@dataclass(frozen=True, kw_only=True)
class ReportRecord:
    """One comparison: a :class:`export.gate.compare.ParityReport` as far as it is needed again."""

    reference: Plain
    executed: Plain
    min_cosine: _Cosine
    mean_cosine: _Cosine
    threshold: _Cosine
    mean_threshold: _Cosine | None = None  # the first schema's bundles have no such entry
    texts: Annotated[tuple[TextRecord, ...], Meta(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class QualityRecord:
    """A quantised bundle's losses by report, and how often texts were drawn for them.

    Bundles of versions before have neither; their other texts are refused.
    """

    losses: Mapping[str, tuple[Loss, ...]] = field(default_factory=dict)
    looks: Annotated[int, Meta(ge=1, le=len(LOOKS))] = 1


@dataclass(frozen=True, kw_only=True)
class ParityRecord:
    """``parity.json``; the reports by name, the one that speaks for the target first.

    ``executors`` are the labels of those that the gate had; each that can judge the bundle has a
    report. ``emulation``: by engine whose plan is known, the reports of what it would compute.
    """

    texts_sha256: str
    parity_tokens: Annotated[int, Meta(ge=1, le=10**7)]
    graphs: Annotated[Mapping[Plain, ReportRecord], Meta(min_length=1)]
    executors: tuple[Plain, ...] = ("onnxruntime", "portable", "primitive")  # before the entry
    quantisation: QualityRecord | None = None
    emulation: Mapping[Plain, tuple[Plain, ...]] = field(default_factory=dict)


def write_parity(
    folder: Path,
    reference: Reference,
    verdict: Verdict,
    gate: Gate,
    parity_tokens: int,
    quantisation: Mapping[str, Any] | None = None,
    emulation: Mapping[str, tuple[str, ...]] | None = None,
) -> None:
    """Write ``parity.json`` and the reference's vectors into a staged bundle.

    ``parity_tokens`` was the longest document; ``quantisation`` has the figures of a bundle whose
    GEMMs are quantised (of a table alone, the losses of quality are written), ``emulation`` the
    labels of the reports that say what each engine with a plan would compute.
    """
    np.save(folder / REFERENCE_FILE, reference.vectors)
    if reference.chunks is not None:
        np.save(folder / CHUNKS_FILE, reference.chunks)
    record: dict[str, Any] = {
        "texts_sha256": texts_sha256(gate),
        "parity_tokens": parity_tokens,
        "reference_bf16_min_cosine": reference.bf16_min_cosine,
        "executors": verdict.executors,
        "graphs": {label: asdict(report) for label, report in verdict.reports.items()},
    }
    if quantisation is None and gate.gates_quality:
        losses = {label: list(map(asdict, found)) for label, found in verdict.losses.items()}
        quantisation = {"losses": losses, "looks": reference.looks}
    if quantisation is not None:
        record["quantisation"] = dict(quantisation)
    if emulation:
        record["emulation"] = dict(emulation)
    write_json(folder / PARITY_FILE, record)


def read_parity(path: Path) -> ParityRecord:
    """``parity.json``; :class:`InputError` names what is missing or wrong."""
    raw = read_object(path)
    if "int8" in raw:  # its name while INT8 was the only scheme that quantised
        raw["quantisation"] = raw.pop("int8")
    return as_record(raw, ParityRecord, path, _HINT)


def read_vectors(path: Path, shape: tuple[int, int]) -> Vectors:
    """The reference's FP32 vectors; :class:`GateError` where they are not of this shape."""
    try:
        # Mapped: a header that promises more than the file holds takes no memory.
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # its header goes through Python's own parsers
        raise InputError(f"{path}: not an array of numbers; {_HINT}") from error
    if not isinstance(mapped, np.ndarray) or mapped.dtype != np.float32:
        raise InputError(f"{path}: not an array of FP32 numbers; {_HINT}")
    if mapped.shape != shape:
        raise GateError(
            f"{path}: shape {list(mapped.shape)}, expected {list(shape)}, a row for each text"
        )
    vectors: Vectors = np.array(mapped)
    if not np.isfinite(vectors).all():
        raise InputError(f"{path}: holds numbers that are not finite; {_HINT}")
    return vectors
