"""What `adaptrt serve` refuses in one line before any server starts, and how a log is put."""

from __future__ import annotations

import errno
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from export.triton import server
from export.triton.server import check
from runtimes import AdaptrtError, InputError
from tests.support import run_cli
from tests.triton_support import server_spec

PORTS = ("http", "grpc", "metrics")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """As much of one as is looked at."""
    (tmp_path / "repository" / "embed").mkdir(parents=True)
    (tmp_path / "repository" / "embed" / "config.pbtxt").touch()
    return tmp_path / "repository"


@pytest.fixture
def options(repository: Path) -> dict[str, Any]:
    spec = server_spec(repository, repository)
    return {
        "repository": repository,
        "http-port": spec.http_port,
        "grpc-port": spec.grpc_port,
        "metrics-port": spec.metrics_port,
    }


def serve(options: dict[str, Any]) -> int:
    return run_cli(
        "serve", *(part for key, value in options.items() for part in (f"--{key}", value))
    )


@pytest.mark.parametrize("name", ["n" * 300, "d/" * 3000 + "d"], ids=["name", "path"])
def test_environment_of_a_name_too_long_is_one_line(
    name: str, options: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """The repository is looked at before it."""
    assert serve(options | {"environment": name}) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "File name too long" in line


@pytest.mark.parametrize("port", PORTS)
def test_port_in_use_is_one_line(
    port: str, options: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    number = options[f"{port}-port"]  # a new one may be that of another of the three
    with socket.create_server(("127.0.0.1", number)):
        assert serve(options) == 2
    expected = f"{port.upper()}_PORT: {number} at 127.0.0.1 is in use; stop what listens there"
    assert capsys.readouterr().err.startswith(f"error: {expected}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"http_port": 0}, "HTTP_PORT: got 0, expected 1 to 65535"),
        ({"grpc_port": 65536}, "GRPC_PORT: got 65536, expected 1 to 65535"),
        ({"metrics_port": -1}, "METRICS_PORT: got -1, expected 1 to 65535"),
        ({"grpc_port": 7, "http_port": 7}, "HTTP_PORT=7, GRPC_PORT=7, METRICS_PORT="),
        ({"address": ""}, "ADDRESS: got '', expected an address of this machine"),
        ({"address": "no-such-host.invalid"}, "ADDRESS: got 'no-such-host.invalid', expected"),
        ({"address": "192.0.2.1"}, "ADDRESS: got '192.0.2.1', expected an address of this"),
        ({"address": "x" * 100 + ".y"}, "ADDRESS: got 'xxx"),
        ({"cache": 10}, "CACHE: got 10, expected 0 or at least 1048576 bytes"),
        ({"cache": -1}, "CACHE: got -1, expected 0 or at least 1048576 bytes"),
        ({"repository": Path("/nowhere")}, "OUT: /nowhere: no such repository; `make triton`"),
        ({"repository": Path("/")}, "OUT: /: holds no repository of ours; `make triton` makes one"),
    ],
)
def test_what_the_server_would_end_over_is_one_line(
    repository: Path, change: dict[str, Any], message: str
) -> None:
    spec = replace(server_spec(repository, repository), **change)
    with pytest.raises(InputError) as caught:
        check(spec)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_command_says_it_before_it_becomes_the_server(
    options: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve(options | {"repository": "/nowhere"}) == 2
    assert capsys.readouterr().err.startswith("error: OUT: /nowhere: no such repository")
    assert serve(options | {"cache": 10}) == 2
    assert serve(options | {"grpc-port": options["http-port"]}) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_port_that_needs_privileges_is_said(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(
        InputError, match=r"HTTP_PORT: \d+ at 127\.0\.0\.1 is not permitted; take one"
    ):
        check(server.ServerSpec(repository=repository))


def test_ports_are_free_again_after_the_check(repository: Path) -> None:
    spec = server_spec(repository, repository)
    check(spec)
    check(spec)
    for port in (spec.http_port, spec.grpc_port, spec.metrics_port):
        socket.create_server(("127.0.0.1", port)).close()


LOG = """E1124 23:33:13.123 20155 server.cc:241] "CudaDriverHelper has not been initialized."
I1124 23:33:14.0 1 model.cc:1] "loading"
E1124 23:33:17.818   20155 chttp2_server.cc:1060]    UNKNOWN:No address added {fd:12}
E1124 23:33:17.823 20155 main.cc:245] "failed to start GRPC service: Unavailable"
error: creating server: Internal - failed to load all models
"""


class Ended:
    def poll(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (LOG, "failed to start GRPC service: Unavailable; creating server: Internal - failed to"),
        ("no such library\n", "no such library"),
        ("", "it wrote nothing"),
        ("\x1b[31m\n", r"\\x1b\[31m"),
    ],
)
def test_failed_servers_log_becomes_one_line(tmp_path: Path, log: str, words: str) -> None:
    (tmp_path / "log").write_text(log)
    process: Any = Ended()
    with pytest.raises(AdaptrtError, match=f"did not become ready: {words}") as caught:
        server._wait(server_spec(tmp_path, tmp_path), process, tmp_path / "log", 10)
    assert "\n" not in str(caught.value)
    assert "Cuda" not in str(caught.value)
