"""The client before it has talked to any server."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

import runtimes
from runtimes import AdaptrtError, InputError, MissingError, TritonEmbedder
from runtimes.serving import connection
from runtimes.serving.requests import renumber


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "http://",
        "",
        "grpc:x",
        "http://localhost",
        "grpc://:1",
        "http://x:port",
        "http://x:0",
        "http://x:70000",
        "http://[::1",
        "http://x:1?y",
        "ftp://x:1",
        None,
        5,
    ],
)
def test_url_must_say_how_and_where(url: Any) -> None:
    with pytest.raises(InputError, match=r"url: got .*, expected http://host:port or grpc://"):
        TritonEmbedder(url)


@pytest.mark.parametrize("url", ["https://x:1", "grpcs://x:1"])
def test_tls_is_refused_by_its_name(url: str) -> None:
    with pytest.raises(InputError, match=r"url: got .* \(TLS is not supported; a proxy"):
        TritonEmbedder(url)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("batch_size", 0, "at least 1"),
        ("batch_size", 1.5, "a whole number"),
        ("batch_size", True, "a whole number"),
        ("deadline", 0, "seconds above 0"),
        ("deadline", -1.0, "seconds above 0"),
        ("deadline", float("nan"), "seconds above 0"),
        ("deadline", float("inf"), "seconds above 0"),
        ("deadline", "60", "seconds above 0"),
        ("deadline", True, "seconds above 0"),
    ],
)
def test_option_of_the_client_is_named(name: str, value: Any, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        TritonEmbedder("http://localhost:1", **{name: value})
    assert str(caught.value) == f"{name}: got {value!r}, expected {expected}"


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_wrong_input_is_refused_without_a_server(scheme: str) -> None:
    with TritonEmbedder(f"{scheme}://localhost:1", deadline=0.01) as client:
        bad_texts: list[tuple[Any, str]] = [
            ("text", "got one str"),
            (["\ud800"], "lone surrogate"),
            ([None], "got"),
            (None, "texts: got None"),
            (["x", ""], "text 1: empty, expected at least one character"),
            (["x", "a\0"], "text 1: holds a NUL character"),
        ]
        for texts, words in bad_texts:
            with pytest.raises(InputError, match=words):
                client.encode(texts, task="base")
        bad_options: list[tuple[dict[str, Any], str]] = [
            ({"task": 3}, "task: got 3"),
            ({"task": ["a", "b"]}, "task: got 2 tasks for 1 texts"),
            ({"dimensions": 32.0}, "dimensions: got 32.0, expected a whole number"),
            ({"dimensions": True}, "dimensions: got True, expected a whole number"),
            ({"dimensions": 2**40}, "dimensions: got 1099511627776, expected at most"),
            ({"prefix": "no"}, "prefix: got 'no', expected True or False"),
            ({"strict": 0}, "strict: got 0, expected True or False"),
            ({"progress": 0}, "progress: got 0, expected True or False"),
        ]
        for options, words in bad_options:
            with pytest.raises(InputError, match=words):
                client.encode(["x"], **options)
        bad_chunks: list[tuple[dict[str, Any], str]] = [
            ({"chunks": [(0, 1)], "sentences": 1}, "expected exactly one of chunks"),
            ({"chunks": [(0, 1.5)]}, "chunk 0: got 1.5, expected a whole number"),
            ({"chunks": [(0, 2**40)]}, "chunk 0: got 1099511627776, expected at most"),
            ({"sentences": 1, "document": ""}, "document: empty"),
            ({"sentences": 1, "prefix": "no"}, "prefix: got 'no'"),
        ]
        for options, words in bad_chunks:
            with pytest.raises(InputError, match=words):
                client.encode_chunks(**{"document": "text", **options})
        assert client.encode([], dimensions=32).shape == (0, 32)


def listener(answer: bytes | None) -> tuple[socket.socket, str]:
    """Takes connections and answers each with the same bytes; None: with none, and waits."""
    server = socket.create_server(("127.0.0.1", 0))

    def work() -> None:
        held = []
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                if answer is None:
                    held.append(connection)
                    continue
                connection.recv(1000)
                connection.sendall(answer)
                connection.close()

    threading.Thread(target=work, daemon=True).start()
    return server, f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("scheme", ["http", "grpc"])
@pytest.mark.parametrize(
    "use", [lambda c: c.encode(["x"]), lambda c: c.tasks, lambda c: c.encode_chunks("x", [(0, 1)])]
)
def test_nothing_listening_is_said_within_5_seconds(scheme: str, use: Any) -> None:
    """It used to be tried until the deadline, a minute by default."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with TritonEmbedder(f"{scheme}://127.0.0.1:{port}") as client, mock_first_contact(1.0):
        start = time.monotonic()
        with pytest.raises(AdaptrtError, match=r"nothing listens there .*refused\); start"):
            use(client)
        assert time.monotonic() - start < 2


def test_first_contact_is_at_most_5_seconds() -> None:
    assert connection._FIRST_CONTACT == 5


@contextmanager
def mock_first_contact(seconds: float) -> Iterator[None]:
    with mock.patch.object(connection, "_FIRST_CONTACT", seconds):
        yield


