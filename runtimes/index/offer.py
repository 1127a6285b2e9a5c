"""What an engine can be asked for, as the comparison with an index needs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from runtimes.choices import FileKind, Precision, Target
from runtimes.errors import InputError
from runtimes.files import sha256
from runtimes.fingerprint import BundleFingerprints, Embeds, Fingerprint, fingerprint_of
from runtimes.manifest import Manifest, Parity, require_as_built
from runtimes.outputs import Ranges

# The fingerprint of a task's vectors of a length, with its instruction or without.
Measure = Callable[[str, int, bool], Fingerprint]


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A bundle or a server. ``name`` is what messages call it; the rest as in a fingerprint.

    ``prefixes`` are those of the tasks it has; ``measure`` gives the canaries; ``parity`` is how
    its build compared it with the reference, None where that is not known.
    """

    name: str
    model: str
    model_name: str
    tokenizer: str
    adapter: str | None
    dimensions: tuple[int, ...]
    prefixes: Mapping[str, str]
    ranges: Ranges
    precision: Precision
    target: Target
    measure: Measure
    parity: Parity | None = None

    @classmethod
    def of_embedder(cls, embedder: Embeds, name: str) -> Offer:
        """An open bundle: canaries are embedded when they are asked for."""

        def measure(task: str, dimensions: int, prefix: bool) -> Fingerprint:
            return fingerprint_of(embedder, task=task, dimensions=dimensions, prefix=prefix)

        return cls._of_manifest(embedder.manifest, name, embedder.adapter_file, measure)

    @classmethod
    def recorded(cls, folder: Path, manifest: Manifest) -> Offer:
        """A bundle that is not opened: the canaries are those of its build's gate."""
        recorded = {one.task: one for one in read_recorded(folder, manifest)}
        measure = partial(_recorded, recorded, folder)
        return cls._of_manifest(manifest, f"bundle {folder}", None, measure)

    @classmethod
    def of_server(
        cls,
        ones: Mapping[str, Fingerprint],
        dimensions: tuple[int, ...],
        name: str,
        asked: Sequence[str],
        measure: Measure,
    ) -> Offer:
        """A server, by a fingerprint without canaries of each of its tasks.

        Its bundles may be of several precisions: what counts is that of the first of the tasks
        ``asked`` that it has.
        """
        first = next((ones[task] for task in asked if task in ones), next(iter(ones.values())))
        return cls(
            name=name,
            model=first.model,
            model_name=first.model_name,
            tokenizer=first.tokenizer,
            adapter=first.adapter,
            dimensions=dimensions,
            prefixes={task: one.prefix for task, one in ones.items()},
            ranges={},
            precision=first.precision,
            target=first.target,
            measure=measure,
        )

    @classmethod
    def _of_manifest(
        cls, manifest: Manifest, name: str, adapter: Path | None, measure: Measure
    ) -> Offer:
        return cls(
            name=name,
            model=manifest.model.sha256,
            model_name=manifest.model.name,
            tokenizer=manifest.artifact(FileKind.TOKENIZER).sha256,
            adapter=None if adapter is None else sha256(adapter),
            dimensions=manifest.dimensions,
            prefixes=manifest.prefixes,
            ranges=manifest.output_ranges,
            precision=manifest.precision,
            target=manifest.target.name,
            measure=measure,
            parity=manifest.parity,
        )


def read_recorded(folder: Path, manifest: Manifest) -> tuple[Fingerprint, ...]:
    """Those that the bundle's build wrote; :class:`InputError` for a bundle without."""
    entry = next((e for e in manifest.artifacts if e.kind == FileKind.FINGERPRINT), None)
    if entry is None:
        raise InputError(
            f"{folder}: built by an earlier version, which recorded no fingerprint; leave "
            "--recorded out, and canaries are embedded now"
        )
    return BundleFingerprints.read(require_as_built(folder, entry)).fingerprints


def _recorded(
    recorded: Mapping[str, Fingerprint], folder: Path, task: str, dimensions: int, prefix: bool
) -> Fingerprint:
    one = recorded.get(task)
    if one is None or (one.prefix and not prefix):
        what = "" if one is None else " without its instruction"
        raise InputError(
            f"{folder}: no canaries of {task}{what} were recorded; leave --recorded out"
        )
    return one.cut(dimensions)
