"""Which bundles are served under which names, and which of them answers a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtimes.api import problems
from runtimes.api.contract import ModelCard, ModelList
from runtimes.api.problems import ApiError
from runtimes.api.settings import Settings
from runtimes.bundle_files import MANIFEST_FILE
from runtimes.choices import AdapterMode, HeadName, Unknown
from runtimes.errors import InputError, shown
from runtimes.manifest import Manifest, read_manifest
from runtimes.text.tokenizer_file import load_tokenizer
from runtimes.text.tokens import TextTokenizer

BASE = "base"  # the model without an adapter, as the vendor's API has it without a task


@dataclass(frozen=True, kw_only=True)
class Served:
    """A bundle: its place among those served, and what is known of it without an executor."""

    number: int
    model: str
    folder: Path
    manifest: Manifest
    tokenizer: TextTokenizer

    @property
    def tasks(self) -> tuple[str, ...]:
        """Those that it answers."""
        return tuple(self.manifest.prefixes)

    @property
    def chunks(self) -> bool:
        """Whether it gives the parts of a document vectors of their own."""
        return self.manifest.head is HeadName.CHUNKS

    @property
    def rank(self) -> tuple[bool, bool]:
        """Among bundles with the same task: a merged one goes first, then the sentence head."""
        return self.manifest.adapter is AdapterMode.MERGED, not self.chunks


class Catalogue:
    """The bundles by model and task."""

    def __init__(self, bundles: Sequence[Served], default_task: str | None = None) -> None:
        """Raises :class:`InputError` where two bundles would answer the same request."""
        self.bundles = tuple(bundles)
        self.models = tuple(dict.fromkeys(b.model for b in bundles))
        self._texts = {m: _by_task([b for b in bundles if b.model == m]) for m in self.models}
        self._chunks = {
            m: _by_task([b for b in bundles if b.model == m and b.chunks]) for m in self.models
        }
        known = dict.fromkeys(t for tasks in self._texts.values() for t in tasks)
        if default_task is not None and default_task not in known:
            raise InputError(
                f"--default-task: got {shown(default_task)}, expected one of {', '.join(known)}, "
                "which the bundles have"
            )
        self.default_task = default_task or BASE
        self.answers_without_task = all(self.default_task in t for t in self._texts.values())

    def route(self, model: str | None, task: str | None, *, late: bool) -> tuple[Served, str]:
        """The bundle for a request, and its task.

        Raises :class:`ApiError` for a name that is not served; nothing else is used in its place.
        """
        name = self._model(model)
        served = (self._chunks if late else self._texts)[name]
        if late and not served:
            raise ApiError(
                problems.BAD_VALUE,
                f"late_chunking: no bundle of {name} served here was built with HEAD=chunks",
                param="late_chunking",
            )
        chosen = self.default_task if task is None else task
        if chosen not in served:
            known = ", ".join(served)
            got = f"got {shown(task)}" if task is not None else f"none given, which is {chosen}"
            more = "" if task is not None else "; the server's --default-task can name another"
            raise ApiError(
                problems.BAD_VALUE, f"task: {got}, expected one of {known}{more}", param="task"
            )
        return served[chosen], chosen

    def cards(self) -> ModelList:
        """What ``/v1/models`` says."""
        return ModelList(object="list", data=[self._card(name) for name in self.models])

    def _card(self, name: str) -> ModelCard:
        own = [b for b in self.bundles if b.model == name]
        return ModelCard(
            id=name,
            object="model",
            created=int((own[0].folder / MANIFEST_FILE).stat().st_mtime),
            owned_by="adaptrt",
            tasks=list(self._texts[name]),
            dimensions=list(own[0].manifest.dimensions),
            max_tokens=min(b.manifest.max_tokens for b in own),
            late_chunking=bool(self._chunks[name]),
        )

    def _model(self, model: str | None) -> str:
        """A hub id's last part is its name too."""
        if model is None:
            if len(self.models) == 1:
                return self.models[0]
            raise ApiError(
                problems.BAD_VALUE,
                f"model: none given, expected one of {', '.join(self.models)}",
                param="model",
            )
        for name in (model, model.rpartition("/")[2]):
            if name in self._texts:
                return name
        raise ApiError(
            problems.NO_MODEL,
            f"model: got {shown(model)}, expected one of {', '.join(self.models)}",
            param="model",
        )


def open_catalogue(settings: Settings) -> Catalogue:
    """Reads each bundle's manifest and tokenizer; raises :class:`InputError` as they do."""
    names = settings.model_names
    each = names if len(names) == len(settings.bundles) else names * len(settings.bundles)
    bundles = []
    for number, folder in enumerate(settings.bundles):
        manifest = read_manifest(folder)
        bundles.append(
            Served(
                number=number,
                model=each[number] if each else manifest.model.name.rpartition("/")[2],
                folder=folder,
                manifest=manifest,
                tokenizer=_tokenizer(folder, manifest, settings),
            )
        )
    policies = {b.tokenizer.kept.unknown for b in bundles if b.tokenizer.kept is not None}
    if settings.unknown is not None and not policies:
        raise InputError("--unknown: every bundle holds every token; leave it out")
    if settings.fallback is not None and Unknown.FALLBACK not in policies:
        raise InputError(
            "--fallback: no bundle sends texts on; leave it out, or add --unknown fallback"
        )
    return Catalogue(bundles, settings.default_task)


def _tokenizer(folder: Path, manifest: Manifest, settings: Settings) -> TextTokenizer:
    given = settings.unknown if manifest.vocabulary is not None else None
    unknown = None if given is None else Unknown(given)
    return load_tokenizer(folder, manifest, settings.max_text_bytes, unknown)


def _by_task(bundles: Sequence[Served]) -> dict[str, Served]:
    served: dict[str, Served] = {}
    for bundle in sorted(bundles, key=lambda b: b.rank):  # the last one wins
        for task in bundle.tasks:
            other = served.get(task)
            if other is not None and other.rank == bundle.rank:
                raise InputError(
                    f"--bundle: {shown(str(other.folder))} and {shown(str(bundle.folder))} both "
                    f"have {task} of {bundle.model}; give them names of their own, with a "
                    "--model-name for each bundle"
                )
            if other is not None and other.manifest.dimensions != bundle.manifest.dimensions:
                raise InputError(
                    f"--bundle: {shown(str(other.folder))} and {shown(str(bundle.folder))} are of "
                    "different models; give them names of their own with --model-name"
                )
            served[task] = bundle
    return served
