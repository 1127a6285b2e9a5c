"""What every bundle of a build needs, read and checked before work begins."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

from export.build.requirements import check_installed
from export.checkpoint.identity import model_sha256
from export.checkpoint.reader import Checkpoint, open_checkpoint
from export.checkpoint.source import Source, resolve
from export.console.progress import stage
from export.engines.builder import check_gpus
from export.engines.profiles import engine_profiles
from export.engines.reuse import EngineSource
from export.gate.texts import parity_lines
from export.graph.gemms import gemm_modules
from export.spec import BuildSpec
from export.vocabulary.choose import Chosen, choose
from runtimes.bundle_files import TOKENIZER_FILE
from runtimes.choices import Target
from runtimes.errors import InputError, MissingError
from runtimes.executors.tensorrt.cuda import device_sm
from runtimes.executors.tensorrt.library import check_release, load_tensorrt
from runtimes.schemes import openvino_products
from runtimes.text.tokens import TextTokenizer

_LEAST_BLOCK = 16  # that MatMulNBits takes, where a channel has no blocks of its own


@dataclass(frozen=True)
class BuildInputs:
    """What every bundle of one build shares.

    ``sha256`` is the model's; ``trt`` the TensorRT flavour that builds engines, None where none
    are built; ``engines`` those that are taken over instead; ``vocabulary`` the tokens that are
    kept, None where all are.
    """

    spec: BuildSpec
    source: Source
    checkpoint: Checkpoint
    tokenizer: TextTokenizer
    sha256: str
    trt: ModuleType | None
    engines: EngineSource | None
    vocabulary: Chosen | None = None


def open_build(spec: BuildSpec, engines: EngineSource | None = None) -> BuildInputs:
    """Check everything that can be checked before work begins, and before torch is loaded.

    ``engines`` are taken over instead of built.
    """
    check_installed()
    if spec.target is Target.OPENVINO:
        _require_openvino(spec)
    with stage("checkpoint"):
        return _open(spec, engines)


def _require_openvino(spec: BuildSpec) -> None:
    """The gate runs in OpenVINO on this CPU, so it has to have both."""
    from runtimes.executors.openvino_cpu import require_types

    products = openvino_products(spec.precision, spec.rest)
    require_types(products, integer_products=spec.scheme.integer_products)


def _require_blocks(spec: BuildSpec, checkpoint: Checkpoint) -> None:
    """Every weight can be cut into the blocks that it is stored in."""
    if not spec.scheme.weight_only:
        return
    rows = sorted({module.rows for module in gemm_modules(checkpoint.config).values()})
    step = spec.block or _LEAST_BLOCK
    if not (odd := [size for size in rows if size % step]):
        return
    fitting = [b for b in spec.scheme.blocks if not any(size % b for size in rows)]
    use = f"BLOCK={fitting[-1]}" if fitting else "PRECISION=int8 or fp16"
    raise InputError(
        f"BLOCK: got {step}, which does not divide {odd[0]}, what a matrix of the model adds up "
        f"over; use {use}"
    )


def _open(spec: BuildSpec, engines: EngineSource | None) -> BuildInputs:
    source = resolve(spec.model, spec.revision)
    checkpoint = open_checkpoint(
        source.folder,
        name=source.name,
        revision=source.revision,
        adapter_path=spec.adapter_path,
        adapter_task=spec.task,
    )
    if spec.limits.max_tokens > checkpoint.config.max_tokens:
        raise InputError(
            f"MAX_TOKENS: got {spec.limits.max_tokens}, the model's positions end at "
            f"{checkpoint.config.max_tokens}"
        )
    _require_blocks(spec, checkpoint)
    tokenizer = TextTokenizer(
        source.folder / TOKENIZER_FILE,
        max_tokens=spec.limits.max_tokens,
        pad_id=checkpoint.config.pad_id,
        vocab=checkpoint.config.vocab,
    )
    chosen = _vocabulary(spec, checkpoint, tokenizer)
    engine_profiles(spec.profiles, spec.limits)
    trt = None
    if spec.target.builds_here and engines is None:
        trt = load_tensorrt(spec.target)
        check_release(trt, spec.target)
        if spec.target is Target.TENSORRT_RTX:
            check_gpus(trt, spec.gpus)
        if spec.refittable and device_sm() is None:
            raise MissingError(
                "--refittable: TensorRT compiles the code that puts weights in on a GPU, and no "
                "NVIDIA GPU is visible; build it where one is, then `adaptrt refit` needs none"
            )
    sha256 = model_sha256(checkpoint)
    return BuildInputs(spec, source, checkpoint, tokenizer, sha256, trt, engines, chosen)


def _vocabulary(spec: BuildSpec, checkpoint: Checkpoint, tokenizer: TextTokenizer) -> Chosen | None:
    """The tokens to keep, which ``tokenizer`` is told; None where all are."""
    if spec.vocabulary is None:
        return None
    more: dict[str, list[str]] = {}
    for line in parity_lines():
        more.setdefault(line["language"], []).append(line["text"])
    chosen = choose(spec.calibration, spec.vocabulary, tokenizer, checkpoint.config, more)
    tokenizer.kept = chosen.kept
    return chosen