def test_name_that_does_not_exist_is_said() -> None:
    with (
        TritonEmbedder("http://no-such-host.invalid:8000", deadline=0.1) as client,
        pytest.raises(AdaptrtError, match="nothing listens there"),
    ):
        client.encode(["x"])


@pytest.mark.parametrize(
    ("scheme", "answer", "theirs"),
    [
        ("http", b"\0\0\x06\x04\0\0\0\0\0\0\x05\0\0@\0", "gRPC"),  # HTTP/2's first frame
        ("grpc", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "HTTP"),
    ],
)
def test_the_other_protocols_port_is_recognised_at_once(
    scheme: str, answer: bytes, theirs: str
) -> None:
    server, address = listener(answer)
    with server, TritonEmbedder(f"{scheme}://{address}") as client:
        start = time.monotonic()
        with pytest.raises(
            AdaptrtError, match=f"does not speak .*is it the server's {theirs} port"
        ):
            client.encode(["x"])
        assert time.monotonic() - start < 5


@pytest.mark.parametrize("scheme", ["http", "grpc"])
@pytest.mark.parametrize("answer", [None, b""])
def test_server_that_is_there_and_does_not_answer_is_waited_for(
    scheme: str, answer: bytes | None
) -> None:
    """Silent, or closing connections as one that is about to restart."""
    server, address = listener(answer)
    with server, TritonEmbedder(f"{scheme}://{address}", deadline=0.5) as client:
        start = time.monotonic()
        with pytest.raises(AdaptrtError, match=r"no answer within 0\.5 s .*is the server up"):
            client.encode(["x"])
        assert 0.2 < time.monotonic() - start < 4


def test_time_that_is_named_is_the_time_that_was_waited() -> None:
    """A silent server has the deadline for its first answer too; the line said 5 s."""
    server, address = listener(None)
    with (
        server,
        mock_first_contact(0.1),
        TritonEmbedder(f"http://{address}", deadline=0.5) as client,
        pytest.raises(AdaptrtError, match=r"no answer within 0\.5 s"),
    ):
        client.encode(["x"])


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({}, "written by an earlier version, and does not say what made its vectors; write it"),
        (
            {"fingerprints": "{"},
            r"fingerprints: not valid JSON \(.*http://localhost:1 serves again",
        ),
        ({"fingerprints": "[]"}, r"fingerprints: got \[\], expected an object"),
        ({"fingerprints": "{}"}, "fingerprints: fingerprints: missing"),
        ({"fingerprints": '{"fingerprints": []}'}, "fingerprints: got none, expected one of"),
    ],
)
def test_repository_that_does_not_say_what_made_its_vectors_is_refused(
    said: dict[str, str], words: str
) -> None:
    client = TritonEmbedder("http://localhost:1")
    client._parameters = {"tasks": "separation"} | said
    with pytest.raises(InputError, match=words):
        client._served()
    client.close()


def test_index_that_is_not_there_is_refused_without_a_server(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        TritonEmbedder("http://localhost:1", index=tmp_path / "nowhere")
    with pytest.raises(InputError, match="index: got 5, expected a path"):
        TritonEmbedder("http://localhost:1", index=5)  # type: ignore[arg-type]


def test_another_models_parameters_are_not_taken_for_ours() -> None:
    with (
        TritonEmbedder("http://localhost:1") as client,
        mock.patch.object(client._connection, "_retry", return_value={"name": "embed"}),
        pytest.raises(AdaptrtError, match="no parameter tasks; it is not of a repository"),
    ):
        _ = client.tasks


def test_long_texts_go_in_requests_of_their_own_and_too_long_ones_not_at_all() -> None:
    client = TritonEmbedder("http://localhost:1", batch_size=3)
    sizes: list[list[int]] = []

    def answer(inputs: Any, _: Any) -> dict[str, Any]:
        sizes.append([len(text) for text in inputs["TEXT"]])
        return {"EMBEDDING": np.zeros((len(inputs["TEXT"]), 8), np.float32), "WARNINGS": []}

    client._parameters = {"max_bytes": "300000"}
    with mock.patch.object(client, "_ask", answer), client:
        client.encode(["x" * size for size in (1, 2, 3, 4, 200_000, 100_000, 300_000, 5)])
        assert sizes == [[1, 2, 3], [4, 200_000], [100_000], [300_000], [5]]
        sizes.clear()
        for text in ("x" * 300_001, "é" * 270_000):
            with pytest.raises(InputError, match=r"text 1: \d+ bytes, expected at most 300000"):
                client.encode(["x", text])
        assert sizes == []


def test_missing_library_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tritonclient.http", None)
    with pytest.raises(MissingError, match=r"pip install 'adaptrt\[serve\]'"):
        TritonEmbedder("http://localhost:1")


def test_other_names_of_the_package_do_not_exist() -> None:
    module: Any = runtimes
    with pytest.raises(AttributeError, match="TritonEmbeder"):
        _ = module.TritonEmbeder


def test_errors_of_a_batch_name_the_callers_texts() -> None:
    assert renumber("text 1: too long", [7, 9]) == "text 9: too long"
    assert renumber("dimensions: got 1", [7, 9]) == "dimensions: got 1"
