"""Building and verifying bundles from Python: the command line's stages as two functions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from export.build.requirements import require_builder
from export.request import BuildRequest
from runtimes.arguments import check_path, list_of
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
from runtimes.manifest import Manifest

if TYPE_CHECKING:
    from export.gate.verify import Verification

__all__ = ["Bundle", "build", "verify"]


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle that was built and passed the gate: its folder, and what its manifest says."""

    path: Path
    manifest: Manifest


def build(
    model: str | Path | None = None,
    *,
    task: str = "classification",
    precision: Precision | str = "fp16",
    target: Target | str = "auto",
    adapter: AdapterMode | str = "merged",
    interface: Interface | str = "sentence",
    head: HeadName | str = "sentence",
    layout: Layout | str = "auto",
    rest: Precision | str = "auto",
    embeddings: Embeddings | str = "same",
    block: int | None = None,
    revision: str | None = None,
    adapter_path: str | Path | None = None,
    rank: int = 16,
    gpu: str | Iterable[str] = "auto",
    device: str | None = None,
    max_batch: int | None = None,
    max_tokens: int | None = None,
    profiles: str | Iterable[str] | None = None,
    allow_plan: str | Iterable[PlanRule | str] = "",
    attention_accumulation: Accumulation | str = "fp32",
    refittable: bool = False,
    workspace: float | None = None,
    parity_tokens: int = 2048,
    calibration_data: str | Path | None = None,
    calibration_column: str = "text",
    calibration: str | Path | None = None,
    calibration_texts: int = 256,
    observer: Observer | str = "min-max",
    int8_fallback_max: float = 0.25,
    vocabulary: str | Path | Iterable[str] | None = None,
    vocabulary_min_count: int | None = None,
    unknown: Unknown | str | None = None,
    out: str | Path = "build",
    name: str | None = None,
) -> list[Bundle]:
    """Build bundles from a checkpoint, as ``adaptrt engine`` does with options of the same names.

    Each is compared with PyTorch before it is put in its place, ``out/<model>/<name>``; one bundle
    of the same choices that stands there is replaced. Needs ``pip install 'adaptrt[cpu,export]'``.
    What a build is doing goes to the logger ``adaptrt``.

    Args:
        model: a checkpoint's folder, or a hub id such as ``jinaai/jina-embeddings-v3``; None is
            the small sample that comes with the project.
        task: the adapter that is merged, ``base`` for none, ``all`` for a bundle of each.
        precision: of weights and matrix products: ``fp32``, ``fp16``, ``bf16``, ``int8`` or
            ``fp8``; of the weights alone ``int8w`` or ``int4w``; ``auto``, with a target for CPUs,
            is the float precision that is recommended on this CPU.
        target: ``tensorrt_rtx``, ``tensorrt`` (this machine's GPU), ``tensorrt10`` (built later,
            on a Jetson), ``onnxruntime`` or ``openvino`` (CPUs, no engine), ``cpu``: the one of
            these that is recommended on this CPU, or ``auto``: ``tensorrt`` where it and a GPU
            are, else ``tensorrt_rtx``, which builds without a GPU.
        adapter: ``merged`` (one task in the weights), ``switchable`` (every task, chosen per text)
            or ``slot`` (filled when the bundle is loaded).
        interface: ``sentence``, or ``official``: inputs and outputs of the published ONNX file.
        head: ``sentence`` (a vector per text) or ``chunks`` (late chunking).
        layout: ``hub`` (``onnx/model.onnx`` and what sentence-transformers, Optimum and others read
            beside it), ``flat``, or ``auto``: ``hub`` where such clients understand the bundle.
        embeddings: how the word embeddings' table is stored: ``int8``, ``int4``, or ``same``: in
            the type of the rest.
        rest: of ``precision="int8"`` with ``target="openvino"``: what is not quantised, ``bf16``
            (which ``auto`` means) or ``fp32``.
        block: of ``precision="int4w"``: how many numbers of a weight share a scale, 32 (which None
            means), 64 or 128.
        revision: the hub's branch, tag or commit; None is the newest.
        adapter_path: a LoRA adapter as PEFT saves it, used under ``task``'s name.
        rank: of ``adapter="slot"``: the widest adapter it takes, 1 to 1024.
        gpu: architectures that ``tensorrt_rtx`` builds engines for; ``auto`` is sm86, sm89 and
            sm120, or of these what multiplies the precision.
        device: a Jetson (``orin-nano``, ``orin-nx``, ``agx-orin``, ``thor`` and smaller modules):
            builds for ``tensorrt10`` within its memory; its row fills in ``max_batch``,
            ``max_tokens``, ``profiles`` and ``workspace`` where they are None.
        max_batch: the most texts in one call; None is 32.
        max_tokens: the longest text in tokens, 16 to what the model takes; None is 8192.
        profiles: ``short``, ``long``: ranges of text lengths with memory of their own; none is one
            range for all.
        allow_plan: rules that the engines' compiled plans may break, such as ``launches``; the
            manifest says which they broke.
        attention_accumulation: the type in which the fused attention of FP16 engines adds up:
            ``fp32``, or ``fp16``, which loses digits with length.
        refittable: leave the weights out of the engines, for ``adaptrt refit``; needs a GPU.
        workspace: memory TensorRT may use while it builds, GiB; None is 8, of ``tensorrt10`` 2.
        parity_tokens: the longest text of the comparison with PyTorch, tokens.
        calibration_data: texts for the ranges of INT8 and FP8, ``.txt``, ``.jsonl``, ``.parquet``
            or ``.arrow``, or a folder of a dataset on disk; None is the project's own.
        calibration_column: the column, or JSON key, of its texts.
        calibration: a ``calibration.json`` made before, of the same model, task and texts.
        calibration_texts: how many texts are run for the ranges.
        observer: how a range is chosen: ``min-max``, ``percentile``, ``entropy`` or ``mse``.
        int8_fallback_max: the share of the GEMMs' work that may leave INT8 (FP8, INT4W, INT8W)
            where vectors are not close enough, 0 to 1.
        vocabulary: rows for the tokens that these texts use, and no others: a file or a folder of
            texts, languages such as ``["de", "fr"]``, or ``texts``, the calibration's; None is a
            row for every token.
        vocabulary_min_count: how often the texts use a token at least that is kept; None is 1.
        unknown: what becomes of texts with other tokens: ``error`` (which None means),
            ``fallback`` or ``replace``.
        out: the folder that bundles go into.
        name: the bundle's own folder; None is one that says the choices.

    Returns:
        One bundle, or with ``task="all"`` one for each task of the checkpoint, in its order
        (with ``adapter="switchable"`` one that holds them all).

    Raises:
        InputError: a choice, checkpoint or text file that cannot be used; nothing was built.
        MissingError: a GPU or a package that this needs is not there.
        GateError: the vectors do not agree with PyTorch's, or an engine's plan breaks a rule; that
            bundle was not published.
        AdaptrtError: a step of the build failed. Bundles of other tasks that were finished stay.

    >>> build("jinaai/jina-embeddings-v3", task="retrieval.query", out="bundles")
    [Bundle(path=PosixPath('bundles/jinaai--jina-embeddings-v3/retrieval.query-fp16'), ...)]
    """
    require_builder()
    request = BuildRequest(
        model=model if model is None or isinstance(model, str) else str(check_path("MODEL", model)),
        task=task,
        precision=precision,
        target=target,
        adapter=adapter,
        interface=interface,
        head=head,
        layout=layout,
        rest=rest,
        embeddings=embeddings,
        block=block,
        revision=revision,
        adapter_path=_path("ADAPTER_PATH", adapter_path),
        rank=rank,
        gpu=_commas("GPU", gpu),
        device=device,
        max_batch=max_batch,
        max_tokens=max_tokens,
        profiles=None if profiles is None else _commas("PROFILES", profiles),
        allow_plan=_commas("ALLOW_PLAN", allow_plan),
        attention_accumulation=attention_accumulation,
        refittable=refittable,
        workspace=workspace,
        parity_tokens=parity_tokens,
        calibration_data=_path("CALIBRATION_DATA", calibration_data),
        calibration_column=calibration_column,
        calibration=_path("CALIBRATION", calibration),
        calibration_texts=calibration_texts,
        observer=observer,
        int8_fallback_max=int8_fallback_max,
        vocabulary=_vocabulary(vocabulary),
        vocabulary_min_count=vocabulary_min_count,
        unknown=unknown,
        out=check_path("OUT", out),
        name=name,
    )
    from export.build.inputs import open_build
    from export.build.resolve import engine_spec

    inputs = open_build(engine_spec(request))
    from export.build.pipeline import build_bundles  # loads torch: once nothing else is wrong

    built = build_bundles(inputs, request.tasks)
    return [Bundle(path=path, manifest=manifest) for path, manifest in built]


