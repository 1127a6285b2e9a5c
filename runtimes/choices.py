"""The closed choices a bundle is built and run with; they type its manifest."""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING

from runtimes.errors import InputError, shown

if TYPE_CHECKING:
    from typing_extensions import Self

BASE_TASK = "base"  # the model without an adapter
ALL_TASKS = "all"  # every adapter the checkpoint has
TASK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # names become folders


class Choice(str, Enum):
    """A closed choice that knows how to refuse anything else.

    Its ``repr`` is the plain string's, as messages quote it. Python 3.10, which JetPack 6 brings,
    has no StrEnum.
    """

    __str__ = str.__str__
    __format__ = str.__format__  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self.value)

    @classmethod
    def parse(cls, variable: str, value: str, *more: str) -> Self:
        """The member named ``value``; ``more`` are names the caller handles itself."""
        try:
            return cls(value)
        except ValueError as error:
            known = ", ".join([*more, *(member.value for member in cls)])
            raise InputError(f"{variable}: got {shown(value)}, expected one of {known}") from error


class Precision(Choice):
    """The type of weights and matrix products; :mod:`runtimes.schemes` says what each one means."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    FP8 = "fp8"
    INT8W = "int8w"  # the weights alone
    INT4W = "int4w"


class Embeddings(Choice):
    """How the word embeddings' table is stored; :mod:`runtimes.tables` says what each one means."""

    SAME = "same"  # in the type of the rest of the graph
    INT8 = "int8"
    INT4 = "int4"


class Target(Choice):
    """Which executor a bundle is built for."""

    TENSORRT_RTX = "tensorrt_rtx"
    TENSORRT = "tensorrt"
    TENSORRT10 = "tensorrt10"  # a graph and a script; the engine is built on the device
    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"

    @property
    def builds_here(self) -> bool:
        """Whether engines are part of the bundle."""
        return self in (Target.TENSORRT_RTX, Target.TENSORRT)

    @property
    def runs_engine(self) -> bool:
        """Whether an engine runs in the end, built here or on the device."""
        return self not in (Target.ONNXRUNTIME, Target.OPENVINO)


class Device(Choice):
    """Where an executor computes, as PyTorch names it."""

    CPU = "cpu"
    CUDA = "cuda"


_DEVICE = re.compile(r"cpu|cuda(?::(\d{1,3}))?")


def parse_device(value: object) -> tuple[Device, int]:
    """The device and its ordinal: ``cpu``, ``cuda`` (the first GPU), ``cuda:1`` (the second)."""
    found = _DEVICE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise InputError(
            f"device: got {shown(value)}, expected cpu, cuda, or cuda:1 for the second GPU"
        )
    return Device(found[0].partition(":")[0]), int(found[1] or 0)


class Observer(Choice):
    """How a calibration turns what was seen of an activation into its range."""

    MIN_MAX = "min-max"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"
    MSE = "mse"


class Accumulation(Choice):
    """The type in which an engine's fused attention adds up scores and weighted values."""

    FP32 = "fp32"  # as FlashAttention does
    FP16 = "fp16"


class AdapterMode(Choice):
    """How adapters enter the graph."""

    MERGED = "merged"  # one task, added into the weights
    SWITCHABLE = "switchable"  # every task beside the weights, chosen per row by task_id
    SLOT = "slot"  # an empty low-rank slot beside the weights, filled at run time


class Side(Choice):
    """The two sides of a retrieval; the value is the task that was trained for it."""

    QUERY = "retrieval.query"
    PASSAGE = "retrieval.passage"


class Interface(Choice):
    """Which inputs and outputs the graph has."""

    SENTENCE = "sentence"  # task_id [batch]; sentence_embedding [batch, hidden]
    OFFICIAL = "official"  # the official file's: scalar task_id; text_embeds [batch, seq, hidden]


class HeadName(Choice):
    """What is made of the token vectors."""

    SENTENCE = "sentence"  # their mean
    CHUNKS = "chunks"  # means by the input chunk_weights [batch, chunks, sequence]


class OutputType(Choice):
    """What :meth:`Embedder.encode` gives; :mod:`runtimes.outputs` says how it is made."""

    FLOAT32 = "float32"
    INT8 = "int8"
    UINT8 = "uint8"
    BINARY = "binary"  # a bit per value, packed into int8
    UBINARY = "ubinary"  # the same into uint8


class Layout(Choice):
    """Where a bundle's graphs lie, and which clients find them."""

    HUB = "hub"  # in onnx/, as clients of Hugging Face repositories look for them
    FLAT = "flat"  # beside the manifest, but for the official interface's one graph in onnx/


class Unknown(Choice):
    """What becomes of a text with tokens that a bundle of few tokens does not hold."""

    ERROR = "error"
    FALLBACK = "fallback"  # a full bundle embeds it
    REPLACE = "replace"  # the nearest segmentation into tokens that are held


class PlanRule(Choice):
    """What is asked of an engine's compiled plan; :mod:`export.engines.plan_rules` says how."""

    FUSED_ATTENTION = "fused-attention"
    ATTENTION_ACCUMULATOR = "attention-accumulator"
    QUANTISED_PRODUCTS = "quantised-products"
    DEQUANTISED_WEIGHT = "dequantised-weight"
    QUANTISED_TABLE = "quantised-table"
    INT8_OVERFLOW = "int8-overflow"
    FP32_PRODUCT = "fp32-product"
    PRODUCT_WIDTH = "product-width"
    LAUNCHES = "launches"
    MASK = "mask"


class GraphKind(Choice):
    """What a graph in a bundle is for; also its name in the manifest."""

    PORTABLE = "portable"
    ONNXRUNTIME = "onnxruntime"  # on a CPU
    ONNXRUNTIME_CUDA = "onnxruntime_cuda"
    TENSORRT = "tensorrt"
    PRIMITIVE = "primitive"
    OPENVINO = "openvino"  # OpenVINO's own format (IR), on a CPU


class FileKind(Choice):
    """What a file in a bundle is for that is neither a graph nor an engine."""

    WEIGHTS = "weights"
    TOKENIZER = "tokenizer"
    CONFIG = "config"  # of tokenizer and model, for clients that read them
    REFERENCE = "reference"  # the reference's vectors of the gate's texts
    REFERENCE_CHUNKS = "reference_chunks"
    PARITY = "parity"
    PLAN = "plan"  # what the engines execute
    CALIBRATION = "calibration"
    REPORT = "report"
    DEVICE = "device"  # what builds the engine on the device itself
    VOCABULARY = "vocabulary"  # which tokens have a row, where not all do
    FINGERPRINT = "fingerprint"  # what determines its vectors, and canaries


# As the manifest names a file: a graph's, the target of an engine, or any other file's.
ArtifactKind = GraphKind | Target | FileKind
