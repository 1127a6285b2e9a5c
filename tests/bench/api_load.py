"""Clients of the HTTP server in one event loop: what they send, and how long they wait."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.text.tokens import TextTokenizer
from tests.api_support import Connection, request_bytes
from tests.bench.guard import Usage
from tests.bench.serve import texts as gate_texts

SHORT = 40  # tokens
LONG = 8192
_TICK = os.sysconf("SC_CLK_TCK")
# Every fifth request of a workload with bad ones; each must be refused, and none may cost others.
BAD = (b"{", b'{"input": 7}', b'{"input": "x", "dimension": 3}', b'{"input": "x", "task": "y"}')


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Requests that go round, each a list of texts."""

    name: str
    requests: tuple[tuple[str, ...], ...]
    bad: bool = False

    @property
    def texts(self) -> list[str]:
        """All of them, as the embedder in process gets them at once."""
        return list(dict.fromkeys(text for request in self.requests for text in request))


def workloads(tokenizer: TextTokenizer) -> dict[str, Workload]:
    """Short and mixed texts of the gate's 24 languages, and one as long as the model takes."""
    lines = gate_texts()
    lengths = [len(row) for row in tokenizer.tokenize(lines)]
    short = [line for line, length in zip(lines, lengths, strict=True) if length <= SHORT]
    mixed = tuple(_slices(lines, (1, 2, 4, 1, 3)))
    return {
        "short": Workload(name="short", requests=tuple((line,) for line in short)),
        "mixed": Workload(name="mixed", requests=mixed),
        "mixed, a fifth bad": Workload(name="mixed, a fifth bad", requests=mixed, bad=True),
        "long": Workload(name="long", requests=((long_text(tokenizer),),)),
    }


def _slices(lines: Sequence[str], sizes: Sequence[int]) -> Iterator[tuple[str, ...]]:
    at = 0
    for size in itertools.cycle(sizes):
        if at >= len(lines):
            return
        yield tuple(lines[at : at + size])
        at += size


def long_text(tokenizer: TextTokenizer) -> str:
    """Exactly as many tokens as the model takes, special ones included."""
    most = tokenizer.max_tokens
    words = "The last train to Bergen leaves at ten. " * (most // 8)
    ids, offsets = tokenizer.tokenize_with_offsets(words)
    assert len(ids) > most
    return words[: int(offsets[most - 2][1])]


def bodies(workload: Workload, model: str, task: str) -> list[tuple[bytes, int]]:
    """Each request's bytes, and the texts that it has; none where it is bad."""
    made = []
    for number, request in enumerate(workload.requests):
        fields = {"model": model, "task": task, "input": list(request)}
        made.append(
            (
                request_bytes(json.dumps(fields | {"encoding_format": "base64"}).encode()),
                len(request),
            )
        )
        if workload.bad and number % 4 == 3:
            made.append((request_bytes(BAD[number // 4 % len(BAD)]), 0))
    return made


@dataclass(frozen=True, kw_only=True)
class Rate:
    """What clients saw. ``others`` is the share of the cores' time that strangers took."""

    texts_per_second: float
    p50_ms: float
    p99_ms: float
    requests: int
    refused: int = 0
    others: float | None = None


def rate(
    port: int, pid: int, requests: Sequence[tuple[bytes, int]], clients: int, seconds: float
) -> Rate:
    """Each of so many clients sends one request after the other for so long.

    Raises where a good request is not answered, or a bad one is.
    """
    waits: list[float] = []
    counted = [0, 0]

    async def client(number: int, end: float) -> None:
        connection = Connection(port)
        for turn in itertools.count(number * 7):
            request, texts = requests[turn % len(requests)]
            start = time.perf_counter()
            if start >= end:
                break
            status, body = await connection.ask(request)
            if (status == 200) != bool(texts) or status >= 500:
                raise RuntimeError(f"{status} for {request[-200:]!r}: {body[:200]!r}")
            if texts:
                waits.append(time.perf_counter() - start)
            counted[0] += texts
            counted[1] += not texts
        await connection.close()

    async def every() -> None:
        end = time.perf_counter() + seconds
        await asyncio.gather(*(client(n, end) for n in range(clients)))

    with Share(pid) as share:
        start = time.perf_counter()
        asyncio.run(every())
        spent = time.perf_counter() - start
    return summary(waits, counted[0], spent, refused=counted[1], others=share.others)


def summary(waits: Sequence[float], texts: int, spent: float, **more: Any) -> Rate:
    """Waits in seconds as milliseconds."""
    every = np.array(waits) * 1000
    return Rate(
        texts_per_second=texts / spent,
        p50_ms=float(np.percentile(every, 50)),
        p99_ms=float(np.percentile(every, 99)),
        requests=len(waits),
        **more,
    )


class Share:
    """What others than this process and the server took of the cores meanwhile."""

    def __init__(self, pid: int | None = None) -> None:
        self._pid = pid
        self.others = 0.0

    def __enter__(self) -> Share:
        self._start = (Usage.now(), self._server())
        return self

    def __exit__(self, *_: object) -> None:
        before, server = self._start
        after = Usage.now()
        own = after.own - before.own + self._server() - server
        cores = os.cpu_count() or 1
        busy = after.machine - before.machine - own
        self.others = max(0.0, busy) / max((after.wall - before.wall) * cores, 1e-9)

    def _server(self) -> float:
        if self._pid is None:
            return 0.0
        words = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / _TICK


def resident(pid: int) -> float:
    """MB of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has ended")


def timed(call: Callable[[], object], seconds: float) -> list[float]:
    """How long a call took, again and again for so long."""
    waits: list[float] = []
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end or not waits:
        call()
        waits.append(time.perf_counter() - start)
    return waits
