"""The gate's executor for graphs that ONNX Runtime's CPU cannot run (BF16): the traced module.

The module is PyTorch's own form of the portable graph, with the very weights of the bundle: its
architecture comes from the manifest, names, shapes and places of its weights from the graph.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from runtimes.choices import GraphKind, Target
from runtimes.executors.base import Runtime
from runtimes.manifest import Manifest
from runtimes.open import EXECUTORS, Executor, OpenOptions, judging_executors
from runtimes.schemes import SCHEMES


def _open_traced(
    folder: Path, manifest: Manifest, options: OpenOptions, *, graph: GraphKind
) -> Runtime:
    from export.checkpoint.encoder_config import EncoderConfig
    from export.checkpoint.names import EMBEDDINGS
    from export.graph.encoder import load_encoder
    from export.graph.trace import stored_slots
    from export.spec import GraphForm
    from runtimes.executors.torch_reference import TorchModule

    path = folder / manifest.artifact(graph).path
    slots = stored_slots(path)
    ranks = {slot.name: slot.shape[1] for slot in slots if slot.name.endswith(".lora_down")}
    tables = {name for name in ranks if name.removesuffix(".lora_down") in EMBEDDINGS}
    form = GraphForm(
        manifest.adapter,
        manifest.interface,
        rank=max((ranks[name] for name in ranks.keys() - tables), default=0),
        embedding_rank=max((ranks[name] for name in tables), default=0),
        kept_rows=0 if manifest.vocabulary is None else manifest.vocabulary.rows,
        head=manifest.head,
    )
    config = EncoderConfig.of(manifest.architecture)
    dtype = SCHEMES[manifest.precision].dtype
    encoder = load_encoder(config, dtype, manifest.max_tokens, path.parent, slots, form)
    return TorchModule(encoder, form.output.name, inputs=[tensor.name for tensor in form.inputs])


_PRECISIONS = tuple(p for p, scheme in SCHEMES.items() if not scheme.runs_on_cpu)
# Beside the rows of the same graphs in EXECUTORS, under their labels; verify has no torch.
TRACED: dict[str, Executor] = {
    row.name: row
    for row in (
        Executor(
            name="traced_portable",
            label="portable",
            graph=GraphKind.PORTABLE,
            opener=partial(_open_traced, graph=GraphKind.PORTABLE),
            precisions=_PRECISIONS,
            judges=True,
            speaks_for=EXECUTORS["portable"].speaks_for,
            offered=False,
        ),
        Executor(
            name="traced_primitive",
            label="primitive",
            graph=GraphKind.PRIMITIVE,
            embeddings=EXECUTORS["primitive"].embeddings,
            opener=partial(_open_traced, graph=GraphKind.PRIMITIVE),
            precisions=_PRECISIONS,
            judges=True,
            judged_targets=(Target.TENSORRT10,),
            speaks_for=(Target.TENSORRT10,),
            offered=False,
        ),
    )
}


def gate_executors(manifest: Manifest) -> tuple[Executor, ...]:
    """The executors by which the gate judges a bundle, the one that speaks for its target first."""
    return judging_executors(manifest, {**EXECUTORS, **TRACED})
