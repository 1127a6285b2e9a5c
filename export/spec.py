"""What is to be built: closed choices as enums, the build as one frozen specification."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

from runtimes.errors import InputError, shown
from runtimes.tasks import BASE_TASK as BASE_TASK
from runtimes.tasks import TASK_NAME

JINA_TASKS = (
    "retrieval.query",
    "retrieval.passage",
    "separation",
    "classification",
    "text-matching",
)
ALL_TASKS = "all"
CALIBRATION_FOLDER = "calibration"  # beside the bundles of a model
_SM = re.compile(r"sm\d{2,3}")
MAX_RANK = 1024  # of a slot and of an adapter: the published model's width


def check_task_name(source: str, name: object) -> str:
    """``name``, which becomes part of a path; ``source`` says in the message where it stands."""
    if not isinstance(name, str) or not TASK_NAME.fullmatch(name):
        raise InputError(
            f"{source}: got {shown(name)}, expected letters, digits, '.', '_' and '-' only, "
            "at most 64, the first a letter or digit"
        )
    return name


class Choice(StrEnum):
    """A closed choice that knows how to refuse anything else."""

    @classmethod
    def parse(cls, variable: str, value: str, *more: str) -> Self:
        """The member named ``value``; ``more`` are names the caller handles itself."""
        try:
            return cls(value)
        except ValueError as error:
            known = ", ".join([*more, *(member.value for member in cls)])
            raise InputError(f"{variable}: got {shown(value)}, expected one of {known}") from error


class Precision(Choice):
    """The element type of weights and matrix products."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"  # the GEMMs of the layers; the rest as BuildSpec.dtype says

    @property
    def min_cosine(self) -> float:
        """The parity gate: the least cosine to the FP32 reference any text may have."""
        return {"fp32": 0.999999, "fp16": 0.9999, "bf16": 0.999, "int8": 0.99}[self.value]

    @property
    def dtype(self) -> str:
        """The NumPy (and ml_dtypes, and torch) name of the element type."""
        names = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "float16"}
        return names[self.value]

    @property
    def mean_cosine(self) -> float:
        """The least mean over all texts; only INT8's gate asks more of it than of each text."""
        return 0.998 if self is Precision.INT8 else self.min_cosine


class Target(Choice):
    """Which executor a bundle is built for."""

    TENSORRT_RTX = "tensorrt_rtx"
    TENSORRT = "tensorrt"
    TENSORRT10 = "tensorrt10"  # a graph and a script; the engine is built on the device
    ONNXRUNTIME = "onnxruntime"

    @property
    def builds_here(self) -> bool:
        """Whether engines are part of the bundle."""
        return self in (Target.TENSORRT_RTX, Target.TENSORRT)


class Observer(Choice):
    """How a calibration turns what was seen of an activation into its range."""

    MIN_MAX = "min-max"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"
    MSE = "mse"


class AdapterMode(Choice):
    """How adapters enter the graph."""

    MERGED = "merged"  # one task, added into the weights
    SWITCHABLE = "switchable"  # every task beside the weights, chosen per row by task_id
    SLOT = "slot"  # an empty low-rank slot beside the weights, filled at run time


class Interface(Choice):
    """Which inputs and outputs the graph has."""

    SENTENCE = "sentence"  # task_id [batch]; sentence_embedding [batch, hidden]
    OFFICIAL = "official"  # the official file's: scalar task_id; text_embeds [batch, seq, hidden]


