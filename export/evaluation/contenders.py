"""What is scored side by side: bundles of one precision that serve every task, checked by manifest.

Nothing is opened here, so that whatever cannot be scored is refused before any work.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from export.evaluation.task_map import adapters_of
from runtimes.bundle_files import MANIFEST_FILE
from runtimes.choices import AdapterMode, OutputType
from runtimes.errors import InputError, shown
from runtimes.manifest import Manifest, read_manifest
from runtimes.outputs import converter


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A folder and its manifest."""

    folder: Path
    manifest: Manifest

    @property
    def tasks(self) -> tuple[str, ...]:
        """What it embeds texts for: one task, or of a switchable bundle all, ``base`` too."""
        return tuple(self.manifest.prefixes)


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One column of the table: a switchable bundle, or merged ones that differ in their task."""

    label: str
    bundles: tuple[Bundle, ...]

    @property
    def manifest(self) -> Manifest:
        """The first bundle's: model and precision are those of all."""
        return self.bundles[0].manifest

    @property
    def by_task(self) -> Mapping[str, Bundle]:
        """The bundle that serves each task."""
        return {task: bundle for bundle in self.bundles for task in bundle.tasks}

    @property
    def revision(self) -> str:
        """Hex SHA-256 of the manifests, which hold every file's: another bundle has another."""
        digest = hashlib.sha256()
        for bundle in self.bundles:
            digest.update((bundle.folder / MANIFEST_FILE).read_bytes())
        return digest.hexdigest()

    @property
    def name(self) -> str:
        """Model, form, precision and target, in characters that a file's name can have."""
        manifest = self.manifest
        words = (manifest.model.name, manifest.adapter, manifest.precision, manifest.target.name)
        return re.sub(r"[^\w.-]+", "-", "-".join(words))


def open_contenders(folders: Sequence[Path]) -> tuple[Contender, ...]:
    """The columns for these folders, in their order.

    A switchable bundle is one of its own; merged bundles of one model, precision and target are
    one together. Raises :class:`InputError` for a folder that is no bundle, one that is given
    twice, and two that would serve the same task of one column.
    """
    bundles = [Bundle(folder=folder, manifest=read_manifest(folder)) for folder in folders]
    for folder, count in Counter(folder.resolve() for folder in folders).items():
        if count > 1:
            raise InputError(f"--bundle: {shown(str(folder))} is given twice; leave one out")
    columns: dict[object, list[Bundle]] = {}
    for bundle in bundles:
        columns.setdefault(_column(bundle), []).append(bundle)
    for column in columns.values():
        _check_distinct(column)
    return tuple(_labelled(list(columns.values())))


def _column(bundle: Bundle) -> object:
    manifest = bundle.manifest
    if manifest.adapter is AdapterMode.SWITCHABLE:
        return bundle.folder.resolve()
    head, interface = manifest.head, manifest.interface
    stored = manifest.precision, manifest.embeddings
    return manifest.model.sha256, *stored, manifest.target.name, head, interface


def _check_distinct(column: Sequence[Bundle]) -> None:
    owner: dict[str, Bundle] = {}
    for bundle in column:
        for task in bundle.tasks:
            if (other := owner.setdefault(task, bundle)) is not bundle:
                raise InputError(
                    f"--bundle: {shown(str(other.folder))} and {shown(str(bundle.folder))} both "
                    f"serve {task} in {bundle.manifest.precision}; give one of them"
                )


def _labelled(columns: Sequence[Sequence[Bundle]]) -> Iterable[Contender]:
    """A precision is the name of a column that has it alone, else its first folder is."""
    shared = Counter(column[0].manifest.precision for column in columns)
    for column in columns:
        precision = column[0].manifest.precision
        label = precision.value if shared[precision] == 1 else str(column[0].folder)
        yield Contender(label=label, bundles=tuple(column))


def check_contenders(
    contenders: Sequence[Contender],
    task_types: Mapping[str, str],
    dimensions: int | None,
    output: OutputType,
) -> None:
    """Raise :class:`InputError` for an adapter, a length or an output that bundles lack.

    ``task_types`` are those of the MTEB tasks by name.
    """
    for contender in contenders:
        for bundle in contender.bundles:
            lengths = bundle.manifest.dimensions
            if dimensions is not None and dimensions not in lengths:
                known = ", ".join(map(str, lengths))
                raise InputError(
                    f"--dimensions: got {dimensions}, expected one of {known}, which "
                    f"{shown(str(bundle.folder))} has"
                )
        _check_served(contender, task_types)
        for name in adapters_of(task_types.values()):
            manifest = contender.by_task[name].manifest
            width = dimensions or manifest.dimensions[-1]
            converter(output, width, [name], manifest.output_ranges)


def check_model(contenders: Sequence[Contender], sha256: str) -> None:
    """Raise :class:`InputError` for a bundle that is not of the model with this identity."""
    for contender in contenders:
        for bundle in contender.bundles:
            model = bundle.manifest.model
            if model.sha256 != sha256:
                raise InputError(
                    f"--reference: {shown(str(bundle.folder))} was built from another model, "
                    f"{shown(model.name)}; name that one's checkpoint, or none"
                )


def _check_served(contender: Contender, task_types: Mapping[str, str]) -> None:
    manifest = contender.manifest
    for task, task_type in task_types.items():
        missing = [name for name in adapters_of([task_type]) if name not in contender.by_task]
        if missing:
            raise InputError(
                f"--tasks: {task} needs {' and '.join(missing)}, which {contender.label} does not "
                f"have; add what `make engine TASK={missing[0]} PRECISION={manifest.precision} "
                f"TARGET={manifest.target.name}` builds, or take a bundle with ADAPTER=switchable"
            )
