"""The embedder's interface in front of a Triton server that serves one of our repositories."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.arguments import check_flag, check_path, check_whole, list_tasks, list_texts
from runtimes.arrays import Vectors
from runtimes.choices import OutputType
from runtimes.errors import AdaptrtError, InputError
from runtimes.executors.base import RuntimeBase, while_open
from runtimes.fingerprint import BundleFingerprints, Fingerprint, embed_canaries, with_canaries
from runtimes.index.guard import Guard
from runtimes.index.offer import Offer
from runtimes.index.read import read_index
from runtimes.index.verdict import SEARCHED_BY
from runtimes.serving import requests
from runtimes.serving.connection import Connection
from runtimes.text.chunks import ChunkVectors, Cut, Span, Window
from runtimes.text.tokens import TruncationWarning, check_text, groups
from runtimes.text.vocabulary import VocabularyWarning

# Characters of a request's texts; as bytes no more than one text may have by default.
_REQUEST = 1 << 18


class TritonEmbedder(RuntimeBase):
    """Embeds texts on a server; one connection, over HTTP for one thread. A copy opens its own.

    >>> TritonEmbedder("grpc://localhost:8001").encode(["Guten Tag"], task="classification").shape
    (1, 256)
    """

    reopen = "connect again"

    def __init__(
        self,
        url: str,
        *,
        batch_size: int = 64,
        deadline: float = 60.0,
        index: str | Path | None = None,
    ) -> None:
        """``url`` is ``http://host:port`` or ``grpc://host:port``.

        A list of texts goes out in requests of ``batch_size``, or fewer where they are long. A
        request that fails for reasons that pass (overload, a restarting server) is sent again until
        ``deadline`` seconds are over; after 5 s as long as no server has ever answered.

        ``index`` as for :meth:`runtimes.Embedder.load`: the server is asked at once, and
        :class:`~runtimes.errors.IndexMismatchError` says why its vectors do not belong there.
        """
        place = None if index is None else check_path("index", index)
        check_whole("batch_size", batch_size, 1)
        self._connection = Connection(url, deadline)
        self._batch_size = batch_size
        self._parameters: dict[str, str] | None = None
        self._reload = partial(
            type(self),
            url,
            batch_size=batch_size,
            deadline=deadline,
            index=place and place.absolute(),
        )
        self.guard: Guard | None = None
        if place is not None:
            self._guard(place)

    @property
    def dimensions(self) -> tuple[int, ...]:
        """The lengths a vector can be cut to; the last is the full length."""
        return tuple(int(d) for d in self._parameter("dimensions").split(","))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks served."""
        return tuple(self._parameter("tasks").split(","))

    @property
    def max_bytes(self) -> int:
        """What the server takes of one text, in bytes of UTF-8."""
        return int(self._parameter("max_bytes"))

    @while_open
    def encode(
        self,
        texts: Iterable[str],
        *,
        task: str | Iterable[str] | None = None,
        dimensions: int | None = None,
        prefix: bool = True,
        strict: bool = False,
        progress: bool = False,
    ) -> Vectors:
        """As :meth:`runtimes.Embedder.encode`: FP32 ``[n, dimensions]``.

        How long a text may be is the server's setting, :attr:`max_bytes`. ``task`` may be left out
        where the server has one.
        """
        listed = list_texts(texts)
        for index, text in enumerate(listed):
            self._check_text(text, f"text {index}")
        tasks = list_tasks(task, len(listed))
        check_flag("strict", strict)
        options = _options(dimensions, prefix) | {requests.TRUNCATE: not strict}
        if self.guard is not None:
            self.guard.check(tasks, dimensions or self.dimensions[-1], prefix=prefix)
        if not listed:
            return np.empty((0, dimensions or self.dimensions[-1]), np.float32)
        parts = []
        parcels = list(groups(map(len, listed), _REQUEST, self._batch_size))
        for rows in _with_progress(parcels) if check_flag("progress", progress) else parcels:
            batch = {
                requests.TEXT: [listed[i] for i in rows],
                requests.TASK: [tasks[i] for i in rows] if tasks else None,
            }
            try:
                outputs = self._ask(batch | options, [requests.EMBEDDING, requests.WARNINGS])
            except InputError as error:
                raise InputError(requests.renumber(str(error), rows)) from error
            for message in outputs[requests.WARNINGS]:
                words = requests.renumber(message.decode(), rows)
                warnings.warn(words, _category(words), stacklevel=3)
            parts.append(outputs[requests.EMBEDDING])
        return np.concatenate(parts)

    @while_open
    def encode_chunks(
        self,
        document: str,
        chunks: Iterable[Span] | None = None,
        *,
        chunk_tokens: int | None = None,
        sentences: int | None = None,
        task: str | None = None,
        dimensions: int | None = None,
        prefix: bool = True,
    ) -> ChunkVectors:
        """As :meth:`runtimes.Embedder.encode_chunks`; needs a bundle with a chunk head there."""
        self._check_text(document, "document")
        cut = Cut.parse(chunks, chunk_tokens, sentences)
        tasks = list_tasks(task, 1)
        if self.guard is not None:
            self.guard.check(tasks, dimensions or self.dimensions[-1], prefix=prefix)
        outputs = self._ask(
            _options(dimensions, prefix)
            | {
                requests.TEXT: [document],
                requests.TASK: tasks,
                requests.LATE_CHUNKING: True,
                requests.CHUNKS: None if cut.chunks is None else np.array(cut.chunks, np.int32),
                requests.CHUNK_TOKENS: cut.chunk_tokens,
                requests.SENTENCES: cut.sentences,
            },
            [requests.EMBEDDING, requests.SPANS, requests.WINDOWS],
        )
        return ChunkVectors(
            vectors=outputs[requests.EMBEDDING],
            spans=tuple((int(start), int(end)) for start, end, _ in outputs[requests.SPANS]),
            windows=tuple(
                Window(start=int(s), end=int(e), tokens=int(n))
                for s, e, n in outputs[requests.WINDOWS]
            ),
            window_of=tuple(int(window) for *_, window in outputs[requests.SPANS]),
        )

    def _ask(self, inputs: Mapping[str, Any], output_names: list[str]) -> dict[str, NDArray[Any]]:
        arrays = {name: _array(value) for name, value in inputs.items() if value is not None}
        return self._connection.infer(requests.MODEL, arrays, output_names)

    def _free(self) -> None:
        self._connection.close()

    def _check_text(self, text: object, where: str) -> None:
        """The server is asked for its limit, and not sent the text, only where it matters."""
        check_text(text, where)
        if isinstance(text, str) and len(text) > _REQUEST:
            check_text(text, where, self.max_bytes)

    def _guard(self, path: Path) -> None:
        """Compare the server with an index, or hang up."""
        try:
            index = read_index(path)
            served = self._served()
            asked = (index.fingerprint.task, SEARCHED_BY.get(index.fingerprint.task, ""))
            name = f"server {self._connection.url}"

            def measure(task: str, dimensions: int, prefix: bool) -> Fingerprint:
                vectors = embed_canaries(
                    lambda text: self.encode(
                        [text], task=task, dimensions=dimensions, prefix=prefix, strict=True
                    )
                )
                return with_canaries(served[task], vectors, name)

            offer = Offer.of_server(served, self.dimensions, name, asked, measure)
            self.guard = Guard.of(offer, index, OutputType.FLOAT32)
        except BaseException:
            self.close()
            raise

    def _served(self) -> dict[str, Fingerprint]:
        """What the repository says of each task."""
        url, name = self._connection.url, requests.FINGERPRINTS
        self._parameter("tasks")
        if name not in (self._parameters or {}):
            raise InputError(
                f"{url}: its repository was written by an earlier version, and does not say what "
                "made its vectors; write it again with adaptrt triton"
            )
        return {one.task: one for one in BundleFingerprints.served(self._parameter(name), url)}

    @while_open
    def _parameter(self, name: str) -> str:
        if self._parameters is None:
            self._parameters = self._connection.parameters(requests.MODEL)
        if name not in self._parameters:
            raise AdaptrtError(
                f"{self._connection.url}: its model {requests.MODEL} has no parameter {name}; it "
                "is not of a repository that `make triton` wrote"
            )
        return self._parameters[name]


def _category(message: str) -> type[UserWarning]:
    return VocabularyWarning if message.startswith("vocabulary:") else TruncationWarning


def _options(dimensions: int | None, prefix: bool) -> dict[str, int | bool | None]:
    if dimensions is not None:
        check_whole("dimensions", dimensions, 1)
    return {requests.DIMENSIONS: dimensions, requests.PREFIX: check_flag("prefix", prefix)}


def _with_progress(parcels: list[range]) -> Iterable[range]:
    from tqdm import tqdm

    bar: Iterable[range] = tqdm(parcels, unit="request", disable=None, leave=False)
    return bar


def _array(value: Any) -> NDArray[Any]:
    """Texts, a number or a flag as the tensor that carries it."""
    if isinstance(value, list):
        return np.array([text.encode() for text in value], np.object_)
    if isinstance(value, bool):
        return np.array([value])
    return value if isinstance(value, np.ndarray) else np.array([value], np.int32)
