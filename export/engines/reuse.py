"""``adaptrt refit``: another task's bundle around an engine that was built without weights.

The engine stays as it is, byte for byte; the new bundle holds the task's merged weights, and the
runtime puts them in when it loads the engine (:mod:`runtimes.executors.tensorrt.refit`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.bundle.staging import check_hashes
from export.engines.builder import BuiltEngine
from export.engines.plan_file import bundle_plans
from export.spec import BuildSpec, Limits
from runtimes.bundle_files import SHARED_FILE
from runtimes.choices import Accumulation, FileKind
from runtimes.errors import InputError
from runtimes.files import link_or_copy, sha256
from runtimes.manifest import Artifact, Manifest


@dataclass(frozen=True)
class EngineSource:
    """A bundle whose engines hold no weights."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, bundle: Path) -> EngineSource:
        """Check a bundle; :class:`InputError` where its engines hold weights already."""
        folder = bundle.parent if bundle.is_file() else bundle
        manifest = check_hashes(folder)
        if not any(entry.stripped for entry in manifest.artifacts):
            raise InputError(
                f"{folder}: has no engine to refit; build one with `adaptrt engine --refittable`"
            )
        return cls(folder, manifest)

    @property
    def shared(self) -> Path | None:
        """The file of tensors that no adapter changes, where the bundle has one."""
        weights = (e.path for e in self.manifest.artifacts if e.kind == FileKind.WEIGHTS)
        return next((self.folder / p for p in weights if Path(p).name == SHARED_FILE), None)

    def link(self, graph: Path, folder: Path) -> dict[str, BuiltEngine]:
        """Put the engines into ``folder``; what their builder said of them, by file.

        ``graph`` is what the new bundle's weights belong to: only the very graph that the engines
        were built from can name them.
        """
        source = self.manifest.engine_graph
        if source is None or source.sha256 != sha256(graph):
            raise InputError(
                f"{self.folder}: its engines were built from another graph (another model, shape "
                "or rank of the embedding adapter); build again with --refittable"
            )
        for engine in self._engines():
            link_or_copy(self.folder / engine.path, folder / engine.path)
        plans = bundle_plans(self.folder, self.manifest)
        return {
            engine.path: BuiltEngine(memory=engine.memory, plans=plans.get(engine.path, ()))
            for engine in self._engines()
        }

    def spec(self, model: str, task: str, out: Path | None, **options: Any) -> BuildSpec:
        """The specification of a bundle like this one for another task."""
        manifest = self.manifest
        if task in manifest.tasks and out is None and options.get("name") is None:
            raise InputError(
                f"TASK: {self.folder} is the bundle of {task}; name another, or --name or --out"
            )
        return BuildSpec(
            model=model,
            task=task,
            precision=manifest.precision,
            target=manifest.target.name,
            requested_target=manifest.target.name,
            gpus=tuple(str(engine.gpu) for engine in self._engines()),
            attention_accumulation=manifest.attention_accumulation or Accumulation.FP32,
            refittable=True,
            layout=manifest.layout,
            limits=Limits(max_batch=manifest.max_batch, max_tokens=manifest.max_tokens),
            profiles=manifest.named_profiles,
            out=out or self.folder.parents[1],
            **options,
        )

    def _engines(self) -> list[Artifact]:
        return [entry for entry in self.manifest.artifacts if entry.stripped]
