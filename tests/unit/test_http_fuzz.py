"""The fuzzer of the HTTP server: what it sends is what it says, and it sees a server that fails."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests import api_fuzz
from tests.api_fuzz import KINDS, Case, cases, judge


def test_cases_are_of_every_kind_and_the_same_each_time() -> None:
    made = list(cases(5 * len(KINDS)))
    assert Counter(case.kind for case in made) == dict.fromkeys(KINDS, 5)
    assert made == list(cases(5 * len(KINDS)))
    assert [c.raw for c in made] != [c.raw for c in cases(5 * len(KINDS), seed=1)]


@pytest.mark.parametrize(
    ("answer", "status", "bad"),
    [
        (b"HTTP/1.1 500 Internal Server Error\r\n\r\n", 500, True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Service Unavailable\r\n\r\n", 503, True),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", 400, False),
        (b"", None, False),
        (None, None, True),
    ],
)
def test_a_server_that_fails_or_hangs_is_seen(
    answer: bytes | None, status: int | None, bad: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: a server that answers so, or with None never."""
    monkeypatch.setattr(api_fuzz, "PATIENCE", 0.2)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer is None:
            await reader.read()  # until the client gives up
        else:
            writer.write(answer)
        writer.close()
        await writer.wait_closed()

    async def verdict() -> api_fuzz.Verdict:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            found = await judge(port, Case(number=0, kind="noise", raw=b"x\r\n\r\n"))
            await asyncio.sleep(0.05)  # the handler ends
            return found

    found = asyncio.run(verdict())
    assert (found.status, found.bad) == (status, bad)
