"""Requests that are wrong in many ways, and what a server makes of them: no 500, no hang.

A row of :data:`KINDS` per way. Everything comes from a seeded generator, so a case that fails can
be made again from its number.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.api_support import request_bytes

PATIENCE = 20.0  # seconds: a server that is silent for longer hangs


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is sent. One that ``hangs_up`` does so without waiting for an answer."""

    number: int
    kind: str
    raw: bytes
    hangs_up: bool = False


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The status that came; None where the connection was closed without one."""

    case: Case
    status: int | None
    hung: bool = False

    @property
    def bad(self) -> bool:
        """Whether the server failed, instead of refusing or answering."""
        return self.hung or (self.status is not None and self.status >= 500)


FIELDS = (
    *("input", "model", "task", "dimensions", "late_chunking", "truncate", "normalized"),
    *("encoding_format", "embedding_type", "encoding_type", "return_tokens", "window_overlap"),
)


def _valid(rng: Random) -> dict[str, Any]:
    words = " ".join(rng.choice(("tree", "Haus", "雨", "été", "río")) for _ in range(5))
    return {"input": rng.choice((words, [words, "x"], [{"text": words}], [5, 6, 7]))}


def _value(rng: Random, depth: int = 3) -> Any:
    """Any JSON value."""
    simple: tuple[Callable[[], Any], ...] = (
        lambda: None,
        lambda: rng.choice((True, False)),
        lambda: rng.choice((0, -1, 2**31, 2**63, -(2**63), 10**30, rng.randrange(300))),
        lambda: rng.choice((0.0, -0.0, 1e308, 1e-320, 0.5)),
        lambda: "".join(chr(rng.choice((0, 9, 34, 92, 0x7F, 0x202E, 0xFFFD, 0x1F600, 65)))),
        lambda: "x" * rng.choice((0, 1, 3000)),
    )
    if depth and rng.random() < 0.4:
        size = rng.randrange(4)
        if rng.random() < 0.5:
            return [_value(rng, depth - 1) for _ in range(size)]
        return {
            rng.choice(("text", "image", "", "\0")): _value(rng, depth - 1) for _ in range(size)
        }
    return rng.choice(simple)()


def _truncated(rng: Random) -> bytes:
    body = json.dumps(_valid(rng)).encode()
    return request_bytes(body[: rng.randrange(len(body))])


def _flipped(rng: Random) -> bytes:
    body = bytearray(json.dumps(_valid(rng), ensure_ascii=rng.random() < 0.5).encode())
    for _ in range(rng.randint(1, 4)):
        body[rng.randrange(len(body))] = rng.randrange(256)
    return request_bytes(bytes(body))


def _noise(rng: Random) -> bytes:
    return request_bytes(rng.randbytes(rng.randrange(200)))


def _nested(rng: Random) -> bytes:
    depth = rng.choice((50, 999, 1001, 20_000))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    end = b"1" + closing * depth if rng.random() < 0.5 else b""
    return request_bytes(b'{"input":' + opening * depth + end + b"}")


def _numbers(rng: Random) -> bytes:
    numbers = (b"9" * 400, b"1e999", b"-1e999", b"1" + b"0" * 5000, b"0x10", b"NaN", b"-0", b"01")
    field = rng.choice(FIELDS).encode()
    return request_bytes(b'{"input":"x","%s":%s}' % (field, rng.choice(numbers)))


def _surrogates(rng: Random) -> bytes:
    half = rng.choice(
        (b"\\ud800 and more", b"\\udc00 and more", b"\\ud800\\ud800", b"\xed\xa0\x80", b"\\u0000")
    )
    return request_bytes(b'{"input":["a","%s"]}' % half)


def _types(rng: Random) -> bytes:
    fields = _valid(rng) | {rng.choice(FIELDS): _value(rng)}
    return request_bytes(json.dumps(fields).encode())


def _fields(rng: Random) -> bytes:
    name = rng.choice(("inputs", "Input", "", "x" * 5000, "\0", "__class__", "input "))
    return request_bytes(json.dumps(_valid(rng) | {name: _value(rng)}).encode())


def _anything(rng: Random) -> bytes:
    return request_bytes(json.dumps(_value(rng, 6)).encode())


_BODY = b'{"input":"x"}'
_HEADS: tuple[bytes, ...] = (
    b"POST /v1/embeddings HTTP/1.1\r\ncontent-length: 13\r\ncontent-length: 14\r\n\r\n" + _BODY,
    b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n" + _BODY,
    b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: +13\r\n\r\n" + _BODY,
    b"POST /v1/embeddings HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n" + _BODY,
    b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999\r\n\r\n" + _BODY,
    b"POST /v1/embeddings HTTP/1.1\r\ncontent-length: 13\r\n"
    b"transfer-encoding: chunked\r\n\r\nd\r\n" + _BODY + b"\r\n0\r\n\r\n",
    b"POST /v1/embeddings HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n" + _BODY,
    b"POST /v1/embeddings HTTP/1.1\r\ntransfer-encoding: xchunked\r\n\r\n" + _BODY,
    b"POST /v1/embeddings HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
    b"d;a=b\r\n" + _BODY + b"\r\n0\r\ntrailer: x\r\n\r\n",
    b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-encoding: gzip\r\n"
    b"content-length: 13\r\n\r\n" + _BODY,
    b"POST /v1/embeddings HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 13\r\n\r\n" + _BODY,
    b"POST /v1/embeddings HTTP/1.1\r\nhost : x\r\ncontent-length: 13\r\n\r\n" + _BODY,
    b"POST /v1/embeddings HTTP/1.1\r\nx: a\0b\r\ncontent-length: 13\r\n\r\n" + _BODY,
    b"POST /v1/embeddings HTTP/1.1\r\n folded\r\ncontent-length: 13\r\n\r\n" + _BODY,
    b"POST /v1/embeddings HTTP/1.1\ncontent-length: 13\n\n" + _BODY,
    b"POST /v1/embeddings HTTP/1.1\r\nx: " + b"y" * 70_000 + b"\r\ncontent-length: 0\r\n\r\n",
    b"POST /v1/embeddings HTTP/1.1\r\n" + b"x: y\r\n" * 20_000 + b"\r\n",
    b"POST /v1/embeddings HTTP/1.1\r\nx-request-id: a\x01\xffb\r\ncontent-length: 13\r\n\r\n"
    + _BODY,
    b"POST /v1/embeddings HTTP/1.1\r\nauthorization: Bearer \xff\xfe\r\n"
    b"content-length: 13\r\n\r\n" + _BODY,
    b"POST /v1/embeddings HTTP/9.9\r\ncontent-length: 13\r\n\r\n" + _BODY,
    b"POST /v1/embeddings HTTP/1.0\r\ncontent-length: 13\r\n\r\n" + _BODY,
    b"POST /v1/embeddings\r\n\r\n",
    b"POST http://elsewhere/v1/embeddings HTTP/1.1\r\ncontent-length: 13\r\n\r\n" + _BODY,
    b"POST /v1/../v1/embeddings HTTP/1.1\r\ncontent-length: 13\r\n\r\n" + _BODY,
    b"POST /v1/embeddings/ HTTP/1.1\r\ncontent-length: 13\r\n\r\n" + _BODY,
    b"POST /%2e%2e%2f%00%ff HTTP/1.1\r\ncontent-length: 13\r\n\r\n" + _BODY,
    b"POST /\xff\xfe HTTP/1.1\r\ncontent-length: 13\r\n\r\n" + _BODY,
    b"POST /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    b"GET /page.css/../../catalogue.py HTTP/1.1\r\nhost: x\r\n\r\n",
    b"BREW /v1/embeddings HTTP/1.1\r\n\r\n",
    b"CONNECT example.org:443 HTTP/1.1\r\nhost: x\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n",
    b"DELETE /v1/models HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /v1/embeddings HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nupgrade: h2c\r\nconnection: upgrade, http2-settings\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 40,
    b"\r\n\r\n\r\nPOST /v1/embeddings HTTP/1.1\r\ncontent-length: 13\r\n\r\n" + _BODY,
    b"POST /v1/embeddings HTTP/1.1\r\ncontent-length: 13\r\n\r\n" + _BODY + b"garbage behind it",
)


def _heads(rng: Random) -> bytes:
    return rng.choice(_HEADS)


def _flipped_head(rng: Random) -> bytes:
    raw = bytearray(request_bytes(_BODY))
    for _ in range(rng.randint(1, 3)):
        raw[rng.randrange(len(raw) - len(_BODY))] = rng.randrange(256)
    return bytes(raw)


def _part(rng: Random) -> bytes:
    """A request that ends in the middle."""
    raw = request_bytes(json.dumps(_valid(rng)).encode())
    return raw[: rng.randrange(1, len(raw))]


Maker = Callable[[Random], bytes]
KINDS: Mapping[str, tuple[Maker, bool]] = {  # and whether the client hangs up
    "truncated JSON": (_truncated, False),
    "flipped bytes": (_flipped, False),
    "noise": (_noise, False),
    "deep nesting": (_nested, False),
    "huge numbers": (_numbers, False),
    "lone surrogates": (_surrogates, False),
    "wrong types": (_types, False),
    "unknown fields": (_fields, False),
    "any JSON": (_anything, False),
    "header tricks": (_heads, False),
    "flipped bytes of the head": (_flipped_head, False),
    "half a request": (_part, True),
}


def cases(count: int, seed: int = 0) -> Iterator[Case]:
    """So many, of every kind in turn."""
    names = list(KINDS)
    for number in range(count):
        kind = names[number % len(names)]
        make, hangs_up = KINDS[kind]
        raw = make(Random(f"{seed} {number}"))
        yield Case(number=number, kind=kind, raw=raw, hangs_up=hangs_up)


async def judge(port: int, case: Case) -> Verdict:
    """Send one over a connection of its own, and wait for a status or the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    status: int | None = None
    hung = False
    try:
        with suppress(ConnectionError):
            writer.write(case.raw)
            await writer.drain()
            if not case.hangs_up:
                status = await asyncio.wait_for(_status(reader), PATIENCE)
    except TimeoutError:
        hung = True
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    return Verdict(case=case, status=status, hung=hung)


async def _status(reader: asyncio.StreamReader) -> int | None:
    with suppress(ConnectionError):
        while line := await reader.readline():
            found = re.match(rb"HTTP/1\.[01] (\d{3}) ", line)
            if found and found[1] != b"100":
                return int(found[1])
    return None


async def judge_all(port: int, what: Iterable[Case], at_once: int = 32) -> list[Verdict]:
    """The verdicts on all of them, in their order, several at the same time."""
    room = asyncio.Semaphore(at_once)

    async def one(case: Case) -> Verdict:
        async with room:
            return await judge(port, case)

    return await asyncio.gather(*(one(case) for case in what))