class Head(Choice):
    """What is made of the token vectors."""

    SENTENCE = "sentence"  # their mean
    CHUNKS = "chunks"  # means by the input chunk_weights [batch, chunks, sequence]


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
    head: Head = Head.SENTENCE

    @property
    def input_names(self) -> tuple[str, ...]:
        """The graph's inputs in order."""
        names = ["input_ids", "attention_mask"]
        if self.adapter is AdapterMode.SWITCHABLE:
            names.append("task_id")
        if self.head is Head.CHUNKS:
            names.append("chunk_weights")
        return tuple(names)

    @property
    def output_name(self) -> str:
        """The graph's one output."""
        if self.interface is Interface.OFFICIAL:
            return "text_embeds"
        return "chunk_embedding" if self.head is Head.CHUNKS else "sentence_embedding"


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
    """What INT8's ranges come from, and how much of the GEMMs' work may stay out of INT8."""

    data: Path | None = None  # None: the project's own texts
    table: Path | None = None  # a calibration.json to use instead of a new calibration
    texts: int = 256
    observer: Observer = Observer.MIN_MAX
    fallback_max: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.texts <= 100_000:
            raise InputError(f"CALIBRATION_TEXTS: got {self.texts}, expected 1 to 100000")
        if not 0 <= self.fallback_max <= 1:
            raise InputError(
                f"INT8_FALLBACK_MAX: got {self.fallback_max}, expected a share from 0 to 1"
            )


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
    gpus: tuple[str, ...] = ("sm86", "sm89", "sm120")
    limits: Limits = Limits()
    adapter: AdapterMode = AdapterMode.MERGED
    interface: Interface = Interface.SENTENCE
    head: Head = Head.SENTENCE
    rank: int = 16  # of a slot
    workspace_gib: float = 8.0
    parity_tokens: int = 2048  # the longest text of the gate
    profiles: tuple[str, ...] = ()  # of the engines; none: one that spans the limits
    refittable: bool = False  # engines without weights, which the runtime puts in
    name: str | None = None  # the bundle's folder below OUT/model; None: what says the choices
    calibration: CalibrationSpec = CalibrationSpec()  # of INT8

    @property
    def dtype(self) -> str:
        """The element type of the traced graph, as NumPy, ml_dtypes and torch name it.

        An INT8 graph is FP32 elsewhere for a CPU, which has no FP16 products, else FP16.
        """
        if self.precision is Precision.INT8 and self.target is Target.ONNXRUNTIME:
            return Precision.FP32.dtype
        return self.precision.dtype

    def __post_init__(self) -> None:
        check_task_name("TASK", self.task)
        if self.name is not None:
            self._check_name(self.name)
        if self.adapter_path is not None and self.task == BASE_TASK:
            raise InputError("ADAPTER_PATH: TASK=base names no adapter; give yours a name")
        if self.target is not Target.ONNXRUNTIME and not self.gpus:
            raise InputError("GPU: the list is empty; name at least one, for example GPU=sm89")
        for gpu in self.gpus:
            if not _SM.fullmatch(gpu):
                raise InputError(
                    f"GPU: got {shown(gpu)}, expected a name such as sm86, sm89 or sm120"
                )
        if not 1 <= self.rank <= MAX_RANK:
            raise InputError(f"RANK: got {self.rank}, expected 1 to {MAX_RANK}")
        if self.parity_tokens < 1:
            raise InputError(f"PARITY_TOKENS: got {self.parity_tokens}, expected at least 1")
        if self.refittable and not (self.target.builds_here and self.adapter is AdapterMode.MERGED):
            raise InputError("--refittable: is for engines of merged adapters (TARGET=tensorrt or "
                             "tensorrt_rtx, ADAPTER=merged)")  # fmt: skip
        ranges = self.calibration.data or self.calibration.table
        if ranges and self.precision is not Precision.INT8:
            raise InputError(f"CALIBRATION_DATA and CALIBRATION are for PRECISION=int8, got "
                             f"PRECISION={self.precision}")  # fmt: skip
        if self.workspace_gib <= 0:
            raise InputError(f"WORKSPACE: got {self.workspace_gib} GiB, expected more than 0")

    def _check_name(self, name: str) -> None:
        if self.task == ALL_TASKS and self.adapter is not AdapterMode.SWITCHABLE:
            raise InputError("NAME: TASK=all builds several bundles; leave NAME out, or build one")
        if not TASK_NAME.fullmatch(name) or name == CALIBRATION_FOLDER:
            raise InputError(
                f"NAME: got {shown(name)}, expected letters, digits, '.', '_' and '-' only, not "
                f"{CALIBRATION_FOLDER}, where calibrations are kept"
            )
