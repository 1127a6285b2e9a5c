"""A Triton server on this machine, from the ``nvidia-pytriton`` wheel in its own environment.

The wheel's ``tritonserver`` has the Python backend alone. NVIDIA's container is the same server
with all backends; docs/tasks/triton.md has its command.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import subprocess
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtimes.errors import AdaptrtError, InputError, MissingError, one_line, shown

ENVIRONMENT = Path(".venv-triton")
_LEAST_CACHE = 1 << 20  # bytes; below, the server's own bookkeeping does not fit
_REASONS = {
    errno.EADDRINUSE: "is in use; stop what listens there, or name another",
    errno.EACCES: "is not permitted; take one above 1023",
}
# Errors as the server writes them, without those of a machine without a GPU.
_ERROR = re.compile(r'^(?:E\d{4} .*?\] "(?!CudaDriverHelper)(.*)"|error: (.*))\s*$', re.MULTILINE)
_SHOWN = 600  # characters of them


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
            "http-address": self.address,
            "http-port": self.http_port,
            "grpc-address": self.address,
            "grpc-port": self.grpc_port,
            "metrics-address": self.address,
            "metrics-port": self.metrics_port,
            "allow-gpu-metrics": "false",
            "exit-timeout-secs": self.exit_timeout,
        }
        if self.cache:
            options |= {
                "cache-directory": triton / "caches",
                "cache-config": f"local,size={self.cache}",
            }
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

    Raises :class:`InputError` for what :func:`check` refuses, and :class:`AdaptrtError` with the
    errors in its log where it does not become ready within ``timeout`` seconds.
    """
    check(spec)
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
    """Become the server: the same process, so the terminal's signals are the server's.

    Does not return. Raises as :func:`check` does.
    """
    check(spec)
    command = spec.command()
    try:
        os.execve(command[0], command, spec.variables())
    except OSError as error:
        raise AdaptrtError(f"{command[0]}: cannot be run ({error.strerror})") from error


def check(spec: ServerSpec) -> None:
    """Refuse what the server would end over, after pages of its log.

    Somebody may still take a port between this and the server's start.
    """
    if not (spec.repository / "embed" / "config.pbtxt").is_file():
        what = "holds no repository of ours" if spec.repository.exists() else "no such repository"
        raise InputError(f"OUT: {spec.repository}: {what}; `make triton` makes one")
    if spec.cache and spec.cache < _LEAST_CACHE:
        raise InputError(f"CACHE: got {spec.cache}, expected 0 or at least {_LEAST_CACHE} bytes")
    ports = {
        "HTTP_PORT": spec.http_port,
        "GRPC_PORT": spec.grpc_port,
        "METRICS_PORT": spec.metrics_port,
    }
    if len(set(ports.values())) < len(ports):
        named = ", ".join(f"{name}={port}" for name, port in ports.items())
        raise InputError(f"{named}: expected three different ports")
    with ExitStack() as stack:
        for name, port in ports.items():
            stack.enter_context(_bind(name, spec.address, port))


def _bind(name: str, address: str, port: int) -> socket.socket:
    if not 1 <= port <= 65535:
        raise InputError(f"{name}: got {port}, expected 1 to 65535")
    refusal = InputError(f"ADDRESS: got {shown(address)}, expected an address of this machine")
    if not address:
        raise refusal
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family)
    except (OSError, ValueError) as error:  # ValueError: no name that could be looked up
        number = error.errno if isinstance(error, OSError) else None
        if number in _REASONS:
            raise InputError(f"{name}: {port} at {address} {_REASONS[number]}") from error
        raise refusal from error


def _wait(spec: ServerSpec, process: subprocess.Popen[bytes], log: Path, timeout: float) -> None:
    url = f"http://{spec.address}:{spec.http_port}/v2/health/ready"
    end = time.monotonic() + timeout
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    text = log.read_text(errors="replace")
    errors = [quoted or plain for quoted, plain in _ERROR.findall(text)] or text.splitlines()[-1:]
    words = one_line("; ".join(errors) or "it wrote nothing")[:_SHOWN]
    raise AdaptrtError(f"the server did not become ready: {words} (its log: {log})")


def _site(environment: Path) -> Path:
    folders = sorted(environment.resolve().glob("lib/python3.*/site-packages/nvidia_pytriton.libs"))
    if not folders:
        raise MissingError(
            f"{environment}: no nvidia-pytriton there; `make {environment}/.installed` installs it"
        )
    return folders[0].parent


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
