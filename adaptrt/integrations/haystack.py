"""Bundles as Haystack's embedders: one component for queries, one for documents."""

from __future__ import annotations

from asyncio import to_thread
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self, Unpack

from adaptrt.integrations.sides import Encoder, Options, Side, missing, open_encoder

try:
    from haystack import Document, component, default_from_dict, default_to_dict
except ModuleNotFoundError as error:
    raise missing("haystack-ai", "haystack") from error


class _Bundle:
    side: Side
    _encoder: Encoder | None = None

    def __init__(
        self, bundle: str | Path, dimensions: int | None = None, **options: Unpack[Options]
    ) -> None:
        """``options`` are ``runtime``, ``device`` and ``threads`` of ``Embedder.load``."""
        self._open = partial(
            open_encoder, self.side, bundle=str(bundle), dimensions=dimensions, **options
        )

    def warm_up(self) -> Encoder:
        """Open the bundle, as the first ``run`` does; one of the other side is refused."""
        self._encoder = self._encoder or self._open()
        return self._encoder

    def to_dict(self) -> dict[str, Any]:
        """What a pipeline's file keeps: the arguments."""
        return dict(default_to_dict(self, **self._open.keywords))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """What ``to_dict`` gave, as a component."""
        made: Self = default_from_dict(cls, data)
        return made


@component
class BundleTextEmbedder(_Bundle):
    """Embeds queries, with a switchable bundle's retrieval.query or a merged bundle's task."""

    side = Side.QUERY

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, list[float]]:
        """The vector of one query; ``run_async`` is the same in a thread."""
        return {"embedding": self.warm_up().embed([text])[0]}

    @component.output_types(embedding=list[float])
    async def run_async(self, text: str) -> dict[str, list[float]]:  # noqa: D102
        return dict(await to_thread(self.run, text))


@component
class BundleDocumentEmbedder(_Bundle):
    """Embeds documents, with a switchable bundle's retrieval.passage or a merged bundle's task."""

    side = Side.PASSAGE

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, list[Document]]:
        """Copies with the vector of their ``content``; ``run_async`` is the same in a thread."""
        vectors = self.warm_up().embed([document.content for document in documents])
        return {
            "documents": [replace(d, embedding=v) for d, v in zip(documents, vectors, strict=True)]
        }

    @component.output_types(documents=list[Document])
    async def run_async(self, documents: list[Document]) -> dict[str, list[Document]]:  # noqa: D102
        return dict(await to_thread(self.run, documents))
