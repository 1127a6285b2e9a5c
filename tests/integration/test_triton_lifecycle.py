"""Servers that start late, refuse a configuration, or are overloaded; each real, each its own."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest
from tritonclient.utils import InferenceServerException

from adaptrt import AdaptrtError, Embedder, TritonEmbedder
from export.triton import server
from export.triton.server import ServerSpec, serve
from tests.support import cosines, run_cli
from tests.triton_support import Served, server_spec, words

Result = TypeVar("Result")


def write(out: Path, *arguments: object) -> Path:
    assert run_cli("triton", "--out", out, *arguments) == 0
    return out


def prepare(tmp_path: Path, environment: Path, bundle: Path, settings: str) -> ServerSpec:
    """A repository of one bundle with settings of its own, not served yet."""
    file = tmp_path / "settings.toml"
    file.write_text(settings)
    repository = write(tmp_path / "r", "--bundle", bundle, "--settings", file)
    return server_spec(repository, environment)


def test_client_waits_for_a_server_that_restarts(
    tmp_path: Path, triton_environment: Path, small_bundle: Path
) -> None:
    """A repository of one task needs no TASK; the response cache answers the same."""
    settings = "[embed]\ninstances = 1\ncache = true\n"
    spec = prepare(tmp_path, triton_environment, small_bundle, settings)
    stop = threading.Event()

    def run() -> None:
        time.sleep(0.5)
        with serve(spec, tmp_path / "log"):
            stop.wait(60)

    with TritonEmbedder(Served(spec).url("http"), deadline=60) as client:
        with serve(spec, tmp_path / "log"):
            first, second = client.encode(["late"]), client.encode(["late"])
        with ThreadPoolExecutor(1) as pool:
            again = pool.submit(run)
            third = client.encode(["late"])
            stop.set()
            again.result()
    with Embedder.load(small_bundle) as embedder:
        assert cosines(first, embedder.encode(["late"]))[0] >= 0.999999
    assert (first == second).all()
    assert (first == third).all()


def test_serve_becomes_the_server_and_takes_its_signals(
    tmp_path: Path, triton_environment: Path, small_bundle: Path
) -> None:
    """Its encoder is missing here, which fails a request in one line."""
    spec = prepare(tmp_path, triton_environment, small_bundle, "[embed]\ninstances = 1\n")
    (encoder,) = spec.repository.glob("encoder-*")
    shutil.rmtree(encoder)
    command = [
        sys.executable,
        "-m",
        "export.cli",
        "serve",
        "--repository",
        spec.repository,
        "--environment",
        triton_environment,
        "--http-port",
        spec.http_port,
        "--grpc-port",
        spec.grpc_port,
        "--metrics-port",
        spec.metrics_port,
    ]
    with subprocess.Popen([*map(str, command)], stderr=subprocess.DEVNULL) as process:
        try:
            with TritonEmbedder(Served(spec).url("grpc"), deadline=0.2) as client:
                assert retried(lambda: client.tasks) == ("separation",)
            with pytest.raises(InferenceServerException) as caught:
                Served(spec).ask("grpc", {"TEXT": words("x")})
            assert Path(f"/proc/{process.pid}/exe").resolve().name == "tritonserver"
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(40) == 0
    assert caught.value.message().startswith(f"{encoder.name}: ")
    assert "\n" not in caught.value.message()
    assert caught.value.status() == "StatusCode.UNAVAILABLE"


def retried(use: Callable[[], Result]) -> Result:
    """What a server says once it is up."""
    for _ in range(120):
        with suppress(AdaptrtError):
            return use()
        time.sleep(0.2)
    return use()


def test_port_that_is_taken_after_the_check_is_one_line(
    tmp_path: Path, triton_environment: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = prepare(tmp_path, triton_environment, small_bundle, "[embed]\ninstances = 1\n")
    monkeypatch.setattr(server, "check", lambda _: None)
    with (
        socket.create_server(("127.0.0.1", spec.grpc_port)),
        pytest.raises(AdaptrtError, match=r"did not become ready: .*already in use") as caught,
        serve(spec, tmp_path / "log"),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_configuration_of_a_newer_server_is_refused_and_ours_is_not(
    tmp_path: Path, triton_environment: Path, small_bundle: Path
) -> None:
    """Guards TRITON_VERSION: a field this server (24.10) does not know stops it."""
    repository = write(tmp_path / "r", "--bundle", small_bundle)
    config = repository / "tokenize" / "config.pbtxt"
    with config.open("a") as stream:
        stream.write("model_metrics { metric_control { metric_identifier { family: 'x' } } }\n")
    with (
        pytest.raises(
            AdaptrtError, match=r"did not become ready: Poll failed .*'tokenize'.*its log"
        ),
        serve(server_spec(repository, triton_environment), tmp_path / "log"),
    ):
        pass
    assert "model_metrics" in (tmp_path / "log").read_text()


def test_full_queue_is_refused_at_once_and_a_patient_client_gets_through(
    tmp_path: Path, triton_environment: Path, small_bundle: Path
) -> None:
    settings = "[embed]\ninstances = 6\n[encoder]\nbatching = 'always'\nqueue_size = 1\n"
    spec = prepare(tmp_path, triton_environment, small_bundle, settings)
    text = "word " * 4000

    def once(_: int) -> str:
        try:
            Served(spec).ask("grpc", {"TEXT": words(text)})
        except InferenceServerException as error:
            return f"{error.status()} {error.message()}"
        return "answered"

    def patiently(_: int) -> tuple[int, ...]:
        with TritonEmbedder(Served(spec).url("grpc")) as client:
            return client.encode([text]).shape

    with serve(spec, tmp_path / "log"), ThreadPoolExecutor(6) as pool:
        hasty = list(pool.map(once, range(6)))
        patient = list(pool.map(patiently, range(6)))
    assert patient == [(1, 64)] * 6
    refused = [answer for answer in hasty if answer != "answered"]
    assert 0 < len(refused) < 6
    assert all("UNAVAILABLE" in a and "Exceeds maximum queue size" in a for a in refused)


def test_requests_whose_clients_have_hung_up_are_not_computed(
    tmp_path: Path, triton_environment: Path, small_bundle: Path
) -> None:
    settings = "[embed]\ninstances = 1\n"
    spec = prepare(tmp_path, triton_environment, small_bundle, settings)
    long = ["word " * 4000] * 48

    def hastily(_: int) -> str:
        with (
            TritonEmbedder(Served(spec).url("grpc"), deadline=0.3) as client,
            pytest.raises(AdaptrtError) as error,
        ):
            client.encode(["hasty"])
        return str(error.value)

    (encoder,) = (path.name for path in spec.repository.glob("encoder-*"))
    with serve(spec, tmp_path / "log"), ThreadPoolExecutor(4) as pool:
        warmed = Served(spec).texts_encoded(encoder)
        first = pool.submit(Served(spec).ask, "grpc", {"TEXT": words(*long)})
        time.sleep(0.2)  # the only instance is at work now
        refused = list(pool.map(hastily, range(3)))
        first.result()
        Served(spec).ask("grpc", {"TEXT": words("last")})
        computed = Served(spec).texts_encoded(encoder) - warmed
    assert all("no answer within 0.3 s" in message for message in refused)
    assert computed == len(long) + 1
