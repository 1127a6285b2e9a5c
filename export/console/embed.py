"""``adaptrt embed``: from options to a request, a bar while it runs, and lines at the end."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from export.console.progress import STILL, bars_shown, log
from runtimes.arguments import check_whole
from runtimes.errors import InputError, MissingError

if TYPE_CHECKING:
    from tqdm import tqdm

    from runtimes.corpus.estimate import Estimate
    from runtimes.corpus.pipeline import Done
    from runtimes.corpus.records import Record, Request
    from runtimes.corpus.run import OpenEngine, Planned, Summary, Watch

_RAY_ONLY = ("ray_address", "actors", "cpus_per_actor", "gpus_per_actor")


def embed(arguments: argparse.Namespace) -> list[str]:
    """Embed the corpus, or with ``--dry-run`` say what it would take; the lines to print."""
    if find_spec("pyarrow") is None:
        raise MissingError("pyarrow is not installed; pip install 'adaptrt[embed]'")
    request = _request(arguments)
    engine = _engine(arguments)
    if arguments.dry_run:
        from runtimes.corpus.estimate import estimate

        return _estimate_lines(estimate(request))
    from runtimes.corpus.run import embed_corpus

    with _watching() as watch:
        summary = embed_corpus(request, engine, watch)
    return _summary_lines(request, summary)


def _request(arguments: argparse.Namespace) -> Request:
    from runtimes.corpus.records import Loading, OnError, Request, Stored, Wanted

    cut = arguments.chunk_tokens is not None or arguments.sentences is not None
    if arguments.late_chunking != cut:
        raise InputError(
            "--late-chunking: expected with --chunk-tokens N or --sentences N, and those with it"
        )
    return Request(
        input=arguments.input,
        out=arguments.out,
        on_error=OnError.parse("--on-error", arguments.on_error),
        wanted=Wanted(
            column=arguments.column,
            id_column=arguments.id_column,
            keep=tuple(arguments.keep or ()),
            task=arguments.task,
            dimensions=arguments.dimensions,
            output=Stored.parse("--output-type", arguments.output_type),
            prefix=arguments.prefix,
            strict=arguments.strict,
            chunk_tokens=arguments.chunk_tokens,
            sentences=arguments.sentences,
            split_bytes=arguments.split_bytes,
        ),
        loading=Loading(
            bundle=arguments.bundle,
            runtime=arguments.runtime,
            device=arguments.device,
            threads=arguments.threads,
            adapter=arguments.adapter,
        ),
    )


def _engine(arguments: argparse.Namespace) -> OpenEngine:
    from runtimes.corpus.records import Engine

    if Engine.parse("--engine", arguments.engine) is Engine.LOCAL:
        for name in _RAY_ONLY:
            if getattr(arguments, name) is not None:
                raise InputError(f"--{name.replace('_', '-')}: is for --engine ray; add it")
        from runtimes.corpus.workers import LocalEngine

        workers = 1 if arguments.workers is None else arguments.workers
        return partial(LocalEngine, workers=check_whole("--workers", workers, 1))
    if arguments.workers is not None:
        raise InputError("--workers: is for --engine local; Ray has --actors")
    from runtimes.corpus.ray_engine import RayEngine, RaySettings

    return partial(RayEngine, settings=RaySettings.parse(arguments))


@contextmanager
def _watching() -> Iterator[Watch]:
    """A bar of the input's bytes with tokens per second, or now and then a line."""
    from tqdm import tqdm

    with tqdm(
        unit="B", unit_scale=True, disable=not bars_shown(), leave=False, file=sys.stderr
    ) as bar:
        yield _Watcher(bar).see


class _Watcher:
    """Adds up what is done, also of a split that is done again because its worker died."""

    def __init__(self, bar: tqdm[None]) -> None:
        self._bar = bar
        self._start = self._said = time.perf_counter()
        self._tokens = self._bytes = self._parts = 0
        self._planned: Planned | None = None

    def see(self, item: Planned | Done | Record) -> None:
        """What the driver says."""
        from runtimes.corpus.pipeline import Done
        from runtimes.corpus.run import Planned

        if isinstance(item, Planned):
            self._planned = item
            self._bar.total = item.bytes
            self._start = time.perf_counter()
            log.info("  %d of %d parts to be made", item.left, item.parts)
            return
        if isinstance(item, Done):
            self._bytes += item.bytes
            self._tokens += item.tokens
            self._bar.set_postfix_str(f"{self._rate():.0f} tokens/s", refresh=False)
            self._bar.update(item.bytes)
        else:
            self._parts += 1
        self._say()

    def _rate(self) -> float:
        return self._tokens / max(1e-9, time.perf_counter() - self._start)

    def _say(self) -> None:
        now = time.perf_counter()
        if self._planned is None or bars_shown() or now - self._said < STILL:
            return
        self._said = now
        left = max(0, self._planned.bytes - self._bytes)
        seconds = left * (now - self._start) / max(1, self._bytes)
        log.info(
            "  %d of %d parts, %.0f tokens/s, about %s left",
            self._parts,
            self._planned.left,
            self._rate(),
            _duration(seconds),
        )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _summary_lines(request: Request, summary: Summary) -> list[str]:
    lines = [
        f"{request.out}: {summary.rows} rows of {summary.texts} texts in "
        f"{_counted(summary.parts, 'part')}",
        f"  {_counted(summary.new, 'part')} made now, {summary.new_tokens} tokens in "
        f"{_duration(summary.seconds)}",
    ]
    if summary.cut:
        lines.append(f"  {summary.cut} texts were longer than the bundle takes: their ends are cut")
    if summary.skipped:
        lines.append(f"  {summary.skipped} rows skipped; _adaptrt/skipped.jsonl says why")
    return lines


def _estimate_lines(found: Estimate) -> list[str]:
    rate = found.tokens_per_second
    lines = [
        f"{_counted(found.files, 'file')}: about {found.texts} texts, {found.tokens} tokens, "
        f"{found.rows} rows",
        f"  {_counted(found.parts, 'part')}, about {found.bytes / 1e6:.1f} MB of vectors",
        f"  about {_duration(found.tokens / rate)} with one worker here ({rate:.0f} tokens/s)",
    ]
    if found.refused:
        lines.append(
            f"  {found.refused} of {found.looked_at} rows that were looked at cannot be embedded"
        )
    return lines
