"""``adaptrt api`` with one bundle, as the tests of its clients and of its page ask it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.api_support import Answer, ApiServer, api_server


@dataclass(frozen=True)
class BundleServer:
    """One that runs, and the bundle that it serves."""

    server: ApiServer
    bundle: Path

    @property
    def address(self) -> str:
        """Without a slash at its end."""
        return f"http://127.0.0.1:{self.server.port}"

    @property
    def model(self) -> str:
        """The name that a client sends."""
        name: str = self.server.ask("GET", "/v1/models").json["data"][0]["id"]
        return name

    def post(self, body: dict[str, Any]) -> Answer:
        """``POST /v1/embeddings``."""
        return self.server.embed(**body)

    def embed(self, **body: Any) -> dict[str, Any]:
        """The answer to a request that must succeed."""
        given = self.post({"model": self.model, **body})
        assert given.status == 200, given.body
        answer: dict[str, Any] = given.json
        return answer


@contextmanager
def serving(bundle: Path, *arguments: str) -> Iterator[BundleServer]:
    """On a free port of this machine, with one thread."""
    with api_server([bundle], "--threads", "1", *arguments) as server:
        yield BundleServer(server, bundle)
