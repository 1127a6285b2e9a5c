"""Load on the HTTP server, and what goes wrong with it: ``make bench-api``.

On loopback, clients, server and encoder on the same cores. Speed is that of ``--bundle``, beside
the embedder in process, in turns, and beside a Triton server with the same bundle where one is
installed. Whether every vector is the right one, memory, malformed requests and a killed worker are
looked at with a small random checkpoint, which embeds thousands of texts a second.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from adaptrt import Embedder, TritonEmbedder
from export.cli import main as adaptrt
from export.triton.server import ENVIRONMENT, serve
from runtimes.api.catalogue import Served, open_catalogue
from runtimes.api.settings import Settings
from tests.api_fuzz import cases, judge_all
from tests.api_support import ApiServer, Connection, api_server, request_bytes, until
from tests.bench import api_load
from tests.bench.api_load import Rate, Share, Workload, bodies, rate, resident, summary, timed
from tests.bench.serve import measure
from tests.bench.summary import machine
from tests.triton_support import server_spec
from tests.zoo import write_original

CLIENTS = (1, 8, 32, 128)
LONG_CLIENTS = (1, 4)
# Long texts take minutes where other programs have the cores; no request is to fail for it.
UNHURRIED = ("--no-access-log", "--deadline", 600)
# Seconds between single texts. Without any, two threads at full load are what a busy machine's
# scheduler takes the cores from: 16 ms a call instead of 4.
PAUSE = 0.01
SAME = 5e-6  # of a value of a unit vector; other company in a call moves the last digits
Report = dict[str, Any]


def speeds(bundle: Served, seconds: float, rounds: int) -> list[Report]:
    """Rows for the server and the embedder, in turns, so that the machine's drift meets both."""
    loads = api_load.workloads(bundle.tokenizer)
    task = plain_task(bundle)
    rows: list[Report] = []
    print(f"{'':11} {'':20} {'':4} {'texts/s':>9} {'p50 ms':>9} {'p99 ms':>9}")
    with api_server([bundle.folder], *UNHURRIED) as server:
        for number in range(rounds):
            rows += [row | {"round": number} for row in in_process(bundle, loads, task, seconds)]
            for name, load in loads.items():
                requests = bodies(load, bundle.model, task)
                for clients in LONG_CLIENTS if name == "long" else CLIENTS:
                    if load.bad and clients != 32:
                        continue
                    found = rate(server.port, server.process.pid, requests, clients, seconds)
                    rows.append(shown("HTTP", name, clients, found) | {"round": number})
    return rows


def in_process(
    bundle: Served, loads: Mapping[str, Workload], task: str, seconds: float
) -> list[Report]:
    """All texts of a workload at once, which is the best that batching can do."""
    rows = []
    with Embedder.load(bundle.folder) as embedder:
        for name, load in loads.items():
            if load.bad:
                continue
            embedder.encode(load.texts[:2], task=task)
            with Share() as share:
                waits = timed(partial(embedder.encode, load.texts, task=task), seconds)
            texts = len(load.texts) * len(waits)
            found = summary(waits, texts, sum(waits), others=share.others)
            rows.append(shown("in process", name, 1, found))
    return rows


def triton(bundle: Served, seconds: float, environment: Path) -> list[Report]:
    """The same workloads through our own client over gRPC."""
    loads, task = api_load.workloads(bundle.tokenizer), plain_task(bundle)
    rows: list[Report] = []
    with tempfile.TemporaryDirectory() as name:
        repository = Path(name) / "repository"
        adaptrt(["triton", "--bundle", str(bundle.folder), "--out", str(repository)])
        spec = server_spec(repository, environment)
        with serve(spec, Path(name) / "log"):
            for load in (loads["short"], loads["mixed"]):
                for clients in CLIENTS:
                    found = ask_triton(
                        f"grpc://127.0.0.1:{spec.grpc_port}", load, task, clients, seconds
                    )
                    rows.append(shown("Triton", load.name, clients, found))
    return rows


def ask_triton(url: str, load: Workload, task: str, clients: int, seconds: float) -> Rate:
    """Each client has a connection and a thread."""
    with ExitStack() as stack:
        opened = [stack.enter_context(TritonEmbedder(url)) for _ in range(clients)]
        opened[0].encode(load.requests[0], task=task)
        counts = [0] * clients

        def asking(number: int) -> Callable[[list[str]], object]:
            def ask(_: list[str]) -> object:
                request = load.requests[(number * 7 + counts[number]) % len(load.requests)]
                counts[number] += 1
                texts[number] += len(request)
                return opened[number].encode(request, task=task)

            return ask

        texts = [0] * clients
        start = time.perf_counter()
        found = measure([asking(n) for n in range(clients)], 1, seconds)
        spent = time.perf_counter() - start
    return Rate(
        texts_per_second=sum(texts) / spent,
        p50_ms=found["p50_ms"],
        p99_ms=found["p99_ms"],
        requests=sum(counts),
    )


