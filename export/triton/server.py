"""A Triton server on this machine, from the ``nvidia-pytriton`` wheel in its own environment.

The wheel's ``tritonserver`` has the Python backend alone. NVIDIA's container is the same server
with all backends; README.md has its command.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtimes.errors import AdaptrtError, MissingError

ENVIRONMENT = Path(".venv-triton")


@dataclass(frozen=True, kw_only=True)
class ServerSpec:
    """A repository and where to serve it; ``cache`` is the response cache's size in bytes."""

    repository: Path
    environment: Path = ENVIRONMENT
    address: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    cache: int = 0
    exit_timeout: int = 30  # seconds that requests in work are waited for at the end

    def command(self) -> list[str]:
        """The server's command line."""
        triton = _triton(self.environment)
        options = {
            "model-repository": self.repository.resolve(),
            "backend-directory": _backends(self.environment),
            "http-address": self.address, "http-port": self.http_port,
            "grpc-address": self.address, "grpc-port": self.grpc_port,
            "metrics-address": self.address, "metrics-port": self.metrics_port,
            "allow-gpu-metrics": "false", "exit-timeout-secs": self.exit_timeout,
        }  # fmt: skip
        if self.cache:
            options |= {"cache-directory": triton / "caches",
                        "cache-config": f"local,size={self.cache}"}  # fmt: skip
        return [str(triton / "bin/tritonserver"), *(f"--{k}={v}" for k, v in options.items())]

    def variables(self) -> dict[str, str]:
        """The server's environment variables."""
        site = _site(self.environment)
        libraries = [str(site / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR")]
        return os.environ | {
            "LD_LIBRARY_PATH": ":".join(libraries),
            # The Python backend asks the first python3 on the path where its packages are.
            "PATH": f"{(self.environment / 'bin').resolve()}:{os.environ['PATH']}",
            "OMP_WAIT_POLICY": "PASSIVE",
        }


@contextmanager
def serve(spec: ServerSpec, log: Path, *, timeout: float = 120) -> Iterator[None]:
    """Run the server until the block ends; it is ready when the block begins.

    Raises :class:`AdaptrtError` with the log's last lines where it does not become ready within
    ``timeout`` seconds.
    """
    with log.open("w") as stream:
        process = subprocess.Popen(
            spec.command(), env=spec.variables(), stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        _wait(spec, process, log, timeout)
        yield
    finally:
        process.terminate()
        try:
            process.wait(spec.exit_timeout + 10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def replace_process(spec: ServerSpec) -> None:
    """Become the server; does not return."""
    command = spec.command()
    os.execve(command[0], command, spec.variables())


def _wait(spec: ServerSpec, process: subprocess.Popen[bytes], log: Path, timeout: float) -> None:
    url = f"http://{spec.address}:{spec.http_port}/v2/health/ready"
    end = time.monotonic() + timeout
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    words = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise AdaptrtError(f"the server did not become ready; the end of {log}:\n{words}")


def _site(environment: Path) -> Path:
    found = sorted(environment.resolve().glob("lib/python3.*/site-packages/nvidia_pytriton.libs"))
    if not found:
        raise MissingError(
            f"{environment}: no nvidia-pytriton there; `make {environment}/.installed` installs it"
        )
    return found[0].parent


def _triton(environment: Path) -> Path:
    return _site(environment) / "pytriton" / "tritonserver"


def _backends(environment: Path) -> Path:
    """The Python backend beside the stub for the environment's Python, made once."""
    target = environment.resolve() / "backends"
    stub = target / "python" / "triton_python_backend_stub"
    if not stub.is_file():
        triton = _triton(environment)
        python = _site(environment).parent.name.removeprefix("python")
        shutil.copytree(triton / "backends", target, dirs_exist_ok=True)
        shutil.copy2(triton / "python_backend_stubs" / python / stub.name, stub)
    return target
