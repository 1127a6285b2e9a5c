"""From what was asked for to what is built: "auto", names and lists become concrete."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import TypeVar

from export.checkpoint.source import SAMPLE
from export.console.progress import log
from export.devices import find_device
from export.request import AUTO, CPU, BuildRequest
from export.spec import BuildSpec, CalibrationSpec, Limits, VocabularySpec
from runtimes.choices import (
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
from runtimes.combinations import fits_hub, has_rest
from runtimes.cpu_kinds import CpuKind, cpu_kind, read_cpu
from runtimes.errors import InputError, MissingError, shown
from runtimes.executors.tensorrt.cuda import device_sm
from runtimes.schemes import CALIBRATED, RESTS, SCHEMES, Scheme

T = TypeVar("T")


def engine_spec(request: BuildRequest) -> BuildSpec:
    """What ``adaptrt engine`` builds. Raises :class:`InputError` for a choice there is not.

    Raises :class:`MissingError` where the target needs a GPU that is not there.
    """
    _announce_sample(request)
    request = fill_in_device(request)
    name, precision = resolve_on_cpu(request.target, request.precision)
    target, gpus = resolve_target(name, resolve_gpus(request.gpu, SCHEMES[precision]))
    spec = _spec(request, precision, target, gpus)
    log.info("target: %s (asked for: %s)", target, request.target)
    if spec.rest is not None:
        log.info("not quantised: %s (REST)", spec.rest.value)
    if target is Target.TENSORRT_RTX and gpus != BuildSpec.gpus and _is_auto(request.gpu):
        log.info("GPU: %s, which multiply %s", ", ".join(gpus), spec.scheme.label)
    return spec


def calibration_spec(request: BuildRequest) -> BuildSpec:
    """What ``adaptrt calibrate`` works on: a quantised graph for ONNX Runtime, without TensorRT.

    The command is for the first scheme that needs ranges; a build of any other measures its own.
    """
    _announce_sample(request)
    return _spec(request, CALIBRATED[0], Target.ONNXRUNTIME, BuildSpec.gpus)


def _spec(
    request: BuildRequest, precision: Precision, target: Target, gpus: tuple[str, ...]
) -> BuildSpec:
    adapter = AdapterMode.parse("ADAPTER", request.adapter)
    head = HeadName.parse("HEAD", request.head)
    return BuildSpec(
        model=request.model or str(SAMPLE),
        revision=request.revision,
        task=request.task,
        precision=precision,
        target=target,
        requested_target=request.target,
        gpus=gpus,
        adapter_path=request.adapter_path,
        limits=Limits(
            max_batch=_given(request.max_batch, Limits.max_batch),
            max_tokens=_given(request.max_tokens, Limits.max_tokens),
        ),
        device=request.device,
        adapter=adapter,
        interface=Interface.parse("INTERFACE", request.interface),
        head=head,
        layout=resolve_layout(request.layout, adapter, head, pruned=request.vocabulary is not None),
        rest=resolve_rest(request.rest, precision, target),
        block=resolve_block(request.block, precision),
        embeddings=Embeddings.parse("EMBEDDINGS", request.embeddings),
        rank=request.rank,
        workspace_gib=_given(request.workspace, _workspace(target)),
        parity_tokens=request.parity_tokens,
        profiles=_listed(_given(request.profiles, "")),
        allow_plan=tuple(PlanRule.parse("ALLOW_PLAN", n) for n in _listed(request.allow_plan)),
        attention_accumulation=Accumulation.parse(
            "ATTENTION_ACCUMULATION", request.attention_accumulation
        ),
        refittable=request.refittable,
        name=request.name,
        out=request.out,
        calibration=CalibrationSpec(
            data=request.calibration_data,
            column=request.calibration_column,
            table=request.calibration,
            texts=request.calibration_texts,
            observer=Observer.parse("OBSERVER", request.observer),
            fallback_max=request.int8_fallback_max,
        ),
        vocabulary=resolve_vocabulary(request),
    )


def resolve_vocabulary(request: BuildRequest) -> VocabularySpec | None:
    """Which tokens are kept; None for all of them."""
    count, unknown = request.vocabulary_min_count, request.unknown
    if request.vocabulary is None:
        for name, value in (("VOCABULARY_MIN_COUNT", count), ("UNKNOWN", unknown)):
            if value is not None:
                raise InputError(f"{name}: got {shown(value)} without VOCABULARY; name both")
        return None
    return VocabularySpec(
        source=request.vocabulary,
        min_count=VocabularySpec.min_count if count is None else count,
        unknown=VocabularySpec.unknown if unknown is None else Unknown.parse("UNKNOWN", unknown),
    )


def fill_in_device(request: BuildRequest) -> BuildRequest:
    """The request with what its device's row says of whatever was not given.

    Raises :class:`InputError` for an unknown device, and for a target or precision that is not for
    one.
    """
    if request.device is None:
        return request
    device = find_device(request.device)
    if request.target not in (AUTO, Target.TENSORRT10):
        raise InputError(
            f"DEVICE={device.name}: is for TARGET={Target.TENSORRT10}, got TARGET="
            f"{request.target}; leave one of them out"
        )
    precision = Precision.parse("PRECISION", request.precision)
    if not SCHEMES[precision].fits(device.sm):
        raise InputError(
            f"DEVICE={device.name}: {device.sm} multiplies no {SCHEMES[precision].label}; use "
            "PRECISION=fp16 or int8"
        )
    filled = {
        field: getattr(device, field)
        for field in ("max_batch", "max_tokens", "profiles", "workspace")
        if getattr(request, field) is None
    }
    if "profiles" in filled and filled.get("max_tokens") != device.max_tokens:
        filled["profiles"] = ""  # of other limits; named profiles may not take all of them
    log.info("%s: %s", device.label, ", ".join(f"{k.upper()}={v}" for k, v in filled.items()))
    return replace(request, target=Target.TENSORRT10, **filled)


def _given(value: T | None, usual: T) -> T:
    return usual if value is None else value


def _workspace(target: Target) -> float:
    """GiB that the builder may use; a device's has less."""
    return 2.0 if target is Target.TENSORRT10 else BuildSpec.workspace_gib


