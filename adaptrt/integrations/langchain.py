"""Bundles as LangChain's ``Embeddings``."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from adaptrt.integrations.sides import Options, missing, open_encoders

try:
    from langchain_core.embeddings import Embeddings
except ModuleNotFoundError as error:
    raise missing("langchain-core", "langchain") from error


class BundleEmbeddings(Embeddings):
    """Embeds with a bundle, queries and passages each with their own task.

    ``aembed_query`` and ``aembed_documents`` do the same in a thread.
    """

    def __init__(
        self,
        bundle: str | Path,
        passages: str | Path | None = None,
        *,
        dimensions: int | None = None,
        **options: Unpack[Options],
    ) -> None:
        """Open the bundles.

        Args:
            bundle: the folder of a switchable bundle, or of a merged one.
            passages: the folder of a second merged bundle, of retrieval.passage, where ``bundle``
                is one of retrieval.query.
            dimensions: cuts vectors (Matryoshka); None is the full length.
            options: ``runtime``, ``device`` and ``threads``, as ``Embedder.load`` takes them.

        Raises:
            InputError: a bundle of retrieval.query for passages, or the other way round; bundles
                of two models; dimensions that the bundle has not.
        """
        self._query, self._passage = open_encoders(bundle, passages, dimensions, **options)

    def embed_query(self, text: str) -> list[float]:
        """The vector of one query."""
        return self._query.embed([text])[0]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector per passage."""
        return self._passage.embed(texts)
