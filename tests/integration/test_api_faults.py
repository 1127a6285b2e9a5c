"""``adaptrt api`` where something is wrong: clients, limits, workers, keys, its own end."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from adaptrt import Embedder
from export.cli import main
from tests.api_fuzz import KINDS, cases, judge_all
from tests.api_support import Answer, ApiServer, api_server, request_bytes, until

KEY = "0123456789abcdef" * 2
OPENS = {"authorization": f"Bearer {KEY}"}
# Each is cut to 8192 tokens: a call of its own, of half a second on one quiet core.
SLOW = ["station " * 4200] * 11
DEADLINE = 2.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def strict(chunk_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Low limits, a short deadline, a key, one origin."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{KEY}\n{KEY[::-1]}\n")
    options = ("--api-key-file", keys, "--max-texts", 12, "--max-queue", 12, "--max-bytes", 500_000)
    more = ("--max-tokens", 98_000, "--max-concurrent", 3, "--deadline", DEADLINE)
    origin = ("--cors-origin", "https://example.org", "--threads", 1)
    with api_server([chunk_bundle], *options, *more, *origin) as running:
        yield running


@pytest.fixture(scope="module")
def workers(chunk_bundle: Path) -> Iterator[ApiServer]:
    with api_server([chunk_bundle], "--workers", 2, "--deadline", 30) as running:
        yield running


def ask(server: ApiServer, **fields: object) -> Answer:
    return server.ask("POST", "/v1/embeddings", fields, OPENS)


def test_a_key_is_needed_where_keys_are_set(strict: ApiServer) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": KEY}):
        for method, path in (("POST", "/v1/embeddings"), ("GET", "/v1/models")):
            answer = strict.ask(method, path, {"input": "x"} if method == "POST" else None, headers)
            assert answer.status == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json["error"]["code"] == "invalid_api_key"
    assert ask(strict, input="x").status == 200
    other = {"authorization": f"Bearer {KEY[::-1]}"}
    assert strict.ask("GET", "/v1/models", None, other).status == 200
    for path in ("/health/live", "/health/ready", "/metrics", "/openapi.json"):
        assert strict.ask("GET", path).status == 200
    assert KEY not in "\n".join(strict.log)


def test_only_named_origins_may_ask(strict: ApiServer) -> None:
    for origin, allowed in (("https://example.org", True), ("https://example.com", False)):
        answer = strict.ask("POST", "/v1/embeddings", {"input": "x"}, OPENS | {"origin": origin})
        assert (answer.headers.get("access-control-allow-origin") == origin) == allowed
        preflight = {"origin": origin, "access-control-request-method": "POST"}
        asked = strict.ask("OPTIONS", "/v1/embeddings", None, preflight)
        assert (asked.status == 200) == allowed


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"input": ["x"] * 13}, "13 texts in one request, expected at most 12"),
        ({"input": ["word " * 9000] * 13}, "the body has more than 500000 bytes"),
        ({"input": ["station " * 4200] * 12}, "expected at most 98000"),
    ],
)
def test_a_request_is_no_larger_than_the_limits(
    strict: ApiServer, fields: dict[str, object], words: str
) -> None:
    answer = ask(strict, **fields, truncate=True)
    assert (answer.status, answer.json["error"]["code"]) == (413, "request_too_large")
    assert words in answer.json["detail"]


def test_a_body_of_unknown_length_has_a_limit_too(strict: ApiServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", strict.port, timeout=20)
    connection.putrequest("POST", "/v1/embeddings")
    connection.putheader("authorization", OPENS["authorization"])
    connection.putheader("transfer-encoding", "chunked")
    connection.endheaders()
    piece = b"186a0\r\n" + b" " * 100_000 + b"\r\n"
    for _ in range(5):
        connection.send(piece)
    connection.send(b"1\r\nx\r\n")
    response = connection.getresponse()
    assert response.status == 413
    assert response.getheader("connection") == "close"
    connection.close()


def test_a_deadline_ends_the_work(strict: ApiServer) -> None:
    """What waits is taken out of the queue, so that the next request does not wait for it."""
    start = time.monotonic()
    answer = ask(strict, input=SLOW, truncate=True)
    spent = time.monotonic() - start
    assert (answer.status, answer.json["error"]["code"]) == (504, "deadline_exceeded")
    assert answer.headers["retry-after"] == "1"
    assert DEADLINE - 0.1 < spent < DEADLINE + 2
    assert strict.metric("adaptrt_queue_texts") == 0
    until(lambda: ask(strict, input="x").status == 200)  # behind the one call that runs


def test_a_client_that_hangs_up_ends_its_work(strict: ApiServer) -> None:
    raw = request_bytes(json.dumps({"input": SLOW, "truncate": True}).encode())
    raw = raw.replace(b"host: x", f"host: x\r\nauthorization: Bearer {KEY}".encode())
    with socket.create_connection(("127.0.0.1", strict.port)) as client:
        client.sendall(raw)
        until(lambda: strict.metric("adaptrt_queue_texts") > 0)
    until(lambda: strict.metric("adaptrt_queue_texts") == 0, 1.0)
    until(lambda: strict.metric("adaptrt_requests_in_flight") == 0)
    assert strict.metric('adaptrt_problems_total{code="client_disconnected"}') == 1
    until(lambda: any(line["status"] == 499 for line in strict.access()))


def test_a_full_queue_and_too_many_at_once_are_told_to_come_again(strict: ApiServer) -> None:
    with ThreadPoolExecutor(4) as pool:
        slow = pool.submit(ask, strict, input=SLOW, truncate=True)
        until(lambda: strict.metric("adaptrt_queue_texts") > 5)
        busy = ask(strict, input=["x"] * 12)
        more = [pool.submit(ask, strict, input=SLOW[:3], truncate=True) for _ in range(3)]
        slow.result()
        statuses = {future.result().status for future in more}
    assert (busy.status, busy.json["error"]["code"]) == (429, "server_busy")
    assert int(busy.headers["retry-after"]) >= 1
    assert "texts wait already" in busy.json["detail"]
    assert 429 in statuses  # a fourth request under way
    until(lambda: ask(strict, input="x").status == 200)


def closes_within(server: ApiServer, first: bytes, seconds: float) -> bytes:
    """What came until the server hung up."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as client:
        client.sendall(first)
        found = b""
        while piece := client.recv(65536):
            found += piece
        return found


