"""``adaptrt api``: binds, loads, listens, and ends when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import signal
import socket
import sys
from collections.abc import Iterator

from runtimes.api.settings import Settings
from runtimes.errors import InputError, MissingError, shown

try:
    import uvicorn

    from runtimes.api.app import Api
    from runtimes.api.metrics import Metrics
    from runtimes.api.protocol import guarded
except ModuleNotFoundError as error:  # an install without the extra
    if (error.name or "").partition(".")[0] in ("runtimes", "export"):
        raise
    raise MissingError(f"{error.name} is not installed; pip install 'adaptrt[api]'") from error

from runtimes.api.backends import Backend, LocalBackend
from runtimes.api.catalogue import BASE, open_catalogue
from runtimes.api.keys import Keys
from runtimes.api.triton_backend import TritonBackend

log = logging.getLogger("adaptrt")
_KEEP_ALIVE = 75  # seconds an idle connection is kept: longer than clients keep theirs
_SWITCH = 0.0005  # seconds a thread may hold the interpreter: the encoder's waits for the loop's


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are answered first.

    Raises :class:`InputError` for a bundle, key file or address that cannot be used, before
    anything listens, and :class:`MissingError` where a library is not installed.
    """
    keys = Keys.read(settings.api_key_file)
    catalogue = open_catalogue(settings)
    if settings.triton is not None and len(catalogue.models) > 1:
        raise InputError(
            f"--triton: one model is served there, got bundles of {', '.join(catalogue.models)}; "
            "start a server here for each"
        )
    for file in (settings.tls_certificate, settings.tls_key):
        if file is not None and not file.is_file():
            raise InputError(f"TLS: {shown(str(file))}: no such file")
    with _bound(settings) as listener:
        metrics = Metrics()
        backend: Backend = (
            TritonBackend(settings)
            if settings.triton is not None
            else LocalBackend(settings, metrics.called, metrics.restarts.inc)
        )
        api = Api(
            settings=settings, catalogue=catalogue, backend=backend, keys=keys, metrics=metrics
        )
        if not catalogue.answers_without_task:
            log.info(
                "requests without a task are refused: not every model has %s; --default-task NAME "
                "names another",
                catalogue.default_task or BASE,
            )
        server = _Server(_config(api), api)
        sys.setswitchinterval(_SWITCH)
        server.run(sockets=[listener])


def _config(api: Api) -> uvicorn.Config:
    settings = api.settings
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # clients' mistakes are no news
    try:
        config = uvicorn.Config(
            api.app(),
            http=guarded(settings.deadline),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=int(settings.deadline) + 1,
            backlog=2048,
            ssl_certfile=settings.tls_certificate,
            ssl_keyfile=settings.tls_key,
        )
        config.load()
    except OSError as error:  # of ssl
        raise InputError(f"TLS: the certificate or its key cannot be used ({error})") from error
    return config


class _Server(uvicorn.Server):
    """Says where it listens, and tells requests that come while it ends to come again."""

    def __init__(self, config: uvicorn.Config, api: Api) -> None:
        super().__init__(config)
        self._api = api

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        self._api.backend.start()
        await super().startup(sockets)
        for listener in sockets or []:
            scheme = "https" if self.config.is_ssl else "http"
            host, port = listener.getsockname()[:2]
            place = f"[{host}]" if ":" in host else host
            print(f"listening on {scheme}://{place}:{port}", file=sys.stderr, flush=True)
            self._say_who(host)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what is under way, then end the encoders."""
        await super().shutdown(sockets)
        await asyncio.to_thread(self._api.backend.close)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End by returning, so that the command's exit code is its own."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._drain)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _drain(self) -> None:
        """The first signal lets requests end, a second one does not wait for them."""
        if not self.should_exit:
            log.info("ending; %d requests under way are answered first", self._api.under_way)
        self.force_exit = self.should_exit
        self.should_exit = self._api.draining = True

    def _say_who(self, host: str) -> None:
        if ipaddress.ip_address(host).is_loopback:
            log.info("for this machine alone; --host 0.0.0.0 is for the network too")
        elif not self._api.keys.wanted:
            log.warning("everybody who can connect may use it; --api-key-file asks for a key")


@contextlib.contextmanager
def _bound(settings: Settings) -> Iterator[socket.socket]:
    """The address, taken before anything is loaded; nobody can connect yet."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise InputError(f"--host: got {shown(settings.host)}, which is no address here") from error
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise InputError(
                f"--host {settings.host} --port {settings.port}: {error.strerror}; name another "
                "port, or 0 for any free one"
            ) from error
        yield listener
    finally:
        listener.close()
