"""``adaptrt api`` in a process of its own, on a free port of this machine."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.documents import ROOT

SECONDS = 60
_LISTENING = re.compile(r"listening on (https?://\S+)")


@dataclass(frozen=True)
class ApiServer:
    """One that listens at ``address`` and serves ``bundle``."""

    address: str
    bundle: Path

    @property
    def model(self) -> str:
        """The name that a client sends."""
        name: str = self.get("/v1/models").json()["data"][0]["id"]
        return name

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.address + path, timeout=SECONDS)

    def post(self, body: dict[str, Any], **headers: str) -> httpx.Response:
        """``POST /v1/embeddings``."""
        return httpx.post(
            f"{self.address}/v1/embeddings", json=body, headers=headers, timeout=SECONDS
        )

    def embed(self, **body: Any) -> dict[str, Any]:
        """The answer to a request that must succeed."""
        response = self.post({"model": self.model, **body})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = json.loads(response.text)
        return answer


@contextmanager
def serving(bundle: Path, *arguments: str) -> Iterator[ApiServer]:
    """Ends with SIGTERM, after which the process must end with 0."""
    command = [sys.executable, "-m", "export.cli", "api", "--bundle", str(bundle), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--threads", "1", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []
    listening = threading.Event()
    reader = threading.Thread(target=_read, args=(process, lines, listening), daemon=True)
    reader.start()
    try:
        assert listening.wait(SECONDS), "".join(lines)
        found = _LISTENING.search("".join(lines))
        assert found is not None, "".join(lines)
        yield ApiServer(found[1], bundle)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0, "".join(lines)
    finally:
        process.kill()
        process.wait()
        reader.join()


def _read(process: subprocess.Popen[str], lines: list[str], listening: threading.Event) -> None:
    assert process.stderr is not None
    with process.stderr as stream:
        for line in stream:
            lines.append(line)
            if _LISTENING.search(line):
                listening.set()
    listening.set()  # it has ended: what it said is in the lines
