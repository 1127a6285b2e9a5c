"""A real HTTP server on loopback, and clients that say exactly which bytes they send."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

START = 120.0  # seconds a server may take to listen


class Answer(NamedTuple):
    """What a server said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(kw_only=True)
class ApiServer:
    """A running server; ``log`` are the lines of its standard error so far."""

    process: subprocess.Popen[str]
    port: int
    log: list[str]

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request over a connection of its own; bytes are sent as they are."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        try:
            connection.request(method, path, raw, dict(headers or {}))
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())
        finally:
            connection.close()

    def embed(self, **fields: Any) -> Answer:
        """``POST /v1/embeddings``."""
        return self.ask("POST", "/v1/embeddings", fields)

    def vectors(self, **fields: Any) -> list[list[float]]:
        """Those of a request that must succeed."""
        answer = self.embed(**fields)
        assert answer.status == 200, answer.body
        return [item["embedding"] for item in answer.json["data"]]

    def metric(self, line: str) -> float:
        """One value of ``/metrics``, 0 where it is not there."""
        for found in self.ask("GET", "/metrics").body.decode().splitlines():
            name, _, value = found.rpartition(" ")
            if name == line:
                return float(value)
        return 0.0

    def access(self) -> list[dict[str, Any]]:
        """The lines of the access log."""
        return [json.loads(line) for line in list(self.log) if line.startswith("{")]

    def workers(self) -> list[int]:
        """Process numbers of the encoder processes."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        children = [
            int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()
        ]
        return [pid for pid in children if b"spawn_main" in _command(pid)]

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something that happens soon."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@contextmanager
def api_server(
    bundles: Sequence[Path],
    *options: object,
    environment: Mapping[str, str] | None = None,
    program: Sequence[str] = (sys.executable, "-m", "export.cli"),
) -> Iterator[ApiServer]:
    """``adaptrt api`` on a free port; it must end by itself when it is told to."""
    command = [*program, "api", "--port", "0"]
    for bundle in bundles:
        command += ["--bundle", str(bundle)]
    command += [str(option) for option in options]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
    )
    log: list[str] = []
    listening = threading.Event()
    port = 0

    def read() -> None:
        nonlocal port
        assert process.stderr is not None
        for line in process.stderr:
            log.append(line.rstrip("\n"))
            if found := re.match(r"listening on https?://\S+:(\d+)$", line):
                port = int(found[1])
                listening.set()
        listening.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        assert listening.wait(START), log
        assert port, log
        yield ApiServer(process=process, port=port, log=log)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            reader.join(10)
            if process.stderr is not None:
                process.stderr.close()


def request_bytes(body: bytes, path: str = "/v1/embeddings") -> bytes:
    """A whole request."""
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    return head.encode() + f"content-length: {len(body)}\r\n\r\n".encode() + body


class Connection:
    """A kept connection in an event loop, with as little work per request as can be."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body; connects where it is not."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 26)
        reader, writer = self._streams
        writer.write(request)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, OSError):
            await self.close()
            raise
        lower = head.lower()
        found = re.search(rb"content-length: (\d+)", lower)
        body = await reader.readexactly(int(found[1]) if found else 0)
        if b"connection: close" in lower:
            await self.close()
        return int(head[9:12]), body

    async def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
