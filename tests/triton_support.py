"""A served repository in tests: free ports, and requests that our own client would not send."""

from __future__ import annotations

import importlib
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.triton.server import ServerSpec
from tests.support import Array


def server_spec(repository: Path, environment: Path) -> ServerSpec:
    """Loopback, ports that are free now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    http, grpc, metrics = (s.getsockname()[1] for s in sockets)
    for opened in sockets:
        opened.close()
    return ServerSpec(
        repository=repository,
        environment=environment,
        http_port=http,
        grpc_port=grpc,
        metrics_port=metrics,
        exit_timeout=2,
        cache=1 << 20,
    )


@dataclass(frozen=True)
class Served:
    spec: ServerSpec

    def address(self, protocol: str) -> str:
        ports = {"http": self.spec.http_port, "grpc": self.spec.grpc_port}
        return f"127.0.0.1:{ports[protocol]}"

    def url(self, protocol: str) -> str:
        return f"{protocol}://{self.address(protocol)}"

    def ask(
        self, protocol: str, inputs: Mapping[str, Array], model: str = "embed"
    ) -> dict[str, Array | None]:
        """One raw request by NVIDIA's client; object arrays hold bytes."""
        module: Any = importlib.import_module(f"tritonclient.{protocol}")
        utils: Any = importlib.import_module("tritonclient.utils")
        client = module.InferenceServerClient(self.address(protocol))
        try:
            tensors = []
            for name, array in inputs.items():
                kind = utils.np_to_triton_dtype(array.dtype)
                tensors.append(module.InferInput(name, list(array.shape), kind))
                tensors[-1].set_data_from_numpy(array)
            answer = client.infer(model, tensors)
            return {n: answer.as_numpy(n) for n in ("EMBEDDING", "SPANS", "WINDOWS", "WARNINGS")}
        finally:
            client.close()

    def own_memory(self) -> float:
        """Bytes of the Python models' processes that no other process shares."""
        repository, total = str(self.spec.repository.resolve()), 0
        for process in Path("/proc").iterdir():
            try:
                command = (process / "cmdline").read_bytes().decode(errors="replace")
                status = (process / "status").read_text()
            except OSError:  # ended meanwhile, or no process
                continue
            if "triton_python_backend_stub" in command and repository in command:
                total += int(re.findall(r"RssAnon:\s+(\d+)", status)[0]) * 1024
        assert total
        return total

    def texts_encoded(self, encoder: str) -> int:
        """By the server's own count."""
        module: Any = importlib.import_module("tritonclient.http")
        client = module.InferenceServerClient(self.address("http"))
        try:
            (statistics,) = client.get_inference_statistics(encoder)["model_stats"]
            return int(statistics["inference_count"])
        finally:
            client.close()


def words(*texts: str | bytes) -> Array:
    """A string tensor."""
    return np.array([t.encode() if isinstance(t, str) else t for t in texts], np.object_)
