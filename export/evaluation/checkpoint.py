"""The checkpoint as what bundles are scored beside: transformers and PEFT, attention by PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from export.checkpoint.identity import model_sha256
from export.checkpoint.reader import Checkpoint, open_checkpoint
from export.checkpoint.source import SAMPLE, SAMPLE_NAME, resolve
from export.console.progress import log, stage
from export.evaluation.contenders import Contender
from runtimes.bundle_files import TOKENIZER_FILE
from runtimes.choices import AdapterMode, Device, HeadName
from runtimes.embedder import Embedder
from runtimes.errors import InputError
from runtimes.manifest import Manifest
from runtimes.text.batching import GPU
from runtimes.text.tokens import TextTokenizer

NO_REFERENCE = "none"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A checkpoint with its identity, which a bundle's manifest has too."""

    checkpoint: Checkpoint
    sha256: str


def open_reference(
    model: str | None, revision: str | None, contenders: Sequence[Contender]
) -> Reference | None:
    """The checkpoint of a folder or hub id; without a name the sample's, for the sample's bundles.

    Its files are read, no tensor is. None for ``none``, and where nothing is named for other
    bundles. Raises :class:`InputError` for one that is not there.
    """
    if revision is not None and model in (None, NO_REFERENCE):
        raise InputError("--revision: is of the checkpoint's hub id; add --reference NAME")
    if model == NO_REFERENCE:
        return None
    if model is not None:
        return _opened(model, revision)
    if all(contender.manifest.model.name == SAMPLE_NAME for contender in contenders):
        sample = _opened(str(SAMPLE), None)
        if all(c.manifest.model.sha256 == sample.sha256 for c in contenders):
            return sample
    log.info("  no checkpoint beside the bundles: --reference names one")
    return None


def _opened(model: str, revision: str | None) -> Reference:
    with stage("checkpoint"):
        source = resolve(model, revision)
        checkpoint = open_checkpoint(source.folder, name=source.name, revision=source.revision)
        return Reference(checkpoint=checkpoint, sha256=model_sha256(checkpoint))


def reference_name(reference: Reference, max_tokens: int) -> str:
    """What shapes its scores beside its files: where it runs, and where texts end."""
    from runtimes.executors.torch_reference import reference_place

    device, kernel = reference_place()
    return f"{reference.checkpoint.name}-checkpoint-{device}-{kernel}-{max_tokens}"


def load_reference(reference: Reference, task: str, manifest: Manifest) -> Embedder:
    """The reference in FP32 with a task's adapter, as an embedder.

    ``manifest`` is a bundle's of this checkpoint: lengths and limits are taken over. Texts, prefix
    and tokenizer are the checkpoint's own.
    """
    from export.gate.reference import reference_model
    from runtimes.executors.torch_reference import FlashReference, reference_place

    checkpoint, (device, kernel) = reference.checkpoint, reference_place()
    config = checkpoint.config
    tokenizer = TextTokenizer(
        checkpoint.folder / TOKENIZER_FILE,
        max_tokens=manifest.max_tokens,
        pad_id=config.pad_id,
        vocab=config.vocab,
    )
    runtime = FlashReference(reference_model(checkpoint, task), device=device, kernel=kernel)
    if device is Device.CUDA:
        runtime.budget = GPU
    prefix = config.prefix(task)
    merged = replace(
        manifest,
        adapter=AdapterMode.MERGED,
        head=HeadName.SENTENCE,
        task=task,
        tasks=(task,),
        prefix=prefix,
        prefixes={task: prefix},
    )
    return Embedder(merged, tokenizer, runtime)
