"""The driver: plans, asks an engine to embed what is not finished, keeps the journal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

import pyarrow as pa

from runtimes.corpus.columns import input_columns
from runtimes.corpus.folder import Folder, Journal, described, require_same
from runtimes.corpus.job import Facts, make_job
from runtimes.corpus.parts import read_record
from runtimes.corpus.pipeline import Done
from runtimes.corpus.records import Job, Loading, Record, Request, Split, Wanted
from runtimes.corpus.sources import Source, find_source
from runtimes.corpus.splits import plan_splits
from runtimes.errors import InputError
from runtimes.fingerprint import Fingerprint
from runtimes.manifest import read_manifest


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What is about to be done: ``bytes`` of the input that are left, in ``left`` parts."""

    parts: int
    left: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What the folder holds, and what this run did: ``new`` parts, ``new_tokens``."""

    parts: int
    rows: int
    texts: int
    tokens: int
    cut: int
    skipped: int
    new: int
    new_tokens: int
    seconds: float


class EngineRun(Protocol):
    """What embeds splits somewhere."""

    def facts(self) -> Facts:
        """Of the bundle, opened where it will run."""

    def run(self, job: Job, splits: Sequence[Split]) -> Iterator[Done | Record]:
        """A :class:`Record` for each split, in any order."""


OpenEngine = Callable[[Loading, Wanted], AbstractContextManager[EngineRun]]
Watch = Callable[[Planned | Done | Record], None]


def embed_corpus(request: Request, engine: OpenEngine, watch: Watch) -> Summary:
    """Every split's part in the folder; what is there already is not made again.

    Raises :class:`InputError` for a corpus, bundle or folder that cannot be used, and for a row
    that cannot be embedded unless those are skipped. Whatever ends it early, the same call goes
    on, and the parts are the same to the last byte.
    """
    start = time.perf_counter()
    folder = Folder(request.out)
    folder.check_usable()
    read_manifest(request.loading.bundle)
    source = find_source(request.input, request.out)
    columns = input_columns(source, request.wanted, skip=request.skips)
    with engine(request.loading, request.wanted) as running:
        facts = running.facts()
        with folder.locked():
            job, splits = _begin(folder, request, source, columns, facts)
            with folder.journal() as journal:
                new = _embed(folder, running, job, splits, journal, watch)
                records = list(journal.records.values())
            folder.finish(records)
    return _summary(records, new, time.perf_counter() - start)


def _begin(
    folder: Folder, request: Request, source: Source, columns: pa.Schema, facts: Facts
) -> tuple[Job, list[Split]]:
    """The job and its splits: those that began in the folder, or new ones."""
    job = make_job(request, source, columns, facts)
    now = described(job.identity, source.files)
    if folder.begun and folder.has_parts:
        former = folder.read_job()
        job = replace(job, fingerprint=_kept_fingerprint(folder, former))
        require_same(former, now, folder.out)
        return job, folder.read_plan()
    splits = list(plan_splits(source, request))
    folder.begin(now | {"fingerprint_record": job.fingerprint.decode()}, splits)
    return job, splits


def _kept_fingerprint(folder: Folder, former: dict[str, object]) -> bytes:
    """That of the run that began: the last bits of canaries differ between machines."""
    kept = former.pop("fingerprint_record", None)
    if not isinstance(kept, str):
        raise InputError(f"{folder.state}: job.json has no fingerprint; begin anew elsewhere")
    return Fingerprint.from_bytes(kept.encode(), folder.state).to_bytes()


def _embed(
    folder: Folder,
    engine: EngineRun,
    job: Job,
    splits: Sequence[Split],
    journal: Journal,
    watch: Watch,
) -> list[Record]:
    """The records of the parts that were made now."""
    journal.records.update((record.split, record) for record in folder.read_parts())
    left = [split for split in splits if not _is_finished(job, split, journal)]
    folder.clear_staged()
    watch(Planned(parts=len(splits), left=len(left), bytes=sum(split.bytes for split in left)))
    new = []
    for item in engine.run(job, left) if left else ():
        if isinstance(item, Record):
            journal.add(item)
            new.append(item)
        watch(item)
    return new


def _is_finished(job: Job, split: Split, journal: Journal) -> bool:
    """By the journal; a part that a kill kept from it is taken by what it says of itself."""
    record = journal.records.get(split.index)
    if record is not None:
        path = job.out / record.part
        if (
            record.part == job.part(split)
            and path.is_file()
            and path.stat().st_size == record.bytes
        ):
            return True
        del journal.records[split.index]
    if (record := read_record(job, split)) is None:
        return False
    journal.add(record)
    return True


def _summary(records: Sequence[Record], new: Sequence[Record], seconds: float) -> Summary:
    return Summary(
        parts=len(records),
        rows=sum(record.rows for record in records),
        texts=sum(record.texts for record in records),
        tokens=sum(record.tokens for record in records),
        cut=sum(record.cut for record in records),
        skipped=sum(len(record.skipped) for record in records),
        new=len(new),
        new_tokens=sum(record.tokens for record in new),
        seconds=seconds,
    )