def resolve_on_cpu(target: str, precision: str) -> tuple[str, Precision]:
    """``cpu`` and the precision ``auto`` as this machine's CPU has them; others as they were asked.

    Raises :class:`InputError` for ``auto`` with a target that is not for CPUs.
    """
    if target != CPU and precision != AUTO:
        return target, Precision.parse("PRECISION", precision, AUTO)
    kind = cpu_kind(read_cpu())
    if precision == AUTO:
        chosen = _precision_on(kind, target)
    else:
        chosen = Precision.parse("PRECISION", precision, AUTO)
    name = kind.target_for(chosen).value if target == CPU else target
    log.info("CPU: %s; built for %s in %s (%s)", kind.label, name, chosen.value, kind.basis)
    if SCHEMES[chosen].integer_products and kind.int8 is None:
        log.info("CPU: INT8 is not recommended on it; %s is", kind.floats)
    return name, chosen


def _precision_on(kind: CpuKind, target: str) -> Precision:
    """The float precision that is recommended on a CPU."""
    if target == CPU:
        return kind.floats.precision
    if target == AUTO or Target.parse("TARGET", target, AUTO, CPU).runs_engine:
        known = ", ".join([CPU, *(name for name in Target if not name.runs_engine)])
        raise InputError(
            f"PRECISION=auto: got TARGET={target}, expected one that is for CPUs ({known}); name "
            "a precision, or add TARGET=cpu"
        )
    return kind.precision_for(Target(target))


def resolve_gpus(gpu_list: str, scheme: Scheme) -> str:
    """The list of architectures; ``auto`` is the usual ones, or of those what the scheme fits."""
    return ",".join(filter(scheme.fits, BuildSpec.gpus)) if _is_auto(gpu_list) else gpu_list


def _is_auto(gpu_list: str) -> bool:
    return gpu_list.strip().lower() == AUTO


def resolve_target(name: str, gpu_list: str) -> tuple[Target, tuple[str, ...]]:
    """The concrete target and GPU list.

    ``auto`` is full TensorRT where its library and a GPU are there, else TensorRT-RTX. Full
    TensorRT builds for the GPU that is present, whatever the list says.
    """
    gpus = tuple(dict.fromkeys(_listed(gpu_list.lower())))
    if name == AUTO:
        library = importlib.util.find_spec("tensorrt") is not None
        name = Target.TENSORRT if library and device_sm() else Target.TENSORRT_RTX
    target = Target.parse("TARGET", name, AUTO, CPU)
    if target is Target.TENSORRT:
        present = device_sm()
        if present is None:
            raise MissingError(
                "TARGET=tensorrt builds on the GPU it is for, and no NVIDIA GPU is visible "
                "(driver or cuda-python missing); use TARGET=tensorrt_rtx for RTX GPUs, which "
                "builds without one"
            )
        return target, (present,)
    return target, gpus


def resolve_layout(
    name: str, adapter: AdapterMode, head: HeadName, *, pruned: bool = False
) -> Layout:
    """The concrete layout; ``auto`` is ``hub`` for every bundle that hub clients understand."""
    if name == AUTO:
        return Layout.HUB if fits_hub(adapter, head, pruned=pruned) else Layout.FLAT
    return Layout.parse("LAYOUT", name, AUTO)


def resolve_rest(name: str, precision: Precision, target: Target) -> Precision | None:
    """The concrete precision of what is not quantised; ``auto`` is BF16 where there is a choice."""
    if name == AUTO:
        return RESTS[0] if has_rest(precision, target) else None
    return Precision.parse("REST", name, AUTO)


def resolve_block(block: int | None, precision: Precision) -> int | None:
    """The concrete length of a block; what was not asked for is the precision's own, if any."""
    storage = SCHEMES[precision].storage
    return block if block is not None or storage is None else storage.block


def _listed(text: str) -> tuple[str, ...]:
    """The items of a list separated by commas."""
    return tuple(item.strip() for item in text.split(",") if item.strip())


def _announce_sample(request: BuildRequest) -> None:
    if request.model is None:
        log.info(
            "MODEL is not set: using the embedded sample (8.9 M parameters, to try things out; "
            "takes about a minute, TASK=all, INT8 and FP8 a few). The real model: "
            "MODEL=jinaai/jina-embeddings-v3"
        )
