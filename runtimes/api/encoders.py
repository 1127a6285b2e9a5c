"""What executes a call: the embedders of this process, or those of a worker process."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from runtimes.api.queue import CallLimit, Order
from runtimes.api.settings import Settings
from runtimes.arrays import Vectors
from runtimes.choices import Unknown
from runtimes.embedder import Embedder
from runtimes.errors import AdaptrtError, IndexMismatchError, MissingError
from runtimes.index.guard import Guard
from runtimes.index.offer import Offer
from runtimes.index.read import read_index
from runtimes.index.verdict import SEARCHED_BY
from runtimes.manifest import Manifest, read_manifest

_START = 600.0  # seconds a worker may take to load its bundles
_END = 5.0  # seconds a worker may take to end after its last call


class WorkerLostError(AdaptrtError):
    """A worker process ended in the middle of a call."""


class Encoder(Protocol):
    """Runs one call at a time, in one thread."""

    limits: tuple[CallLimit, ...]

    def run(self, order: Order) -> Vectors:
        """Vectors ``[n, hidden]`` of an order's rows, or of its window's chunks."""

    def revive(self) -> bool:
        """Make it usable again where it no longer is; whether anything had to be done."""

    def close(self) -> None:
        """Free what it holds."""


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How each bundle is opened; it can be sent to another process."""

    bundles: tuple[Path, ...]
    runtime: str
    device: str | None
    threads: int | None
    max_text_bytes: int
    unknown: str | None
    fallback: Path | None
    indexes: tuple[Path, ...] = ()

    @classmethod
    def of(cls, settings: Settings) -> Loading:
        """Where workers share a machine, each gets its share of the cores."""
        threads = settings.threads
        if threads is None and settings.workers > 1:
            threads = max(1, _cores() // settings.workers)
        return cls(
            bundles=tuple(folder.absolute() for folder in settings.bundles),
            runtime=settings.runtime,
            device=settings.device,
            threads=threads,
            max_text_bytes=settings.max_text_bytes,
            unknown=settings.unknown,
            fallback=settings.fallback and settings.fallback.absolute(),
            indexes=tuple(path.absolute() for path in settings.indexes),
        )

    def policy(self, manifest: Manifest) -> tuple[str | None, Path | None]:
        """What one bundle is loaded with: only those of few tokens have a policy, or need more."""
        if manifest.vocabulary is None:
            return None, None
        asked = self.unknown or manifest.vocabulary.unknown
        return self.unknown, self.fallback if asked == Unknown.FALLBACK else None


class LocalEncoder:
    """The embedders of this process."""

    def __init__(self, loading: Loading) -> None:
        """Opens every bundle; raises what :meth:`Embedder.load` does, with an index too."""
        self._embedders: list[Embedder] = []
        try:
            for folder in loading.bundles:
                unknown, fallback = loading.policy(read_manifest(folder, files=False))
                self._embedders.append(
                    Embedder.load(
                        folder,
                        runtime=loading.runtime,
                        device=loading.device,
                        threads=loading.threads,
                        max_bytes=loading.max_text_bytes,
                        spinning=False,  # the server's own work needs the cores between calls
                        unknown=unknown,
                        fallback=fallback,
                    )
                )
            for path in loading.indexes:
                _require_index(loading.bundles, self._embedders, path)
        except BaseException:
            self.close()
            raise
        self.limits = tuple(
            CallLimit(rows=e.manifest.max_batch, budget=e.runtime.budget) for e in self._embedders
        )

    def run(self, order: Order) -> Vectors:
        """Execute once."""
        embedder = self._embedders[order.bundle]
        if order.window is not None:
            return embedder.run_window(order.window, order.tasks[0])
        return embedder.run_rows(order.rows, order.tasks)

    def revive(self) -> bool:
        """It lives as long as the server."""
        return False

    def close(self) -> None:
        """Close the embedders."""
        for embedder in self._embedders:
            embedder.close()


class WorkerEncoder:
    """The embedders of a process of its own, which is started anew where it was lost."""

    def __init__(self, loading: Loading) -> None:
        """Starts the process and waits until its bundles are open."""
        self._loading = loading
        self._start()

    @property
    def pid(self) -> int | None:
        """The process's number."""
        return self._process.pid

    def run(self, order: Order) -> Vectors:
        """Execute once; raises :class:`WorkerLostError` where the process ends meanwhile."""
        try:
            self._pipe.send(order)
            result = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise WorkerLostError(f"worker {self.pid} ended in the middle of a call") from error
        if isinstance(result, AdaptrtError):
            raise result
        vectors: Vectors = result
        return vectors

    def revive(self) -> bool:
        """Start a new process where the old one is gone; raises as starting does."""
        if self._process.is_alive():
            return False
        self.close()
        self._start()
        return True

    def close(self) -> None:
        """The process ends when its pipe does."""
        self._pipe.close()
        self._process.join(_END)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _start(self) -> None:
        context = get_context("spawn")  # a fork would inherit the threads' locks
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(self._loading, theirs), name="adaptrt-encoder", daemon=True
        )
        self._process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        try:
            first = self._pipe.recv() if self._pipe.poll(_START) else None
        except (EOFError, OSError):
            first = None
        if isinstance(first, AdaptrtError):
            self.close()
            raise first
        if first is None:
            self.close()
            raise AdaptrtError(f"worker {self.pid} ended before its bundles were open")
        self.limits: tuple[CallLimit, ...] = first


def open_encoders(settings: Settings) -> Sequence[Encoder]:
    """One in this process, or so many worker processes."""
    loading = Loading.of(settings)
    if not settings.workers:
        return (LocalEncoder(loading),)
    workers: list[WorkerEncoder] = []
    try:
        for _ in range(settings.workers):
            workers.append(WorkerEncoder(loading))
    except BaseException:
        for worker in workers:
            worker.close()
        raise
    return workers


def _serve(loading: Loading, pipe: Connection) -> None:
    """A worker's life: load, then an order in, vectors out, until the server hangs up.

    Signals that end a server go to its whole group; workers must outlive the last request.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        encoder = LocalEncoder(loading)
    except AdaptrtError as error:
        pipe.send(_sendable(error))
        return
    pipe.send(encoder.limits)
    with pipe:
        while True:
            try:
                order = pipe.recv()
            except (EOFError, OSError):
                break
            try:
                pipe.send(encoder.run(order))
            except AdaptrtError as error:
                pipe.send(_sendable(error))
    encoder.close()


def _require_index(folders: Sequence[Path], embedders: Sequence[Embedder], path: Path) -> None:
    """Refuse to start unless the index belongs to the bundles of its model that have its task.

    Other bundles may be for something else.
    """
    index = read_index(path)
    one = index.fingerprint
    related = {one.task, SEARCHED_BY.get(one.task)}
    pairs = list(zip(folders, embedders, strict=True))
    same_model = [pair for pair in pairs if pair[1].manifest.model.sha256 == one.model]
    same_task = [pair for pair in same_model if related & set(pair[1].manifest.prefixes)]
    for folder, embedder in same_task or same_model or pairs:
        Guard.of(Offer.of_embedder(embedder, f"bundle {folder}"), index)


def _sendable(error: AdaptrtError) -> AdaptrtError:
    """The same without what caused it, which may not be picklable."""
    for kind in (MissingError, IndexMismatchError):
        if isinstance(error, kind):
            return kind(str(error))
    return AdaptrtError(str(error))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