def shown(who: str, workload: str, clients: int, found: Rate) -> Report:
    """A row, which is also printed."""
    print(
        f"{who:11} {workload:20} {clients:4} {found.texts_per_second:9.1f} {found.p50_ms:9.1f} "
        f"{found.p99_ms:9.1f}",
        flush=True,
    )
    return {"who": who, "workload": workload, "clients": clients} | asdict(found)


def added(bundle: Served, blocks: int = 12, each: int = 20) -> Report:
    """What the server adds to a single short text: medians of blocks in turns, in ms.

    Texts come one by one, with pauses between them.
    """
    load, task = api_load.workloads(bundle.tokenizer)["short"], plain_task(bundle)
    requests = [raw for raw, _ in bodies(load, bundle.model, task)]
    direct, served = [], []
    with api_server([bundle.folder]) as server, Embedder.load(bundle.folder) as embedder:

        async def ask() -> list[float]:
            connection, waits = Connection(server.port), []
            for number in range(each + 1):
                await asyncio.sleep(PAUSE)
                start = time.perf_counter()
                await connection.ask(requests[number % len(requests)])
                waits.append(time.perf_counter() - start)
            await connection.close()
            return waits[1:]  # the first one connects

        embedder.encode(load.texts, task=task)
        with Share(server.process.pid) as share:
            for _ in range(blocks):
                block = []
                for number in range(each):
                    time.sleep(PAUSE)
                    start = time.perf_counter()
                    embedder.encode(load.requests[(number + 1) % len(load.requests)], task=task)
                    block.append(time.perf_counter() - start)
                direct.append(median(block) * 1000)
                served.append(median(asyncio.run(ask())) * 1000)
    differences = [s - d for s, d in zip(served, direct, strict=True)]
    return {
        "in_process_ms": median(direct),
        "http_ms": median(served),
        "added_ms": median(differences),
        "others": share.others,
    }


def delays(bundle: Served, count: int = 2, senders: int = 3) -> Report:
    """How many calls a short text waits for where several long ones wait all the time.

    The calls that ended between its request and its answer, its own left out: the one that ran
    when it came, and no other.
    """
    loads, task = api_load.workloads(bundle.tokenizer), plain_task(bundle)
    long, short = (bodies(loads[n], bundle.model, task)[0][0] for n in ("long", "short"))
    calls, waits = [], []
    with api_server([bundle.folder], *UNHURRIED) as server:

        def ended() -> float:
            return server.metric("adaptrt_call_seconds_count")

        async def send_long() -> None:
            connection = Connection(server.port)
            for _ in range(count):
                await connection.ask(long)
            await connection.close()

        async def run() -> None:
            sending = [asyncio.ensure_future(send_long()) for _ in range(senders)]
            connection = Connection(server.port)
            await asyncio.sleep(0.2)
            while not all(s.done() for s in sending):
                before, begin = await asyncio.to_thread(ended), time.perf_counter()
                await connection.ask(short)
                waits.append(time.perf_counter() - begin)
                calls.append(await asyncio.to_thread(ended) - before - 1)
            await asyncio.gather(*sending)
            await connection.close()

        asyncio.run(run())
        long_s = server.metric("adaptrt_call_seconds_sum") / (count * senders)
    return {
        "calls_waited": max(calls),
        "short_max_s": max(waits),
        "long_call_s": long_s,
        "short_requests": len(waits),
    }