def verify(bundle: str | Path) -> Verification:
    """Check that a bundle is whole and still agrees with PyTorch, as ``adaptrt verify`` does.

    Every file is compared with its checksum, then each graph's vectors with those that PyTorch
    gave when the bundle was built. Needs neither the checkpoint, nor torch, nor a GPU.

    Returns:
        The comparisons; :meth:`~export.gate.verify.Verification.lines` gives each as a sentence.

    Raises:
        GateError: a file or a vector is not what was built.
        InputError: ``bundle`` is no bundle, or a damaged one.
        MissingError: ONNX Runtime, which runs the graphs, is not installed.

    >>> print(*verify("build/sample/classification-fp16").lines(), sep="\\n")
    portable: 48 texts, minimum cosine 0.9999998 (gate 0.9999), mean 0.9999999
    onnxruntime: 48 texts, minimum cosine 1.0000000 (gate 0.9999), mean 1.0000000
    """
    folder = check_path("BUNDLE", bundle)
    from export.gate.verify import verify as verify_folder

    return verify_folder(folder)


def _path(variable: str, value: str | Path | None) -> Path | None:
    return None if value is None else check_path(variable, value)


def _vocabulary(value: str | Path | Iterable[str] | None) -> str | None:
    """A file's name, or languages separated by commas."""
    if value is None:
        return None
    return str(value) if isinstance(value, Path) else _commas("VOCABULARY", value)


def _commas(variable: str, items: str | Iterable[str]) -> str:
    """A list as the command line takes it."""
    if isinstance(items, str):
        return items
    return ",".join(map(str, list_of(variable, items, "names")))
