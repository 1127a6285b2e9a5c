"""Queries and passages: which task embeds which, said once for every library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

from runtimes.choices import AdapterMode, Side
from runtimes.embedder import Embedder
from runtimes.errors import InputError, MissingError
from runtimes.manifest import Manifest

__all__ = [
    "Encoder",
    "Options",
    "Side",
    "choose_task",
    "missing",
    "open_encoder",
    "open_encoders",
]


class Options(TypedDict, total=False):
    """Where a bundle runs, as :meth:`runtimes.embedder.Embedder.load` takes it."""

    runtime: str
    device: str | None
    threads: int | None


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """An open bundle with the task and the length of its vectors decided."""

    embedder: Embedder
    task: str
    dimensions: int | None

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One unit vector per text; the task's instruction is put before each."""
        vectors = self.embedder.encode(texts, task=self.task, dimensions=self.dimensions)
        rows: list[list[float]] = vectors.tolist()
        return rows


def choose_task(manifest: Manifest, side: Side) -> str:
    """The task that embeds ``side``: a switchable bundle's own for it, a merged bundle's one.

    Raises :class:`InputError` for a merged bundle of the other side. A task without sides, such as
    classification or text-matching, embeds both.
    """
    if manifest.adapter is AdapterMode.SWITCHABLE:
        return side
    if manifest.task in set(Side) - {side}:
        texts = "queries" if side is Side.QUERY else "passages"
        raise InputError(
            f"{texts}: got a bundle of {manifest.task}, expected one of {side}, or a switchable "
            f"one for both sides; build it with `make engine TASK={side}` or ADAPTER=switchable"
        )
    return manifest.task


def open_encoder(
    side: Side, bundle: str | Path, dimensions: int | None = None, **options: Unpack[Options]
) -> Encoder:
    """Open a bundle for one side.

    Raises what :meth:`runtimes.embedder.Embedder.load` raises, and :class:`InputError` for a bundle
    of the other side and for ``dimensions`` that the bundle has not.
    """
    return _encoder(side, Embedder.load(bundle, **options), dimensions)


def open_encoders(
    bundle: str | Path,
    passages: str | Path | None = None,
    dimensions: int | None = None,
    **options: Unpack[Options],
) -> tuple[Encoder, Encoder]:
    """Open one bundle for both sides, or ``bundle`` for queries and another for ``passages``.

    Raises what :func:`open_encoder` raises, and :class:`InputError` for bundles of two models,
    whose vectors cannot be compared.
    """
    query = open_encoder(Side.QUERY, bundle, dimensions, **options)
    if passages is None:
        return query, _encoder(Side.PASSAGE, query.embedder, dimensions)
    passage = open_encoder(Side.PASSAGE, passages, dimensions, **options)
    got, expected = (e.embedder.manifest.model for e in (passage, query))
    if got.sha256 != expected.sha256:
        raise InputError(
            f"passages: got a bundle of {got.name} {got.sha256[:12]}, expected one of "
            f"{expected.name} {expected.sha256[:12]} as for queries; build both from one checkpoint"
        )
    return query, passage


def missing(library: str, extra: str) -> MissingError:
    """What a module raises whose library is not installed."""
    return MissingError(f"{library} is not installed; pip install 'adaptrt[{extra}]'")


def _encoder(side: Side, embedder: Embedder, dimensions: int | None) -> Encoder:
    task = choose_task(embedder.manifest, side)
    embedder.encode([], task=task, dimensions=dimensions)  # refuses now what no call could use
    return Encoder(embedder=embedder, task=task, dimensions=dimensions)
