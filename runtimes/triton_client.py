"""The embedder's interface in front of a Triton server that serves one of our repositories."""

from __future__ import annotations

import importlib
import random
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes import serving
from runtimes.base import RuntimeBase
from runtimes.chunks import ChunkVectors, Span, Window
from runtimes.embedder import Vectors
from runtimes.errors import AdaptrtError, InputError, MissingError
from runtimes.tokens import TruncationWarning, check_text

_TYPES = {"int32": "INT32", "bool": "BOOL", "object": "BYTES"}
_BAD_INPUT = {"400", "StatusCode.INVALID_ARGUMENT"}
# Overload (queue full, queue timeout) and what a restart or a proxy answers meanwhile.
_TRANSIENT = {"429", "502", "503", "504", "StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED",
              "StatusCode.RESOURCE_EXHAUSTED"}  # fmt: skip
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds between attempts


class TritonEmbedder(RuntimeBase):
    """Embeds texts on a server; one connection, for one thread.

    >>> TritonEmbedder("grpc://localhost:8001").encode(["Guten Tag"], task="classification").shape
    (1, 256)
    """

    def __init__(self, url: str, *, batch_size: int = 64, deadline: float = 60.0) -> None:
        """``url`` is ``http://host:port`` or ``grpc://host:port``.

        A list of texts goes out in requests of ``batch_size``. A request that fails for reasons
        that pass (overload, a restarting server) is sent again until ``deadline`` seconds are over.
        """
        scheme, _, address = url.partition("://")
        if scheme not in ("http", "grpc") or not address:
            raise InputError(f"url: got {url!r}, expected http://host:port or grpc://host:port")
        if batch_size < 1:
            raise InputError(f"batch_size: got {batch_size}, expected at least 1")
        try:
            self._module = importlib.import_module(f"tritonclient.{scheme}")
            self._error = importlib.import_module("tritonclient.utils").InferenceServerException
        except ImportError as error:
            raise MissingError(
                f"tritonclient is not installed ({error}); pip install 'adaptrt[serve]'"
            ) from error
        self._url, self._http = url, scheme == "http"
        self._batch_size, self._deadline = batch_size, deadline
        timeouts = {"network_timeout": deadline, "connection_timeout": deadline}
        self._client = self._module.InferenceServerClient(
            address.rstrip("/"), **(timeouts if self._http else {})
        )
        self._parameters: dict[str, str] | None = None

    @property
    def dimensions(self) -> tuple[int, ...]:
        """The lengths a vector can be cut to; the last is the full length."""
        return tuple(int(d) for d in self._config()["dimensions"].split(","))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks served."""
        return tuple(self._config()["tasks"].split(","))

    def encode(
        self,
        texts: Sequence[str],
        *,
        task: str | Sequence[str] | None = None,
        dimensions: int | None = None,
        prefix: bool = True,
        strict: bool = False,
        progress: bool = False,
    ) -> Vectors:
        """As :meth:`runtimes.Embedder.encode`: FP32 ``[n, dimensions]``.

        The server refuses empty texts and NUL characters. ``task`` may be left out where the
        server has one.
        """
        if isinstance(texts, str):
            raise InputError("texts: got one str, expected a list of them: encode([text])")
        for index, text in enumerate(texts):
            check_text(text, f"text {index}")
        tasks = [task] * len(texts) if isinstance(task, str) else task
        if tasks is not None and len(tasks) != len(texts):
            raise InputError(f"task: got {len(tasks)} tasks for {len(texts)} texts")
        if not len(texts):
            return np.empty((0, dimensions or self.dimensions[-1]), np.float32)
        options = {serving.DIMENSIONS: dimensions, serving.PREFIX: prefix,
                   serving.TRUNCATE: not strict}  # fmt: skip
        parts = []
        starts: Iterable[int] = range(0, len(texts), self._batch_size)
        if progress:
            from tqdm import tqdm

            starts = tqdm(starts, unit="request", disable=None, leave=False)
        for start in starts:
            rows = range(start, min(start + self._batch_size, len(texts)))
            batch = {serving.TEXT: [texts[i] for i in rows],
                     serving.TASK: [tasks[i] for i in rows] if tasks else None}  # fmt: skip
            try:
                found = self._ask(batch | options, [serving.EMBEDDING, serving.WARNINGS])
            except InputError as error:
                raise InputError(serving.renumber(str(error), rows)) from error
            for message in found[serving.WARNINGS]:
                words = serving.renumber(message.decode(), rows)
                warnings.warn(words, TruncationWarning, stacklevel=2)
            parts.append(found[serving.EMBEDDING])
        return np.concatenate(parts)

    def encode_chunks(
        self,
        document: str,
        chunks: Sequence[Span] | None = None,
        *,
        chunk_tokens: int | None = None,
        sentences: int | None = None,
        task: str | None = None,
        dimensions: int | None = None,
        prefix: bool = True,
    ) -> ChunkVectors:
        """As :meth:`runtimes.Embedder.encode_chunks`; needs a bundle with a chunk head there."""
        check_text(document)
        if sum(x is not None for x in (chunks, chunk_tokens, sentences)) != 1:
            raise InputError("chunks: expected exactly one of chunks, chunk_tokens and sentences")
        spans = None if chunks is None else np.array(chunks, np.int32).reshape(-1, 2)
        found = self._ask(
            {
                serving.TEXT: [document], serving.TASK: None if task is None else [task],
                serving.DIMENSIONS: dimensions, serving.PREFIX: prefix,
                serving.LATE_CHUNKING: True, serving.CHUNKS: spans,
                serving.CHUNK_TOKENS: chunk_tokens, serving.SENTENCES: sentences,
            },
            [serving.EMBEDDING, serving.SPANS, serving.WINDOWS],
        )  # fmt: skip
        return ChunkVectors(
            vectors=found[serving.EMBEDDING],
            spans=tuple((int(start), int(end)) for start, end, _ in found[serving.SPANS]),
            windows=tuple(
                Window(start=int(s), end=int(e), tokens=int(n))
                for s, e, n in found[serving.WINDOWS]
            ),
            window_of=tuple(int(window) for *_, window in found[serving.SPANS]),
        )

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _config(self) -> dict[str, str]:
        if self._parameters is None:
            answer = self._retry(self._model_config)
            self._parameters = {n: v["string_value"] for n, v in answer["parameters"].items()}
        return self._parameters

    def _model_config(self, left: float) -> dict[str, Any]:
        if self._http:
            config: dict[str, Any] = self._client.get_model_config(serving.MODEL)
            return config
        answer = self._client.get_model_config(serving.MODEL, as_json=True, client_timeout=left)
        whole: dict[str, Any] = answer["config"]
        return whole

    def _ask(self, inputs: Mapping[str, Any], wanted: list[str]) -> dict[str, NDArray[Any]]:
        tensors = [self._tensor(n, _array(v)) for n, v in inputs.items() if v is not None]
        outputs = [self._module.InferRequestedOutput(name) for name in wanted]

        def send(left: float) -> Any:
            limit = {} if self._http else {"client_timeout": left}
            return self._client.infer(serving.MODEL, tensors, outputs=outputs, **limit)

        answer = self._retry(send)
        return {name: answer.as_numpy(name) for name in wanted}

    def _tensor(self, name: str, array: NDArray[Any]) -> Any:
        tensor = self._module.InferInput(name, list(array.shape), _TYPES[str(array.dtype)])
        tensor.set_data_from_numpy(array)
        return tensor

    def _retry(self, send: Any) -> Any:
        """Try until the deadline, with pauses that double and differ between clients."""
        end, pause = time.monotonic() + self._deadline, _FIRST_PAUSE
        while True:
            try:
                return send(max(end - time.monotonic(), 0.001))
            except self._error as error:
                message, status = str(error.message()), error.status()
                if status in _BAD_INPUT:
                    raise InputError(message) from error
                if status not in _TRANSIENT:
                    raise AdaptrtError(f"{self._url}: {message}") from error
                last: Exception = error
            except OSError as error:  # refused, reset, timed out
                last = error
            wait = random.uniform(pause / 2, pause)
            if time.monotonic() + wait >= end:
                raise AdaptrtError(
                    f"{self._url}: no answer within {self._deadline:g} s ({last}); "
                    "is the server up and its models ready?"
                ) from last
            time.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _array(value: Any) -> NDArray[Any]:
    """Texts, a number or a flag as the tensor that carries it."""
    if isinstance(value, list):
        return np.array([text.encode() for text in value], np.object_)
    if isinstance(value, bool):
        return np.array([value])
    return value if isinstance(value, np.ndarray) else np.array([value], np.int32)