def test_clients_that_are_slow_to_ask_are_left(strict: ApiServer) -> None:
    """A head that never ends, a body that never comes, and one after the answer was given."""
    head = b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\n"
    opens = f"authorization: Bearer {KEY}\r\n".encode()
    body = b"content-length: 99\r\n\r\n{"
    sent = (b"", head, head + opens + body, head + body)
    with ThreadPoolExecutor(len(sent)) as pool:
        found = pool.map(lambda first: closes_within(strict, first, DEADLINE + 5), sent)
    nothing, half, slow, wrong = found
    assert (nothing, half) == (b"", b"")
    assert slow.startswith(b"HTTP/1.1 408 ")
    assert wrong.startswith(b"HTTP/1.1 401 ")


def test_malformed_requests_are_refused(workers: ApiServer) -> None:
    """A short run of what ``make bench-api`` does with 10,000."""
    verdicts = asyncio.run(judge_all(workers.port, cases(30 * len(KINDS), seed=1)))
    assert [v for v in verdicts if v.bad] == []
    assert {v.status for v in verdicts} >= {200, 400, 404, None}
    assert workers.embed(input="x").status == 200
    assert not any("Traceback" in line for line in workers.log)


def test_a_worker_that_is_killed_is_replaced(workers: ApiServer, chunk_bundle: Path) -> None:
    before = workers.workers()
    assert len(before) == 2
    with ThreadPoolExecutor(4) as pool:
        slow = [pool.submit(workers.embed, input=SLOW[:5], truncate=True) for _ in range(2)]
        until(lambda: workers.metric("adaptrt_queue_texts") > 4)
        os.kill(before[0], signal.SIGKILL)
        answers = [future.result() for future in slow]
    lost = [a for a in answers if a.status != 200]
    assert lost, "nothing was under way in it"
    for answer in lost:
        assert (answer.status, answer.json["error"]["code"]) == (503, "worker_lost")
        assert answer.headers["retry-after"] == "1"
    until(lambda: workers.metric("adaptrt_worker_restarts_total") == 1)
    after = workers.workers()
    assert len(after) == 2
    assert before[1] in after
    assert before[0] not in after
    with Embedder.load(chunk_bundle) as direct:
        expected = direct.encode(["x", "y z"], task="base")
    np.testing.assert_allclose(workers.vectors(input=["x", "y z"]), expected, atol=2e-6)


