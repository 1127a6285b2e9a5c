"""Everything that is particular to a precision: one row of ``SCHEMES`` each.

The rest of the code asks the row and never a precision's name. A new precision is a member of
:class:`runtimes.choices.Precision`, a row here, and the arithmetic of its storage type in
:mod:`calibration.quantise`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from runtimes.choices import Precision, Target


@dataclass(frozen=True, kw_only=True)
class Storage:
    """The type in which a quantised GEMM's two operands are stored, or its weight alone.

    ``dtype`` as NumPy (with ml_dtypes) names it; ``levels`` is what the amplitude, the clipping
    limit of a tensor, is stored as: scale = amplitude / levels. A weight ``[K, N]`` has a scale per
    output channel, or with ``weight_axis`` None one alone.

    ``weight_only``: the activation is not quantised, and the weight lies as ``[N, K]``. Each
    ``block`` numbers of a channel then have a scale, None: all K of them. ``clips`` are the shares
    of a block's greatest magnitude that are tried as its amplitude.
    """

    dtype: str
    levels: int
    weight_axis: int | None = 1
    weight_only: bool = False
    block: int | None = None
    clips: tuple[float, ...] = (1.0,)

    @property
    def name(self) -> str:
        """What a calibration says it was made for."""
        return f"{self.dtype} weights" if self.weight_only else self.dtype


INT8 = Storage(dtype="int8", levels=127)
# E4M3 without infinities. One scale per weight: its product with the activation's is one number,
# by which a GPU's product is multiplied before it is rounded, and a float needs no more.
FP8 = Storage(dtype="float8_e4m3fn", levels=448, weight_axis=None)
# No blocks: TensorRT-RTX 1.7.1 multiplies INT8 weights as they are stored with a scale per channel
# only; one with blocks it makes FP16 again in every call.
INT8W = Storage(dtype="int8", levels=127, weight_only=True)
BLOCKS = (32, 64, 128)  # the first by default: it has the least error, at 4.5 bits a number
# Clipping at the best of these takes away a sixth of the error of the sample's vectors.
INT4W = Storage(
    dtype="int4",
    levels=7,
    weight_only=True,
    block=BLOCKS[0],
    clips=tuple(1 - 0.04 * step for step in range(11)),
)


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """One precision.

    ``dtype`` is the element type of the traced graph (weights, products and activations that are
    not quantised), as NumPy, ml_dtypes and torch name it; ``cpu_dtype`` the one where the target
    is ONNX Runtime on a CPU. ``openvino_type`` is that in which OpenVINO multiplies (its
    INFERENCE_PRECISION_HINT); None where something is quantised, of which the type of the rest
    is a choice of its own.

    ``min_cosine`` is the parity gate: the least cosine to the FP32 reference that any text may
    have; ``mean_cosine`` the least mean over all texts. ``max_score_change`` is the most by which
    means of benchmark scores may differ from the reference's (``adaptrt eval --gate``).
    """

    precision: Precision
    dtype: str
    cpu_dtype: str
    openvino_type: str | None
    min_cosine: float
    mean_cosine: float
    storage: Storage | None = None  # of the layers' GEMMs; None: nothing is quantised
    needs_calibration: bool = False  # the ranges of activations are measured on texts
    gates_quality: bool = False  # held-back texts and quality too, also at the least dimensions
    integer_products: bool = False  # slow on x86 CPUs without VNNI
    runs_on_cpu: bool = True  # ONNX Runtime's CPU provider has kernels for the portable graph
    max_score_change: float = 2e-3
    slot_refusal: str | None = None  # why no bundle of this precision has an adapter slot
    targets: tuple[Target, ...] = tuple(Target)  # whose executors multiply the stored type
    least_sm: int = 0  # the first GPU architecture that does: 89 is sm89
    blocks: tuple[int, ...] = ()  # what ``storage.block`` may be instead
    eases_to: Precision | None = None  # of GEMMs too sensitive for this one, before ``dtype``

    @property
    def operands(self) -> Storage:
        """``storage`` of a scheme that quantises; :class:`ValueError` where nothing is."""
        if self.storage is None:
            raise ValueError(f"{self.precision} quantises nothing")
        return self.storage

    @property
    def weight_only(self) -> bool:
        """Whether weights are quantised and activations are not."""
        return self.storage is not None and self.storage.weight_only

    def with_block(self, block: int | None) -> Scheme:
        """The scheme with blocks of another length; None leaves its own."""
        if block is None:
            return self
        return replace(self, storage=replace(self.operands, block=block))

    @property
    def engines(self) -> str:
        """``targets`` as a message names them."""
        return " or ".join(self.targets)

    def fits(self, gpu: str) -> bool:
        """Whether an architecture, such as "sm89", multiplies the stored type."""
        return int(gpu.removeprefix("sm")) >= self.least_sm

    @property
    def label(self) -> str:
        """The precision in headings and messages: "INT8"."""
        return self.precision.value.upper()

    def dtype_for(self, target: Target, rest: Precision | None = None) -> str:
        """The element type of the traced graph of a bundle for ``target``.

        ``rest`` is the precision of what is not quantised, where that is a choice.
        """
        if rest is not None:
            return SCHEMES[rest].dtype
        return self.cpu_dtype if target is Target.ONNXRUNTIME else self.dtype


_RANGES = (
    "ranges cannot know the adapter that will fill the slot; use fp32 or fp16, or build your "
    "adapter in with ADAPTER_PATH"
)
# The parser of TensorRT 10.3, JetPack's, knows no blocks.
_WEIGHT_ONLY = (Target.TENSORRT_RTX, Target.TENSORRT, Target.ONNXRUNTIME)
SCHEMES: Mapping[Precision, Scheme] = {
    scheme.precision: scheme
    for scheme in (
        Scheme(
            precision=Precision.FP32,
            dtype="float32",
            cpu_dtype="float32",
            openvino_type="f32",
            min_cosine=0.999999,
            mean_cosine=0.999999,
            max_score_change=1e-4,
        ),
        Scheme(
            precision=Precision.FP16,
            dtype="float16",
            cpu_dtype="float16",
            openvino_type="f32",  # half-precision weights; a CPU has no FP16 products
            min_cosine=0.9999,
            mean_cosine=0.9999,
            max_score_change=1e-4,
        ),
        Scheme(
            precision=Precision.BF16,
            dtype="bfloat16",
            cpu_dtype="bfloat16",
            openvino_type="bf16",
            min_cosine=0.999,
            mean_cosine=0.999,
            runs_on_cpu=False,
            slot_refusal="ONNX Runtime adapter files hold no BF16; use fp32 or fp16",
        ),
        Scheme(
            precision=Precision.INT8,
            dtype="float16",
            cpu_dtype="float32",  # a CPU has no FP16 products
            openvino_type=None,
            min_cosine=0.99,
            mean_cosine=0.998,
            storage=INT8,
            needs_calibration=True,
            gates_quality=True,
            integer_products=True,
            slot_refusal=f"INT8's {_RANGES}",
        ),
        Scheme(
            precision=Precision.FP8,
            dtype="float16",
            cpu_dtype="float32",
            openvino_type=None,
            min_cosine=0.995,
            mean_cosine=0.999,
            storage=FP8,
            needs_calibration=True,
            gates_quality=True,
            slot_refusal=f"FP8's {_RANGES}",
            targets=(Target.TENSORRT_RTX, Target.TENSORRT),
            least_sm=89,
        ),
        Scheme(
            precision=Precision.INT8W,
            dtype="float16",
            cpu_dtype="float32",
            openvino_type=None,
            min_cosine=0.9999,
            mean_cosine=0.9999,
            storage=INT8W,
            needs_calibration=True,
            gates_quality=True,
            targets=_WEIGHT_ONLY,
        ),
        Scheme(
            precision=Precision.INT4W,
            dtype="float16",
            cpu_dtype="float32",
            openvino_type=None,
            min_cosine=0.99,
            mean_cosine=0.995,
            storage=INT4W,
            needs_calibration=True,
            gates_quality=True,
            targets=_WEIGHT_ONLY,
            blocks=BLOCKS,
            eases_to=Precision.INT8W,
        ),
    )
}


def openvino_products(precision: Precision, rest: Precision | None) -> str:
    """The type in which OpenVINO makes the products that are not quantised: ``f32`` or ``bf16``."""
    if (products := SCHEMES[rest or precision].openvino_type) is None:
        raise ValueError(f"{precision}: OpenVINO needs the precision of what is not quantised")
    return products


STORAGES = {s.storage.name: s.storage for s in SCHEMES.values() if s.storage is not None}
# What may stand beside quantised products in OpenVINO.
RESTS = (Precision.BF16, Precision.FP32)
CALIBRATED = tuple(p for p, scheme in SCHEMES.items() if scheme.needs_calibration)
# Of which activations are observed too.
RANGED = tuple(p for p in CALIBRATED if not SCHEMES[p].weight_only)
BLOCKED = tuple(p for p, scheme in SCHEMES.items() if scheme.blocks)
