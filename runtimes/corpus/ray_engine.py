"""The Ray engine: the same splits, embedded by actors of a cluster through Ray Data.

Only splits and records go through Ray's object store: actors read the input and write the parts
themselves, in a folder that every node has. A part is whole or not there, so what a lost node
leaves is done again by another, and a part that it had finished is taken as it is.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from runtimes.corpus.job import Facts, describe, load
from runtimes.corpus.parts import read_record
from runtimes.corpus.pipeline import Done, embed_splits
from runtimes.corpus.records import Job, Loading, Record, Split, Wanted
from runtimes.errors import AdaptrtError, InputError, MissingError, shown

if TYPE_CHECKING:
    from typing_extensions import Self

_ACTORS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_HOST_AND_PORT = re.compile(r"(?:ray://)?([^:/]+):(\d{1,5})")
_ANSWER = 10.0  # seconds
_STORE = 128 << 20  # bytes of a local cluster's object store, which holds splits and records
_IN_FLIGHT = 64 << 20  # bytes of them that Ray Data keeps under way
_SPLIT_BYTES = 4096  # of one split, or record without skipped rows, in the object store


@dataclass(frozen=True, kw_only=True)
class RaySettings:
    """Which cluster, and what each actor gets. ``address`` None starts one on this machine."""

    address: str | None = None
    least: int = 1
    most: int = 1
    cpus: int = 1
    gpus: float = 0.0

    @classmethod
    def parse(cls, arguments: Namespace) -> Self:
        """From the command's options; raises :class:`InputError`."""
        found = _ACTORS.fullmatch(arguments.actors or "1")
        least = int(found[1]) if found else 0
        most = int(found[2] or least) if found else 0
        if not 1 <= least <= most:
            raise InputError(
                f"--actors: got {shown(arguments.actors)}, expected a number such as 4, or 2-8 "
                "for a pool that grows"
            )
        cpus = 1 if arguments.cpus_per_actor is None else arguments.cpus_per_actor
        gpus = 0.0 if arguments.gpus_per_actor is None else arguments.gpus_per_actor
        if cpus < 1:
            raise InputError(f"--cpus-per-actor: got {cpus}, expected at least 1")
        if gpus < 0 or (gpus > 1 and gpus != int(gpus)):
            raise InputError(
                f"--gpus-per-actor: got {gpus:g}, expected a share of one, such as 0.5, or a "
                "whole number"
            )
        if arguments.threads is not None:
            raise InputError("--threads: an actor has --cpus-per-actor threads; leave it out")
        return cls(address=arguments.ray_address, least=least, most=most, cpus=cpus, gpus=gpus)


class RayEngine:
    """Actors of a cluster; a context manager."""

    def __init__(self, loading: Loading, wanted: Wanted, settings: RaySettings) -> None:
        self._loading = replace(loading, bundle=loading.bundle.absolute(), threads=settings.cpus)
        self._wanted, self._settings = wanted, settings

    def __enter__(self) -> Self:
        self._ray = _import_ray()
        try:
            _connect(self._ray, self._settings.address)
            alive = [n["Resources"] for n in self._ray.nodes() if n["Alive"]]
            require_room(self._settings, alive)
        except BaseException:
            self._ray.shutdown()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ray.shutdown()

    def facts(self) -> Facts:
        """Of the bundle, opened where actors will; the driver's machine need not have a GPU."""
        task = self._ray.remote(num_cpus=self._settings.cpus, num_gpus=self._settings.gpus)(_facts)
        with self._as_ours():
            found: Facts | AdaptrtError = self._ray.get(task.remote(self._loading, self._wanted))
        if isinstance(found, AdaptrtError):
            raise found
        return found

    def run(self, job: Job, splits: Sequence[Split]) -> Iterator[Done | Record]:
        """A record for each split, in the order in which they are finished."""
        settings, sizes = self._settings, {split.index: split.bytes for split in splits}
        items = [{"split": msgspec.json.encode(split)} for split in splits]
        data = self._ray.data.from_items(items, override_num_blocks=len(items))
        finished = data.map_batches(
            SplitEmbedder,
            fn_constructor_args=(replace(job, loading=self._loading),),
            compute=self._ray.data.ActorPoolStrategy(
                min_size=min(settings.least, len(items)), max_size=settings.most
            ),
            num_cpus=settings.cpus,
            num_gpus=settings.gpus,
            batch_size=1,
        )
        limits = self._ray.data.ExecutionResources(
            object_store_memory=max(_IN_FLIGHT, settings.most * _SPLIT_BYTES)
        )
        finished.context.execution_options.resource_limits = limits
        finished.context.enable_progress_bars = False
        rows = iter(finished.iter_rows())
        while True:
            with self._as_ours():
                row = next(rows, None)
            if row is None:
                return
            record = _result(row)
            texts, tokens = record.texts, record.tokens
            yield Done(split=record.split, bytes=sizes[record.split], texts=texts, tokens=tokens)
            yield record

    @contextmanager
    def _as_ours(self) -> Iterator[None]:
        """What Ray raises, of a cluster that is lost or of an actor that cannot start, as ours."""
        try:
            yield
        except self._ray.exceptions.RayError as error:
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise AdaptrtError(
                f"Ray failed ({shown(first)}); its logs, in /tmp/ray on each node, say more"
            ) from error


