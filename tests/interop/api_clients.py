"""Programs that speak OpenAI's or the vendor's HTTP API, and how each asks this server for vectors.

A row says what is sent and what of the embedder's it is to equal. ``make test-interop`` writes
build/interop/api-clients.json; ``make clients`` makes it the committed record, from which
``make figures`` writes the table.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any
from unittest.mock import patch

import numpy as np

Array = np.ndarray[Any, Any]
Ask = Callable[[str, str, Sequence[str]], Any]  # the server's address, its model, texts

DIMENSIONS = 128
PACKED = {"binary", "ubinary"}


@dataclass(frozen=True, kw_only=True)
class ApiClient:
    """``ask`` gives the vectors ``[texts, n]``; ``expected`` are arguments of ``Embedder.encode``.

    With ``late`` the texts are the chunks of one document. ``exact`` types are equal bit by bit;
    others differ by rounding in the executor's calls, which other requests' texts may join.
    """

    name: str
    package: str
    sends: str
    ask: Ask
    expected: dict[str, Any] = field(default_factory=lambda: {"task": "base"})
    late: bool = False
    unpacked: bool = False

    @property
    def exact(self) -> bool:
        """Whether the vectors are bytes or bits."""
        return self.expected.get("output") in PACKED

    @property
    def release(self) -> str:
        """The package and its version; of a program, what it prints."""
        if self.package != "curl":
            return f"{self.package} {version(self.package)}"
        shown = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True)
        return " ".join(shown.stdout.split()[:2])


def openai_float(address: str, model: str, texts: Sequence[str]) -> Any:
    return _openai(address, model, texts, encoding_format="float")


def openai_base64(address: str, model: str, texts: Sequence[str]) -> Any:
    """What it sends where nothing is said: base64, which it decodes itself."""
    return _openai(address, model, texts)


def openai_task(address: str, model: str, texts: Sequence[str]) -> Any:
    extra = {"task": "text-matching"}
    return _openai(address, model, texts, dimensions=DIMENSIONS, extra_body=extra)


def _openai(address: str, model: str, texts: Sequence[str], **options: Any) -> Any:
    from openai import OpenAI

    with OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        answer = client.embeddings.create(model=model, input=list(texts), **options)
    assert [item.index for item in answer.data] == list(range(len(texts)))
    return [item.embedding for item in answer.data]


def langchain_openai(address: str, model: str, texts: Sequence[str]) -> Any:
    from langchain_openai import OpenAIEmbeddings

    embeddings = OpenAIEmbeddings(
        base_url=f"{address}/v1",
        api_key="none",
        model=model,
        dimensions=DIMENSIONS,
        check_embedding_ctx_length=False,
        model_kwargs={"extra_body": {"task": "retrieval.passage"}},
    )
    return embeddings.embed_documents(list(texts))


def langchain_jina(address: str, model: str, texts: Sequence[str]) -> Any:
    """Its address is a constant of the module."""
    from langchain_community.embeddings import JinaEmbeddings, jina

    with patch.object(jina, "JINA_API_URL", f"{address}/v1/embeddings"):
        embeddings = JinaEmbeddings(jina_api_key="none", model_name=model)
        with embeddings.session:
            return embeddings.embed_documents(list(texts))


def llama_index_openai(address: str, model: str, texts: Sequence[str]) -> Any:
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding

    embedding = OpenAILikeEmbedding(
        model_name=model,
        api_base=f"{address}/v1",
        api_key="none",
        dimensions=DIMENSIONS,
        additional_kwargs={"extra_body": {"task": "retrieval.passage"}},
        max_retries=0,
    )
    return embedding.get_text_embedding_batch(list(texts))


def llama_index_jina(**options: Any) -> Ask:
    """Its address is not an argument."""

    def ask(address: str, model: str, texts: Sequence[str]) -> Any:
        from llama_index.embeddings.jinaai import JinaEmbedding

        embedding = JinaEmbedding(model=model, api_key="none", embed_batch_size=100, **options)
        embedding._api.api_url = f"{address}/v1/embeddings"
        with embedding._api._session:
            return embedding.get_text_embedding_batch(list(texts))

    return ask


def haystack_openai(address: str, model: str, texts: Sequence[str]) -> Any:
    from haystack.components.embedders import OpenAITextEmbedder
    from haystack.utils import Secret

    embedder = OpenAITextEmbedder(
        api_key=Secret.from_token("none"),
        api_base_url=f"{address}/v1",
        model=model,
        dimensions=DIMENSIONS,
        max_retries=0,
    )
    embedder.warm_up()
    try:
        return [embedder.run(text)["embedding"] for text in texts]
    finally:
        embedder.client.close()


def haystack_jina(address: str, model: str, texts: Sequence[str]) -> Any:
    from haystack.utils import Secret
    from haystack_integrations.components.embedders.jina import JinaTextEmbedder

    embedder = JinaTextEmbedder(
        api_key=Secret.from_token("none"),
        base_url=f"{address}/v1/embeddings",
        model=model,
        task="retrieval.query",
        dimensions=DIMENSIONS,
    )
    return [embedder.run(text)["embedding"] for text in texts]


def haystack_jina_late(address: str, model: str, texts: Sequence[str]) -> Any:
    from haystack import Document
    from haystack.utils import Secret
    from haystack_integrations.components.embedders.jina import JinaDocumentEmbedder

    embedder = JinaDocumentEmbedder(
        api_key=Secret.from_token("none"),
        base_url=f"{address}/v1/embeddings",
        model=model,
        task="retrieval.passage",
        late_chunking=True,
        progress_bar=False,
    )
    found = embedder.run([Document(content=text) for text in texts])["documents"]
    return [document.embedding for document in found]


def mteb_wrapper(address: str, model: str, texts: Sequence[str]) -> Any:
    from mteb import get_task
    from mteb.models import OpenAIAPIEncodeWrapper
    from torch.utils.data import DataLoader

    wrapper = OpenAIAPIEncodeWrapper(address, model, use_chat_template=False, modalities=["text"])
    items: Any = [{"text": text} for text in texts]
    batches: Any = DataLoader(items, batch_size=4)
    return wrapper.encode(
        batches,
        task_metadata=get_task("STS12").metadata,
        hf_split="test",
        hf_subset="default",
        show_progress_bar=False,
    )


def curl(address: str, model: str, texts: Sequence[str]) -> Any:
    body = {"model": model, "task": "separation", "input": list(texts)}
    words = ["curl", "--silent", "--fail-with-body", "--max-time", "60", f"{address}/v1/embeddings"]
    words += ["--header", "Content-Type: application/json", "--data", "@-"]
    done = subprocess.run(
        words, input=json.dumps(body), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [item["embedding"] for item in json.loads(done.stdout)["data"]]


_CUT = {"dimensions": DIMENSIONS}

CLIENTS = (
    ApiClient(name="openai", package="openai", sends="float", ask=openai_float),
    ApiClient(name="openai", package="openai", sends="base64, its default", ask=openai_base64),
    ApiClient(
        name="openai",
        package="openai",
        sends="task, dimensions",
        ask=openai_task,
        expected={"task": "text-matching", **_CUT},
    ),
    ApiClient(
        name="LangChain `OpenAIEmbeddings`",
        package="langchain-openai",
        sends="task, dimensions",
        ask=langchain_openai,
        expected={"task": "retrieval.passage", **_CUT},
    ),
    ApiClient(
        name="LangChain `JinaEmbeddings`",
        package="langchain-community",
        sends="texts alone",
        ask=langchain_jina,
    ),
    ApiClient(
        name="LlamaIndex `OpenAILikeEmbedding`",
        package="llama-index-embeddings-openai-like",
        sends="task, dimensions",
        ask=llama_index_openai,
        expected={"task": "retrieval.passage", **_CUT},
    ),
    ApiClient(
        name="LlamaIndex `JinaEmbedding`",
        package="llama-index-embeddings-jinaai",
        sends="task, dimensions",
        ask=llama_index_jina(task="classification", dimensions=DIMENSIONS),
        expected={"task": "classification", **_CUT},
    ),
    *(
        ApiClient(
            name="LlamaIndex `JinaEmbedding`",
            package="llama-index-embeddings-jinaai",
            sends=f"task, {encoding}",
            ask=llama_index_jina(task="retrieval.passage", encoding_documents=encoding),
            expected={"task": "retrieval.passage", "output": encoding},
            unpacked=True,
        )
        for encoding in ("binary", "ubinary")
    ),
    ApiClient(
        name="LlamaIndex `JinaEmbedding`",
        package="llama-index-embeddings-jinaai",
        sends="task, late chunking",
        ask=llama_index_jina(task="retrieval.passage", late_chunking=True),
        expected={"task": "retrieval.passage"},
        late=True,
    ),
    ApiClient(
        name="Haystack `OpenAITextEmbedder`",
        package="haystack-ai",
        sends="dimensions",
        ask=haystack_openai,
        expected={"task": "base", **_CUT},
    ),
    ApiClient(
        name="Haystack `JinaTextEmbedder`",
        package="jina-haystack",
        sends="task, dimensions",
        ask=haystack_jina,
        expected={"task": "retrieval.query", **_CUT},
    ),
    ApiClient(
        name="Haystack `JinaDocumentEmbedder`",
        package="jina-haystack",
        sends="task, late chunking",
        ask=haystack_jina_late,
        expected={"task": "retrieval.passage"},
        late=True,
    ),
    ApiClient(
        name="mteb `OpenAIAPIEncodeWrapper`", package="mteb", sends="texts alone", ask=mteb_wrapper
    ),
    ApiClient(name="curl", package="curl", sends="task", ask=curl, expected={"task": "separation"}),
)
