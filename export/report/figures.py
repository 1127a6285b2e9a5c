"""What the report of a quantised bundle draws, and what ``parity.json`` keeps of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from calibration.evidence import Loss
from calibration.table import Corpus, Setting
from export.gate.compare import ParityReport
from runtimes.choices import AdapterMode, Target
from runtimes.manifest import Quantisation, TableCost, Vocabulary
from runtimes.schemes import SCHEMES, Scheme


@dataclass(frozen=True, kw_only=True)
class RangeFigures:
    """What was seen of a GEMM's input.

    ``maximum`` is the greatest magnitude, ``amplitude`` where that clips, after smoothing by
    ``alpha``.
    """

    alpha: float
    observer: str
    scale: float
    amplitude: float
    maximum: float


@dataclass(frozen=True, kw_only=True)
class GemmFigures:
    """One GEMM of the layers.

    ``work`` is its share of all GEMMs' work, ``precision`` what it runs in, ``reason`` why it is
    not quantised. ``sensitivity`` is the vectors' mean 1 - cosine and ``output_error`` the GEMM's
    own relative error when it alone is quantised, None where that was not measured. ``range`` is
    None where the weight alone is quantised.
    """

    name: str
    work: float
    precision: str
    reason: str | None
    sensitivity: float | None
    output_error: float | None
    range: RangeFigures | None

    @property
    def quantised(self) -> bool:
        """Whether it did not fall back."""
        return self.reason is None


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One that the gate judged: the share of the work quantised, and what was wrong with it.

    ``texts`` were compared by the report that speaks for the target, or by the one that failed.
    ``failure`` is None for the attempt that was published.
    """

    share: float
    texts: int
    min_cosine: float
    mean_cosine: float
    failure: str | None


@dataclass(frozen=True, kw_only=True)
class QuantisationFigures:
    """``summary`` as the manifest has it; ``losses`` of quality by report; all GEMMs in order.

    ``attempts`` are those of the build in their order, the last one published or refused.
    """

    summary: Quantisation
    settings: Mapping[str, Setting]
    corpus: Corpus
    losses: Mapping[str, tuple[Loss, ...]]
    looks: int
    attempts: tuple[Attempt, ...]
    gemms: tuple[GemmFigures, ...]

    @property
    def scheme(self) -> Scheme:
        """What is particular to the precision."""
        return SCHEMES[self.summary.scheme]

    def to_json(self) -> dict[str, object]:
        """``parity.json``'s ``quantisation``, of plain JSON types."""
        fields = asdict(self)
        fields["gemms"] = [gemm | (gemm.pop("range") or {}) for gemm in fields["gemms"]]
        return {**fields.pop("summary"), **fields}


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """A bundle and how its graphs compared, by label, the one that speaks for the target first.

    ``refusal`` is why it was not published; ``vocabulary`` which tokens it holds, None for all;
    ``table_cost`` what its quantised table of embeddings costs alone, None where it has none.
    """

    model: str
    task: str
    target: Target
    adapter: AdapterMode
    reports: Mapping[str, ParityReport]
    quantisation: QuantisationFigures
    refusal: str | None = None
    vocabulary: Vocabulary | None = None
    table_cost: TableCost | None = None

    @property
    def main(self) -> ParityReport:
        """The report that speaks for the target."""
        return self.reports[self.graph]

    @property
    def graph(self) -> str:
        """The label of ``main``."""
        return next(iter(self.reports))
