"""One contender of ``make bench-embed``, in a process of its own: a corpus through one way.

Prints a line of JSON: texts, tokens, seconds (from the plan to the last part; loading the bundle is
before it), the rate between the first finished part and the last, and the most memory that was
resident in this process and those below it together.
"""

from __future__ import annotations

import argparse
import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from runtimes.corpus.pipeline import Done
from runtimes.corpus.records import SPLIT_BYTES, Loading, Record, Request, Wanted
from runtimes.corpus.run import OpenEngine, Planned, embed_corpus
from runtimes.embedder import Embedder

_PAGE = 4096
_EVERY = 0.1  # seconds between two looks at the memory


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """The most bytes resident while the block runs, as the list's one entry."""
    most, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(_EVERY):
            most[0] = max(most[0], sum(map(_resident, _family())))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


def _family() -> list[str]:
    """This process and all below it."""
    found = ["self"]
    for pid in found:
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += (task / "children").read_text().split()
        except OSError:
            continue
    return found


def _resident(pid: str) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except OSError:
        return 0


def encode(bundle: Path, corpus: Path, task: str, threads: int | None) -> dict[str, Any]:
    """All texts in one list: the yardstick."""
    with corpus.open(encoding="utf-8") as stream:
        texts = [json.loads(line)["text"] for line in stream]
    with Embedder.load(bundle, threads=threads) as embedder:
        embedder.encode(texts[:64], task=task)
        tokens = sum(len(row) for row in embedder.tokenizer.encode(texts))
        start = time.perf_counter()
        embedder.encode(texts, task=task)
        seconds = time.perf_counter() - start
    return {
        "texts": len(texts),
        "tokens": tokens,
        "seconds": seconds,
        "steady": tokens / seconds,
    }


def embed(request: Request, engine: OpenEngine, count: int) -> dict[str, Any]:
    """``adaptrt embed`` with ``count`` workers or actors."""
    start = 0.0
    ends: list[tuple[float, int]] = []

    def watch(item: Planned | Done | Record) -> None:
        nonlocal start
        if isinstance(item, Planned):
            start = time.perf_counter()
        elif isinstance(item, Record):
            ends.append((time.perf_counter(), item.tokens))

    summary = embed_corpus(request, engine, watch)
    first, last = ends[min(count, len(ends)) - 1][0], ends[-1][0]
    later = sum(tokens for at, tokens in ends if at > first)
    return {
        "texts": summary.texts,
        "tokens": summary.tokens,
        "seconds": last - start,
        "steady": later / (last - first) if last > first else None,
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("how", choices=("encode", "local", "ray"))
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--split-bytes", type=int, default=SPLIT_BYTES)
    given = parser.parse_args()
    with peak_memory() as most:
        if given.how == "encode":
            found = encode(given.bundle, given.corpus, given.task, given.threads)
        else:
            request = Request(
                input=str(given.corpus),
                out=given.out,
                wanted=Wanted(task=given.task, keep=("n",), split_bytes=given.split_bytes),
                loading=Loading(bundle=given.bundle, threads=given.threads),
            )
            found = embed(request, _engine(given), given.count)
            shutil.rmtree(given.out)
    print(json.dumps({**found, "peak_bytes": most[0]}))


def _engine(given: argparse.Namespace) -> OpenEngine:
    if given.how == "local":
        from runtimes.corpus.workers import LocalEngine

        return partial(LocalEngine, workers=given.count)
    from runtimes.corpus.ray_engine import RayEngine, RaySettings

    settings = RaySettings(least=given.count, most=given.count, cpus=given.threads or 1)
    return partial(RayEngine, settings=settings)


if __name__ == "__main__":
    main()
