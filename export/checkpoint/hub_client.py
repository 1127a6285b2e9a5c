"""How huggingface_hub is used here: time limits, progress, its warnings and errors as one line."""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from tqdm import tqdm

from export.console.progress import bars_shown, log
from runtimes.errors import InputError, one_line, shown

if TYPE_CHECKING:
    import httpx

_CONNECT = 3.0  # seconds for a name's look-up and a connection
_WAIT = 30.0  # seconds for an answer where huggingface_hub waits for ever
_EVERY = 10.0  # seconds between two lines of a log
# The token, and addresses: those of large files are signed for their bearer.
_SECRET = re.compile(r"https?://\S+|Bearer .*")


def hub() -> str:
    """The hub's address, without the password that HF_ENDPOINT may hold."""
    from huggingface_hub import constants

    return one_line(re.sub(r"//.*@", "//", constants.ENDPOINT))


def connection_failure(endpoint: str) -> str | None:
    """Why no connection to the endpoint, or its proxy, comes about within three seconds, or None.

    huggingface_hub's own limit holds for each address of a host, and a name's look-up has none.
    """
    try:
        place = _first_stop(endpoint)
    except ValueError as error:
        return f"HF_ENDPOINT or its proxy is no address: {error}"
    outcome = [f"no connection within {_CONNECT:.0f} s"]

    def connect() -> None:
        try:
            socket.create_connection(place, timeout=_CONNECT).close()
            outcome.append("")
        except (OSError, UnicodeError) as error:
            outcome.append(getattr(error, "strerror", None) or str(error))

    thread = Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_CONNECT)
    return outcome[-1] or None


def _first_stop(endpoint: str) -> tuple[str, int]:
    url = urlsplit(endpoint)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("expected https://host")
    proxies = {} if proxy_bypass(url.hostname) else getproxies()
    if proxy := proxies.get(url.scheme) or proxies.get("all"):
        url = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if not url.hostname:
        raise ValueError("expected http://host:port")
    return url.hostname, url.port or (443 if url.scheme == "https" else 80)


@contextmanager
def limited_session() -> Iterator[None]:
    """huggingface_hub's session, with limits where it has none, while this lasts.

    Large files come by plain HTTP: where only Xet's own servers cannot be reached, hf_xet 1.8 is
    silent for 190 s and then fails. ``HF_HUB_DISABLE_XET=0`` uses it all the same.
    """
    from huggingface_hub import constants, get_session

    if "HF_HUB_DISABLE_XET" not in os.environ:
        constants.HF_HUB_DISABLE_XET = True
    client = get_session()
    before = client.event_hooks
    client.event_hooks = {
        "request": [*before["request"], _limit_waiting],
        "response": [*before["response"], _check_etag],
    }
    try:
        yield
    finally:
        client.event_hooks = before


def _limit_waiting(request: httpx.Request) -> None:
    waits = request.extensions["timeout"]
    request.extensions["timeout"] = {k: _WAIT if v is None else v for k, v in waits.items()}


def _check_etag(response: httpx.Response) -> None:
    """An ETag becomes a file's name in the cache, and huggingface_hub does not look at it."""
    for header in ("X-Linked-Etag", "ETag"):
        if re.search(r"[/\\]", response.headers.get(header, "").removeprefix("W/")):
            raise ValueError(f"{header} is not the name of a file")


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """huggingface_hub's warnings (a retry, for example) as one line each, while this lasts."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.handlers
    logger.handlers = [_OneLine()]
    try:
        yield
    finally:
        logger.handlers = before


class _OneLine(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        log.warning("hub: %s", _line(record.getMessage()))


def _line(text: str) -> str:
    """The first line, without what is nobody's business."""
    return one_line(_SECRET.sub("(left out)", text.strip().partition("\n")[0]))[:300]


def foreign_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises: of the network and the disk, or where an answer has another
    shape than a hub's, which it does not check.
    """
    import httpx

    shape = (ValueError, KeyError, TypeError, AttributeError, AssertionError, RuntimeError)
    return httpx.HTTPError, httpx.InvalidURL, OSError, *shape


def reason(error: BaseException) -> str:
    """An error of :func:`foreign_errors` in a few words."""
    from httpx import HTTPError
    from huggingface_hub.errors import HfHubHTTPError

    error = _cause(error)
    if isinstance(error, HfHubHTTPError):
        return f"it answered {error.response.status_code}"
    if isinstance(error, OSError) and error.strerror:
        return one_line(f"{error.strerror}{f': {error.filename}' if error.filename else ''}")
    if isinstance(error, HTTPError | OSError | RuntimeError):
        # What stands in brackets names a file by the end of its address.
        return _line(str(error)).partition(" (")[0] or type(error).__name__
    return f"its answer is not that of a hub: {_line(str(error)) or type(error).__name__}"


def refusal(error: BaseException, model: str, revision: str) -> InputError | None:
    """What the hub's refusal means and what to do; None where it refused nothing."""
    from huggingface_hub import errors

    error = _cause(error)
    if not isinstance(error, errors.HfHubHTTPError):
        return None
    page, token = f"{hub()}/{model}", "HF_TOKEN=... or `hf auth login`"
    status = error.response.status_code
    match error:
        case errors.GatedRepoError():
            text = (
                f"MODEL: {model} is gated ({status}): accept its terms at {page}, and give a token "
                f"of the account that did ({token})"
            )
        case errors.RevisionNotFoundError():
            text = (
                f"REVISION: {model} has no branch, tag or commit {shown(revision)}; its page "
                f"{page}/tree/main lists them"
            )
        case errors.RepositoryNotFoundError():
            text = (
                f"MODEL: {model} is neither a folder here nor a repository at {hub()} that can be "
                f"read ({status}); check the name, and give a token for a private one ({token})"
            )
        case _ if status in (401, 403):
            text = (
                f"MODEL: {hub()} refuses {model} to this token, or to none ({status}); give one "
                f"that may read it ({token})"
            )
        case _:
            return None
    return InputError(text)


def _cause(error: BaseException) -> BaseException:
    """huggingface_hub wraps what went wrong into "not in the cache"."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        return error.__cause__
    return error


class SilentBar(tqdm):  # type: ignore[misc]
    """No progress."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options | {"disable": True})


def progress_bar(name: str) -> type[tqdm]:
    """A file's bar on a terminal; elsewhere a line every ten seconds, so that a log shows life."""

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            options |= {"desc": name, "leave": False, "disable": not bars_shown()}
            options.pop("bar_format", None)
            super().__init__(*args, **options)
            self.due = time.monotonic() + _EVERY

        def update(self, n: float | None = 1) -> None:
            if not self.disable:
                super().update(n)
                return
            self.n += n or 0
            if time.monotonic() >= self.due:
                self.due = time.monotonic() + _EVERY
                total = f" of {self.total / 1e6:.0f}" if self.total else ""
                log.info("%s: %.0f%s MB", name, self.n / 1e6, total)

    return Bar