class SplitEmbedder:
    """What an actor is: an embedder, and a pipeline for each split that it is given."""

    def __init__(self, job: Job) -> None:
        from ray.util.metrics import Counter

        self._job, self._embedder = job, load(job.loading)
        self._counters = {
            name: Counter(f"adaptrt_embed_{name}", description=f"{name} embedded")
            for name in ("texts", "tokens")
        }

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Records of the batch's splits, or what went wrong, as JSON."""
        results = [self._embed(msgspec.json.decode(text, type=Split)) for text in batch["split"]]
        return {"result": np.array(results, object)}

    def _embed(self, split: Split) -> bytes:
        record = read_record(self._job, split)  # of an actor that was lost when it was finished
        try:
            for item in (
                () if record is not None else embed_splits(self._embedder, self._job, [split])
            ):
                if isinstance(item, Record):
                    record = item
                    continue
                self._counters["texts"].inc(item.texts)
                self._counters["tokens"].inc(item.tokens)
        except (AdaptrtError, OSError) as error:
            return msgspec.json.encode(_as_json(error))
        return msgspec.json.encode(record)


def require_room(settings: RaySettings, nodes: Sequence[Mapping[str, float]]) -> None:
    """:class:`InputError` where an actor can never be placed: the job would wait for ever.

    ``nodes`` are the resources of each. A cluster without any CPU yet, which grows when it is
    asked to, is not judged. Every CPU may be asked for: nothing but actors runs, for splits
    are handed over without a reading task.
    """
    cpus = [node.get("CPU", 0.0) for node in nodes]
    if not any(cpus):
        return
    if settings.cpus > max(cpus):
        raise InputError(
            f"--cpus-per-actor: got {settings.cpus}, the largest node has {max(cpus):g} CPUs; "
            "such an actor would be waited for for ever"
        )
    if settings.least * settings.cpus > sum(cpus):
        raise InputError(
            f"--actors: {settings.least} of {settings.cpus} CPUs, the cluster has {sum(cpus):g}; "
            f"ask for fewer, or for a pool that grows, such as 1-{settings.most}"
        )
    gpus = sum(node.get("GPU", 0.0) for node in nodes)
    if settings.least * settings.gpus > gpus:
        raise MissingError(
            f"--gpus-per-actor: {settings.least} × {settings.gpus:g} GPUs, the cluster has {gpus:g}"
        )


def _import_ray() -> Any:
    # Set before it is loaded, unless the user did: no reports of usage over the network, and no
    # lines of its C++ part, which names a warning an error.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingError(f"Ray is not installed ({error}); pip install 'adaptrt[ray]'") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


def _connect(ray: Any, address: str | None) -> None:
    """To a cluster, or to a new one on this machine, which ends with this process."""
    quiet = {"log_to_driver": False, "logging_level": "error", "configure_logging": True}
    if address is None:
        ray.init(address="local", object_store_memory=_STORE, include_dashboard=False, **quiet)
        return
    try:
        _require_listener(address)
        ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"--ray-address: no cluster answers at {shown(address)} ({shown(str(error))})"
        ) from error


def _require_listener(address: str) -> None:
    """OSError where nobody listens; Ray itself would try for many minutes."""
    if found := _HOST_AND_PORT.fullmatch(address):
        with socket.create_connection((found[1], int(found[2])), timeout=_ANSWER):
            return


def _facts(loading: Loading, wanted: Wanted) -> Facts | AdaptrtError:
    try:
        with load(loading) as embedder:
            return describe(embedder, wanted, loading)
    except AdaptrtError as error:
        return error


def _as_json(error: AdaptrtError | OSError) -> dict[str, object]:
    code = error.exit_code if isinstance(error, AdaptrtError) else AdaptrtError.exit_code
    return {"error": str(error), "code": code}


def _result(row: Mapping[str, Any]) -> Record:
    found = msgspec.json.decode(row["result"])
    if "error" in found:
        kinds = {kind.exit_code: kind for kind in (InputError, MissingError)}
        raise kinds.get(found["code"], AdaptrtError)(found["error"])
    return msgspec.convert(found, Record)
