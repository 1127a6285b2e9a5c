"""What is to be built: closed choices as enums, the build as one frozen specification."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from calibration.sources import TEXT_COLUMN
from runtimes.bundle_files import CALIBRATION_FOLDER
from runtimes.choices import (
    ALL_TASKS,
    BASE_TASK,
    TASK_NAME,
    Accumulation,
    AdapterMode,
    Embeddings,
    HeadName,
    Interface,
    Layout,
    Observer,
    PlanRule,
    Precision,
    Target,
    Unknown,
)
from runtimes.combinations import Combination, refused_by
from runtimes.errors import InputError, shown
from runtimes.heads import graph_inputs, head_of
from runtimes.schemes import BLOCKED, CALIBRATED, RANGED, SCHEMES, Scheme
from runtimes.tensors import Tensor

_SM = re.compile(r"sm\d{2,3}")
RTX_GPUS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")  # of TensorRT-RTX 1.7
MAX_RANK = 1024  # of a slot and of an adapter: the published model's width


def check_task_name(source: str, name: object) -> str:
    """``name``, which becomes part of a path; ``source`` says in the message where it stands."""
    if not isinstance(name, str) or not TASK_NAME.fullmatch(name):
        raise InputError(
            f"{source}: got {shown(name)}, expected letters, digits, '.', '_' and '-' only, "
            "at most 64, the first a letter or digit"
        )
    return name


@dataclass(frozen=True)
class GraphForm:
    """What the traced graph looks like beside its architecture and element type.

    ``rank`` is the width of the low-rank path beside every linear layer (all adapters' ranks
    together, or the slot's), ``embedding_rank`` of that beside the embedding tables.
    """

    adapter: AdapterMode = AdapterMode.MERGED
    interface: Interface = Interface.SENTENCE
    rank: int = 0
    embedding_rank: int = 0
    head: HeadName = HeadName.SENTENCE
    kept_rows: int = 0  # of the word embeddings; 0: a row for every token

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The graph's inputs in order."""
        return graph_inputs(self.adapter, self.interface, self.head)

    @property
    def output(self) -> Tensor:
        """The graph's one output."""
        return head_of(self.interface, self.head).output


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The dynamic shapes a bundle accepts: batch 1…max_batch, sequence 1…max_tokens."""

    max_batch: int = 32
    max_tokens: int = 8192

    def __post_init__(self) -> None:
        for name, value in (("MAX_BATCH", self.max_batch), ("MAX_TOKENS", self.max_tokens)):
            if value < 1:
                raise InputError(f"{name}: got {value}, expected at least 1")
        if self.max_tokens < 16:
            raise InputError(f"MAX_TOKENS: got {self.max_tokens}, expected at least 16")


@dataclass(frozen=True, kw_only=True)
class CalibrationSpec:
    """What a quantised build's ranges come from, and how much of the GEMMs' work may fall back."""

    data: Path | None = None  # None: the project's own texts
    column: str = TEXT_COLUMN  # of data, where it has columns
    table: Path | None = None  # a calibration.json to use instead of a new calibration
    texts: int = 256
    observer: Observer = Observer.MIN_MAX
    fallback_max: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.texts <= 100_000:
            raise InputError(f"CALIBRATION_TEXTS: got {self.texts}, expected 1 to 100000")
        if self.data is None and self.column != TEXT_COLUMN:
            raise InputError(
                f"CALIBRATION_COLUMN: got {shown(self.column)} without CALIBRATION_DATA, which has "
                "the column; name both"
            )
        if not 0 <= self.fallback_max <= 1:
            raise InputError(
                f"INT8_FALLBACK_MAX: got {self.fallback_max}, expected a share from 0 to 1"
            )


@dataclass(frozen=True, kw_only=True)
class VocabularySpec:
    """Which tokens are kept: those that texts use, and what becomes of texts with others."""

    source: str  # a file, language codes separated by commas, or "texts": those of the calibration
    min_count: int = 1
    unknown: Unknown = Unknown.ERROR

    def __post_init__(self) -> None:
        if self.min_count < 1:
            raise InputError(f"VOCABULARY_MIN_COUNT: got {self.min_count}, expected at least 1")


@dataclass(frozen=True, kw_only=True)
class BuildSpec:
    """One bundle to build. Every field is concrete: "auto" was resolved before."""

    model: str
    task: str
    precision: Precision
    target: Target
    out: Path
    revision: str | None = None
    adapter_path: Path | None = None
    requested_target: str = "auto"
    rest: Precision | None = None  # of what is not quantised, where OpenVINO runs it
    block: int | None = None  # numbers of a weight that share a scale, where the scheme has blocks
    embeddings: Embeddings = Embeddings.SAME
    gpus: tuple[str, ...] = ("sm86", "sm89", "sm120")
    limits: Limits = Limits()
    adapter: AdapterMode = AdapterMode.MERGED
    interface: Interface = Interface.SENTENCE
    head: HeadName = HeadName.SENTENCE
    layout: Layout = Layout.FLAT
    rank: int = 16  # of a slot
    workspace_gib: float = 8.0
    device: str | None = None  # the Jetson that it has to fit on
    parity_tokens: int = 2048  # the longest text of the gate
    profiles: tuple[str, ...] = ()  # of the engines; none: one that spans the limits
    allow_plan: tuple[PlanRule, ...] = ()  # rules that the engines' plans may break
    attention_accumulation: Accumulation = Accumulation.FP32  # of FP16 engines
    refittable: bool = False  # engines without weights, which the runtime puts in
    name: str | None = None  # the bundle's folder below OUT/model; None: what says the choices
    calibration: CalibrationSpec = CalibrationSpec()  # where the precision needs one
    vocabulary: VocabularySpec | None = None  # None: every token

    @property
    def scheme(self) -> Scheme:
        """What is particular to the precision."""
        return SCHEMES[self.precision].with_block(self.block)

    @property
    def blocks(self) -> str:
        """What BLOCK may be, as a message names it."""
        return " or ".join(map(str, SCHEMES[self.precision].blocks))

    @property
    def dtype(self) -> str:
        """The element type of the traced graph, as NumPy, ml_dtypes and torch name it."""
        return self.scheme.dtype_for(self.target, self.rest)

    @property
    def unfit_gpus(self) -> tuple[str, ...]:
        """The architectures of the list that do not multiply the precision."""
        return tuple(gpu for gpu in self.gpus if not self.scheme.fits(gpu))

    @property
    def fitting_gpus(self) -> str:
        """Those of RTX cards that do, as a message names them."""
        return ", ".join(filter(self.scheme.fits, RTX_GPUS))

    @property
    def combination(self) -> Combination:
        """The choices that depend on each other."""
        return Combination(
            precision=self.precision,
            target=self.target,
            adapter=self.adapter,
            interface=self.interface,
            head=self.head,
            layout=self.layout,
            rest=self.rest,
            embeddings=self.embeddings,
            pruned=self.vocabulary is not None,
        )

    def __post_init__(self) -> None:
        check_task_name("TASK", self.task)
        if self.name is not None and (
            not TASK_NAME.fullmatch(self.name) or self.name == CALIBRATION_FOLDER
        ):
            raise InputError(
                f"NAME: got {shown(self.name)}, expected letters, digits, '.', '_' and '-' only, "
                f"not {CALIBRATION_FOLDER}, where calibrations are kept"
            )
        for gpu in self.gpus:
            if not _SM.fullmatch(gpu):
                raise InputError(
                    f"GPU: got {shown(gpu)}, expected a name such as sm86, sm89 or sm120"
                )
        if not 1 <= self.rank <= MAX_RANK:
            raise InputError(f"RANK: got {self.rank}, expected 1 to {MAX_RANK}")
        if self.parity_tokens < 1:
            raise InputError(f"PARITY_TOKENS: got {self.parity_tokens}, expected at least 1")
        if self.workspace_gib <= 0:
            raise InputError(f"WORKSPACE: got {self.workspace_gib} GiB, expected more than 0")
        if self.block is not None and self.block not in SCHEMES[self.precision].blocks:
            raise InputError(
                f"BLOCK: got {self.block}, expected {self.blocks}"
                if self.blocks
                else f"BLOCK: is for PRECISION={' or '.join(BLOCKED)}, got PRECISION="
                f"{self.precision}, which has no blocks; leave BLOCK out"
            )
        if (rule := refused_by(self.combination)) is not None:
            raise InputError(rule.advice.format(c=self.combination))
        for refuses, message in _OPTIONS:
            if refuses(self):
                raise InputError(message.format(spec=self))


# Options that are for some builds only: where each is refused, and what is said.
_OPTIONS: tuple[tuple[Callable[[BuildSpec], bool], str], ...] = (
    (
        lambda spec: (
            spec.name is not None
            and spec.task == ALL_TASKS
            and spec.adapter is not AdapterMode.SWITCHABLE
        ),
        "NAME: TASK=all builds several bundles; leave NAME out, or build one",
    ),
    (
        lambda spec: spec.adapter_path is not None and spec.task == BASE_TASK,
        "ADAPTER_PATH: TASK=base names no adapter; give yours a name",
    ),
    (
        lambda spec: spec.target.runs_engine and not spec.gpus,
        "GPU: the list is empty; name at least one, for example GPU=sm89",
    ),
    (
        lambda spec: spec.target.builds_here and bool(spec.unfit_gpus),
        "GPU: {spec.unfit_gpus[0]} multiplies no {spec.scheme.label}; PRECISION={spec.precision} "
        "is for sm{spec.scheme.least_sm} and newer, of RTX cards {spec.fitting_gpus}",
    ),
    (
        lambda spec: (
            spec.refittable and not (spec.target.builds_here and spec.adapter is AdapterMode.MERGED)
        ),
        "--refittable: is for engines of merged adapters (TARGET=tensorrt or tensorrt_rtx, "
        "ADAPTER=merged)",
    ),
    (
        lambda spec: (
            spec.attention_accumulation is Accumulation.FP16
            and not (spec.target.builds_here and spec.dtype == "float16")
        ),
        "ATTENTION_ACCUMULATION=fp16: is for engines whose attention is FP16 (TARGET=tensorrt or "
        "tensorrt_rtx, not PRECISION=fp32 or bf16)",
    ),
    (
        lambda spec: spec.refittable and spec.scheme.needs_calibration,
        "--refittable: PRECISION={spec.precision} has one task's scales in its graph, which stay "
        "in the engine and do not fit another task's weights; use "
        f"{' or '.join(p for p in Precision if p not in CALIBRATED)}",
    ),
    (
        lambda spec: spec.refittable and spec.embeddings is not Embeddings.SAME,
        "--refittable: no refit of a quantised table was ever seen to work; leave EMBEDDINGS or "
        "--refittable out",
    ),
    (
        lambda spec: spec.refittable and spec.vocabulary is not None,
        "--refittable: a refit puts the weights of the whole vocabulary into the engine; leave "
        "VOCABULARY or --refittable out",
    ),
    (
        lambda spec: bool(spec.allow_plan) and not spec.target.builds_here,
        "--allow-plan: is for bundles with engines (TARGET=tensorrt or tensorrt_rtx), got "
        "TARGET={spec.target}",
    ),
    (
        lambda spec: (
            not spec.scheme.needs_calibration
            and bool(spec.calibration.data or spec.calibration.table)
        ),
        f"CALIBRATION_DATA and CALIBRATION are for PRECISION={' or '.join(CALIBRATED)}, got "
        "PRECISION={spec.precision}",
    ),
    (
        lambda spec: spec.scheme.weight_only and spec.calibration.observer is not Observer.MIN_MAX,
        f"OBSERVER: is for PRECISION={' or '.join(RANGED)}, which have ranges of activations, got "
        "PRECISION={spec.precision}; leave OBSERVER out",
    ),
)