def test_an_idle_worker_that_is_killed_costs_no_request(workers: ApiServer) -> None:
    count = workers.metric("adaptrt_worker_restarts_total")
    for pid in workers.workers():
        os.kill(pid, signal.SIGKILL)
    until(lambda: workers.metric("adaptrt_worker_restarts_total") == count + 2)
    assert [workers.embed(input="x").status for _ in range(4)] == [200] * 4


def test_it_ends_when_it_is_told_to_and_answers_first(chunk_bundle: Path) -> None:
    with api_server([chunk_bundle], "--workers", 1) as server, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(server.embed, input=SLOW[:3], truncate=True)
        until(lambda: server.metric("adaptrt_queue_texts") > 0)
        (worker,) = server.workers()
        server.process.send_signal(signal.SIGTERM)
        assert slow.result().status == 200
        assert server.process.wait(20) == 0
    with pytest.raises(ConnectionRefusedError):
        server.embed(input="x")
    assert not Path(f"/proc/{worker}").exists()


def test_tls(chunk_bundle: Path, tmp_path: Path) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -batch"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    try:
        subprocess.run(
            [*command.split(), *names, "-keyout", key, "-out", certificate],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    files = ("--tls-certificate", certificate, "--tls-key", key)
    with api_server([chunk_bundle], *files) as server:
        assert any(line == f"listening on https://127.0.0.1:{server.port}" for line in server.log)
        trust = ssl.create_default_context(cafile=str(certificate))
        connection = http.client.HTTPSConnection(
            "127.0.0.1", server.port, context=trust, timeout=30
        )
        connection.request("POST", "/v1/embeddings", b'{"input": "x"}')
        assert connection.getresponse().status == 200
        connection.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--tls-certificate", __file__, "--tls-key", __file__), "TLS: the certificate"),
        (("--api-key-file", "/nowhere"), "--api-key-file: cannot read"),
        (("--host", "no.such.host.invalid"), "--host: got 'no.such.host.invalid'"),
        (("--default-task", "x"), "--default-task: got 'x'"),
        (("--runtime", "openvino"), "runtime: openvino runs bundles that were compared in it"),
        (("--workers", "1", "--runtime", "openvino"), "runtime: openvino runs bundles"),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_listens(
    chunk_bundle: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    words: str,
) -> None:
    assert main(["api", "--bundle", str(chunk_bundle), "--port", "0", *options]) in (1, 2)
    found = capsys.readouterr().err
    assert words in found
    assert "listening" not in found


def test_a_triton_server_has_one_model(
    chunk_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("--model-name", "a", "--model-name", "b", "--triton", "grpc://127.0.0.1:1")
    bundles = ("--bundle", str(chunk_bundle)) * 2
    assert main(["api", *bundles, *names]) == 2
    assert "--triton: one model is served there, got bundles of a, b" in capsys.readouterr().err


def test_a_port_that_is_taken_is_an_error(
    chunk_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["api", "--bundle", str(chunk_bundle), "--port", str(port)]) == 2
    assert f"--port {port}" in capsys.readouterr().err


def test_a_triton_server_that_is_not_there(chunk_bundle: Path) -> None:
    url = f"grpc://127.0.0.1:{free_port()}"
    with api_server([chunk_bundle], "--triton", url, "--deadline", 1) as server:
        answer = server.embed(input="x")
        assert answer.status in (503, 504)
        assert int(answer.headers["retry-after"]) >= 1
        until(lambda: server.ask("GET", "/health/ready").status == 503)
