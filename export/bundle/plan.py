"""Turns what was asked for into what one bundle is: its graph's form, its weights, its tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from export.checkpoint.lora import Adapter, Bank
from export.checkpoint.names import EMBEDDINGS
from export.checkpoint.reader import Checkpoint
from export.graph.weights import Contents
from export.spec import BuildSpec, GraphForm, Limits
from runtimes.bundle_files import engine_file
from runtimes.choices import (
    BASE_TASK,
    Accumulation,
    AdapterMode,
    Embeddings,
    GraphKind,
    HeadName,
    Interface,
    Layout,
    Target,
)
from runtimes.combinations import fits_hub
from runtimes.schemes import BLOCKS, RESTS


@dataclass(frozen=True, kw_only=True)
class BundlePlan:
    """One bundle: ``tasks`` in the order of ``task_id`` (one for a merged bundle).

    ``stem`` says what the weights before rounding are; ``name``, the folder's, every choice.
    """

    stem: str
    name: str
    form: GraphForm
    contents: Contents
    tasks: tuple[str, ...]
    prefixes: Mapping[str, str]

    @property
    def kinds(self) -> tuple[GraphKind, ...]:
        """The graphs the bundle holds. Only ONNX Runtime fills slots and has official clients."""
        if self.form.interface is Interface.OFFICIAL:
            return (GraphKind.ONNXRUNTIME,)
        if self.form.adapter is AdapterMode.SLOT:
            return (GraphKind.PORTABLE, GraphKind.ONNXRUNTIME)
        return tuple(kind for kind in GraphKind if kind is not GraphKind.OPENVINO)


def plan_bundle(spec: BuildSpec, checkpoint: Checkpoint, task: str, *, shared: bool) -> BundlePlan:
    """The plan for one task (or for all of them, switchable).

    ``shared`` keeps a merged bundle's embedding adapter beside the table, so that the table is
    the same for every task.
    """
    head = "" if spec.head is HeadName.SENTENCE else f"-{spec.head}"
    match spec.adapter:
        case AdapterMode.SWITCHABLE:
            return _switchable(spec, checkpoint, head)
        case AdapterMode.SLOT:
            form = GraphForm(AdapterMode.SLOT, rank=spec.rank, embedding_rank=spec.rank)
            contents = Contents(checkpoint, checkpoint.adapter(task), Bank((), spec.rank))
            stem = f"{task}{_own(spec, checkpoint)}-slot"
        case AdapterMode.MERGED:
            form, contents = _merged(checkpoint, checkpoint.adapter(task), shared=shared)
            form = replace(form, head=spec.head)
            stem = f"{task}{_own(spec, checkpoint)}{head}"
    return BundlePlan(
        stem=stem,
        name=_name(spec, stem),
        form=form,
        contents=contents,
        tasks=(task,),
        prefixes={task: checkpoint.config.prefix(task)},
    )


def used_profiles(spec: BuildSpec) -> tuple[str, ...]:
    """The named profiles that engines of the target have; ONNX Runtime has none."""
    return spec.profiles if spec.target.runs_engine else ()


def _name(spec: BuildSpec, stem: str) -> str:
    """The folder's name: the user's own, or every choice that is not the default."""
    ort_only = spec.adapter is AdapterMode.SLOT or spec.interface is Interface.OFFICIAL
    usual = spec.target is Target.TENSORRT_RTX or ort_only
    sizes = (
        ("r", spec.rank, BuildSpec.rank if spec.adapter is AdapterMode.SLOT else spec.rank),
        ("b", spec.limits.max_batch, Limits.max_batch),
        ("t", spec.limits.max_tokens, Limits.max_tokens),
    )
    parts = [
        stem,
        spec.precision.value,
        *([] if spec.rest in (None, RESTS[0]) else [f"rest-{spec.rest}"]),
        *([] if spec.block in (None, *BLOCKS[:1]) else [f"block{spec.block}"]),
        *([] if spec.embeddings is Embeddings.SAME else [f"table-{spec.embeddings}"]),
        *([] if usual else [spec.target.value]),
        *used_profiles(spec),
        *(["fp16-attention"] if spec.attention_accumulation is Accumulation.FP16 else []),
        *(["refittable"] if spec.refittable else []),
        *(["flat"] if spec.layout is Layout.FLAT and _fits_hub(spec) else []),
        *([] if spec.vocabulary is None else ["vocabulary"]),
        *(f"{letter}{size}" for letter, size, default in sizes if size != default),
    ]
    return spec.name or "-".join(parts)


def _fits_hub(spec: BuildSpec) -> bool:
    return fits_hub(spec.adapter, spec.head, pruned=spec.vocabulary is not None)


def _own(spec: BuildSpec, checkpoint: Checkpoint) -> str:
    """The mark of the user's adapter where no task's name tells it from the published ones."""
    published = spec.adapter is AdapterMode.SWITCHABLE or spec.task in checkpoint.config.tasks
    return "-own" if spec.adapter_path is not None and published else ""


def _switchable(spec: BuildSpec, checkpoint: Checkpoint, head: str) -> BundlePlan:
    bank = Bank.of([checkpoint.adapter(task) for task in checkpoint.tasks])
    official = spec.interface is Interface.OFFICIAL
    stem = f"{'official' if official else 'switchable'}{_own(spec, checkpoint)}{head}"
    return BundlePlan(
        stem=stem,
        name=_name(spec, stem),
        form=GraphForm(
            spec.adapter,
            spec.interface,
            rank=bank.width,
            embedding_rank=bank.width,
            head=spec.head,
        ),
        contents=Contents(checkpoint, Adapter(BASE_TASK, {}), bank),
        tasks=checkpoint.tasks,
        prefixes={t: checkpoint.config.prefix(t) for t in (*checkpoint.tasks, BASE_TASK)},
    )


def _merged(
    checkpoint: Checkpoint, adapter: Adapter, *, shared: bool
) -> tuple[GraphForm, Contents]:
    if not shared:
        return GraphForm(), Contents(checkpoint, adapter)
    linear = {n: p for n, p in adapter.modules.items() if n not in EMBEDDINGS}
    beside = Adapter(
        adapter.task, {n: adapter.modules[n] for n in EMBEDDINGS if n in adapter.modules}
    )
    bank = Bank.of([beside])
    contents = Contents(checkpoint, Adapter(adapter.task, linear), bank)
    return GraphForm(embedding_rank=bank.width), contents


def engine_names(spec: BuildSpec) -> list[tuple[str | None, str]]:
    """The GPU to build for (None: the one present) and the file's name, engine by engine."""
    if spec.target is Target.TENSORRT_RTX:
        return [(gpu, engine_file(gpu)) for gpu in spec.gpus]
    if spec.target is Target.TENSORRT:
        return [(None, engine_file(spec.gpus[0]))]
    return []