def identity(bundle: Served, requests: int, clients: int = 32) -> Report:
    """Every vector of so many requests is compared with the embedder's; and memory meanwhile."""
    rng = np.random.default_rng(0)
    words = [f"w{n}" for n in range(4000)]
    lengths = rng.choice([1, 2, 5, 12, 30, 100], 1500, p=[0.2, 0.2, 0.25, 0.2, 0.1, 0.05])
    corpus = [f"{i} " + " ".join(rng.choice(words, n)) for i, n in enumerate(lengths)]
    with Embedder.load(bundle.folder) as embedder:
        expected = {task: embedder.encode(corpus, task=task) for task in bundle.tasks}
    seen: Counter[str] = Counter()
    memory: list[float] = []
    with api_server([bundle.folder], "--no-access-log") as server:

        async def client(number: int, share: int) -> None:
            own = np.random.default_rng(number)
            connection = Connection(server.port)
            for _ in range(share):
                task = bundle.tasks[own.integers(len(bundle.tasks))]
                picked = own.integers(0, len(corpus), own.integers(1, 4))
                fields = {"input": [corpus[i] for i in picked], "task": task}
                raw = json.dumps(fields | {"encoding_format": "base64"}).encode()
                status, body = await connection.ask(request_bytes(raw))
                seen[_verdict(status, body, expected[task][picked])] += 1
                if sum(seen.values()) % (requests // 40 or 1) == 0:
                    memory.append(resident(server.process.pid))
            await connection.close()

        async def every() -> None:
            await asyncio.gather(*(client(n, requests // clients) for n in range(clients)))

        start = time.perf_counter()
        asyncio.run(every())
        spent = time.perf_counter() - start
    warm = memory[len(memory) // 5 : len(memory) // 5 + 3]
    return {
        "requests": sum(seen.values()),
        "right": seen["right"],
        "wrong": {name: count for name, count in seen.items() if name != "right"},
        "requests_per_second": sum(seen.values()) / spent,
        "memory_mb": [round(value, 1) for value in memory],
        "memory_growth": median(memory[-3:]) / median(warm) - 1,
    }


def _verdict(status: int, body: bytes, expected: np.ndarray[Any, Any]) -> str:
    if status != 200:
        return f"status {status}"
    data = json.loads(body)["data"]
    if [item["index"] for item in data] != list(range(len(expected))):
        return "lost or out of order"
    found = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in data]
    return "right" if np.abs(np.stack(found) - expected).max() < SAME else "another vector"


def fuzz(bundle: Served, count: int) -> Report:
    """Malformed requests; the server must answer or refuse each, and a good one afterwards."""
    with api_server([bundle.folder], "--deadline", 3, "--no-access-log") as server:
        start = time.perf_counter()
        verdicts = asyncio.run(judge_all(server.port, cases(count), at_once=64))
        spent = time.perf_counter() - start
        good = server.embed(input="x").status
        traces = sum("Traceback" in line for line in server.log)
    return {
        "requests": count,
        "seconds": spent,
        "statuses": dict(sorted(Counter(str(v.status) for v in verdicts).items())),
        "failed": [f"{v.case.number} {v.case.kind}: {v.status}" for v in verdicts if v.bad],
        "tracebacks": traces,
        "good_request_afterwards": good,
    }


def killed(bundle: Served) -> Report:
    """Workers killed under load: what the clients are told, and how soon another is there."""
    load = bodies(api_load.workloads(bundle.tokenizer)["mixed"], bundle.model, plain_task(bundle))
    statuses: Counter[int] = Counter()
    with api_server([bundle.folder], "--workers", 2, "--no-access-log") as server:
        stopping = False

        async def client(number: int) -> None:
            connection = Connection(server.port)
            while not stopping:
                statuses[(await connection.ask(load[number % len(load)][0]))[0]] += 1

        async def run() -> float:
            nonlocal stopping
            clients = [asyncio.ensure_future(client(n)) for n in range(16)]
            await asyncio.sleep(1)
            start = time.perf_counter()
            await asyncio.to_thread(_kill_and_wait, server)
            spent = time.perf_counter() - start
            await asyncio.sleep(1)
            stopping = True
            await asyncio.gather(*clients)
            return spent

        seconds = asyncio.run(run())
    return {"statuses": {str(k): v for k, v in statuses.items()}, "replaced_in_s": seconds}


def _kill_and_wait(server: ApiServer) -> None:
    os.kill(server.workers()[0], signal.SIGKILL)
    until(lambda: server.metric("adaptrt_worker_restarts_total") == 1, 60)


def sample_bundle(out: Path) -> Path:
    """The sample with every task, as a user would serve it."""
    folder = out / "sample" / "switchable-fp32-onnxruntime"
    if not (folder / "manifest.json").is_file():
        options = ("--adapter", "switchable", "--precision", "fp32", "--target", "onnxruntime")
        adaptrt(["engine", *options, "--out", str(out)])
    return folder


def small_bundle(out: Path) -> Path:
    """A random checkpoint, 64 wide with 2 layers."""
    folder = out / "small" / "switchable-fp32-onnxruntime"
    if not (folder / "manifest.json").is_file():
        checkpoint = write_original(out / "checkpoint" / "small")
        options = ("--adapter", "switchable", "--precision", "fp32", "--target", "onnxruntime")
        more = ("--model", str(checkpoint), "--parity-tokens", "64", "--out", str(out))
        adaptrt(["engine", *options, *more])
    return folder


def plain_task(bundle: Served) -> str:
    """One that puts nothing before a text: a text of 8192 tokens is then no longer."""
    return min(bundle.tasks, key=lambda task: len(bundle.manifest.prefixes[task]))


def served(folder: Path) -> Served:
    return open_catalogue(Settings(bundles=(folder,))).bundles[0]


def targets(report: Report) -> Report:
    """What is asked of the server, and what was found."""
    rows = report["speeds"]

    def speed(who: str, clients: int, number: int) -> float:
        (found,) = (
            r["texts_per_second"]
            for r in rows
            if (r["who"], r["workload"], r["clients"], r.get("round"))
            == (who, "mixed", clients, number)
        )
        return float(found)

    rounds = range(report["rounds"])
    ratios = [speed("HTTP", 32, n) / speed("in process", 1, n) for n in rounds]
    return {
        "mixed_32_to_in_process": {"found": median(ratios), "at_least": 0.9},
        "added_ms": {"found": report["added"]["added_ms"], "at_most": 3.0},
        "calls_waited": {"found": report["delays"]["calls_waited"], "at_most": 1.0},
        "wrong_answers": {"found": sum(report["identity"]["wrong"].values()), "at_most": 0},
        "memory_growth": {"found": report["identity"]["memory_growth"], "at_most": 0.02},
        "fuzz_failed": {"found": len(report["fuzz"]["failed"]), "at_most": 0},
    }


def met(target: Report) -> bool:
    """Whether a target was reached."""
    return bool(target.get("at_least", -np.inf) <= target["found"] <= target.get("at_most", np.inf))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, help="whose speed is measured (default: the sample)")
    parser.add_argument("--seconds", type=float, default=4.0, help="per row")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--requests", type=int, default=20_000, help="whose vectors are checked")
    parser.add_argument("--fuzz", type=int, default=10_000, help="malformed requests")
    parser.add_argument("--environment", type=Path, default=ENVIRONMENT, help="of Triton")
    parser.add_argument(
        "--only",
        help=f"parts of {', '.join(PARTS)}, separated by commas; the others' results are kept",
    )
    given = parser.parse_args(arguments)
    chosen = given.only.split(",") if given.only else list(PARTS)
    if unknown := [name for name in chosen if name not in PARTS]:
        parser.error(f"BENCH_ONLY: got {', '.join(unknown)}, expected some of {', '.join(PARTS)}")
    if given.rounds < 1:
        parser.error(f"BENCH_ROUNDS: got {given.rounds}, expected at least 1")
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "api.json"
    report: Report = {}
    if given.only and path.is_file():
        report = json.loads(path.read_text(encoding="utf-8"))
    run = Run(
        bundle=served(given.bundle or sample_bundle(given.out)),
        small=served(small_bundle(given.out)),
        given=given,
    )
    report |= {
        "command": "make bench-api",
        "date": date.today().isoformat(),
        "machine": machine(),
        "bundle": run.bundle.folder.name,
        "rounds": given.rounds,
        "seconds": given.seconds,
    }
    for name in chosen:
        report[name] = PARTS[name](run)
        if isinstance(report[name], dict):
            print(name, json.dumps(report[name]), flush=True)
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if report.keys() >= PARTS.keys():
        report["targets"] = targets(report)
        for name, target in report["targets"].items():
            print(f"{name}: {target} {'met' if met(target) else 'MISSED'}")
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


@dataclass(frozen=True, kw_only=True)
class Run:
    """What the parts look at."""

    bundle: Served
    small: Served
    given: argparse.Namespace


def _triton(run: Run) -> list[Report]:
    if not (run.given.environment / ".installed").is_file():
        print("Triton is not installed; without its rows")
        return []
    return triton(run.bundle, run.given.seconds, run.given.environment)


PARTS: Mapping[str, Callable[[Run], Any]] = {
    "speeds": lambda run: speeds(run.bundle, run.given.seconds, run.given.rounds),
    "triton": _triton,
    "added": lambda run: added(run.bundle),
    "delays": lambda run: delays(run.bundle),
    "identity": lambda run: identity(run.small, run.given.requests),
    "fuzz": lambda run: fuzz(run.small, run.given.fuzz),
    "killed": lambda run: killed(run.small),
}


if __name__ == "__main__":
    sys.exit(main())
