"""A Triton server behind the HTTP server: requests are sent on to it."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
import warnings
from concurrent.futures import Future, ThreadPoolExecutor

from runtimes.api import problems
from runtimes.api.problems import ApiError
from runtimes.api.settings import Settings
from runtimes.api.work import Work
from runtimes.arrays import Vectors
from runtimes.errors import AdaptrtError, InputError, shown
from runtimes.serving.client import TritonEmbedder
from runtimes.text.tokens import TruncationWarning
from runtimes.text.vocabulary import VocabularyWarning

log = logging.getLogger("adaptrt")
_AGAIN = 5.0  # seconds after a failure until another request may try


class TritonBackend:
    """A Triton server that serves the same bundles; it batches itself."""

    CONNECTIONS = 16

    def __init__(self, settings: Settings) -> None:
        """Connects when the first request comes, or now where there is an index to compare.

        Raises :class:`InputError` for a wrong URL, and what :class:`TritonEmbedder` raises for an
        index.
        """
        self._url, self._deadline = str(settings.triton), settings.deadline
        for index in settings.indexes or (None,):
            TritonEmbedder(self._url, deadline=self._deadline, index=index).close()
        self._most, self._texts, self._tokens = settings.max_queue, 0, 0
        self._local = threading.local()
        self._opened: list[TritonEmbedder] = []
        self._pool = ThreadPoolExecutor(self.CONNECTIONS, "triton", self._connect)
        self._failed_at = -math.inf
        # What is truncated or segmented anew is known here already. Filters are for all threads,
        # so once.
        for category in (TruncationWarning, VocabularyWarning):
            warnings.filterwarnings("ignore", category=category)

    def start(self) -> None:
        """Nothing runs until a request comes."""

    async def embed(self, work: Work) -> Vectors:
        """One request there."""
        if work.texts is None:
            raise ApiError(
                problems.BAD_VALUE,
                "input: token ids cannot be sent on to a Triton server; send texts",
                param="input",
            )
        if self._texts + work.texts_count > self._most:
            raise ApiError(
                problems.BUSY,
                f"{self._texts} texts wait already; send the request again later",
                retry_after=1,
            )
        self._texts += work.texts_count
        self._tokens += work.tokens
        future: Future[Vectors] = self._pool.submit(self._ask, work)
        try:
            return await asyncio.wrap_future(future)
        finally:
            self._texts -= work.texts_count
            self._tokens -= work.tokens

    def waiting(self) -> tuple[int, int]:
        """Texts and tokens that were sent on, or will be."""
        return self._texts, self._tokens

    def ready(self) -> bool:
        """Whether the last request was answered, or failed so long ago that another may try."""
        return time.monotonic() - self._failed_at > _AGAIN

    def close(self) -> None:
        """Hang up."""
        self._pool.shutdown(cancel_futures=True)
        for client in self._opened:
            client.close()

    def _connect(self) -> None:
        """A connection for each thread: over HTTP it cannot be shared."""
        self._local.client = TritonEmbedder(self._url, deadline=self._deadline)
        self._opened.append(self._local.client)

    def _ask(self, work: Work) -> Vectors:
        client, texts = self._local.client, work.texts or []
        try:
            if work.plan is None:
                vectors: Vectors = client.encode(texts, task=work.task)
            else:
                document, spans = " ".join(texts), work.plan.spans
                vectors = client.encode_chunks(document, spans, task=work.task).vectors
        except InputError as error:
            raise ApiError(problems.BAD_VALUE, f"input: {error}", param="input") from error
        except AdaptrtError as error:
            self._failed_at = time.monotonic()
            log.error("%s", shown(str(error), 400))
            message = "the server behind this one does not answer; send the request again later"
            raise ApiError(problems.BEHIND, message, retry_after=5) from error
        self._failed_at = -math.inf
        return vectors
