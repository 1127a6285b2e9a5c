"""Bundles as LlamaIndex's ``BaseEmbedding``."""

from __future__ import annotations

from asyncio import to_thread
from pathlib import Path
from typing import Annotated, Any, ClassVar

from adaptrt.integrations.sides import Encoder, Options, missing, open_encoders

try:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.bridge.pydantic import PlainSerializer, PrivateAttr
except ModuleNotFoundError as error:
    raise missing("llama-index-core", "llama-index") from error

_Folder = Annotated[Path, PlainSerializer(str)]  # JSON has no paths


class BundleEmbedding(BaseEmbedding):
    """Embeds with a bundle, queries and texts each with their own task.

    ``bundle`` is the folder of a switchable bundle, or of a merged one; ``passages`` that of a
    second merged bundle, of retrieval.passage, where ``bundle`` is one of retrieval.query.
    ``dimensions`` cuts vectors (Matryoshka). ``runtime``, ``device`` and ``threads`` are as
    ``Embedder.load`` takes them. All are given by name. An :class:`InputError` refuses a bundle of
    the other side, bundles of two models, and dimensions that the bundle has not.
    """

    model_config: ClassVar[dict[str, str]] = {"extra": "forbid"}
    bundle: _Folder
    passages: _Folder | None = None
    dimensions: int | None = None
    runtime: str = "auto"
    device: str | None = None
    threads: int | None = None
    _query: Encoder = PrivateAttr()
    _passage: Encoder = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Open the bundles."""
        where = Options(runtime=self.runtime, device=self.device, threads=self.threads)
        opened = open_encoders(self.bundle, self.passages, self.dimensions, **where)
        self._query, self._passage = opened

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._query.embed([query])[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._passage.embed([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._passage.embed(texts)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await to_thread(self._get_text_embeddings, texts)
