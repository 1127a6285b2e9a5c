"""What a client is told when a request cannot be answered: a row per kind of problem.

The body is both OpenAI's (``error.message``) and the vendor's (``detail``).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec

from runtimes.errors import AdaptrtError, InputError

INVALID = "invalid_request_error"


class Kind(NamedTuple):
    """A status, and the words for it that OpenAI's clients read."""

    status: int
    type: str
    code: str


BAD_JSON = Kind(400, INVALID, "invalid_json")
BAD_VALUE = Kind(400, INVALID, "invalid_value")
TOO_LONG = Kind(400, INVALID, "context_length_exceeded")
UNKNOWN_FIELD = Kind(400, INVALID, "unknown_field")
NO_KEY = Kind(401, "authentication_error", "invalid_api_key")
NO_MODEL = Kind(404, INVALID, "model_not_found")
NO_ROUTE = Kind(404, INVALID, "not_found")
NO_METHOD = Kind(405, INVALID, "method_not_allowed")
SLOW_BODY = Kind(408, INVALID, "request_timeout")
TOO_LARGE = Kind(413, INVALID, "request_too_large")
ENCODED = Kind(415, INVALID, "unsupported_content_encoding")
BUSY = Kind(429, "rate_limit_error", "server_busy")
FAILED = Kind(500, "server_error", "encoder_failed")
INTERNAL = Kind(500, "server_error", "internal_error")
WORKER_LOST = Kind(503, "server_error", "worker_lost")
BEHIND = Kind(503, "server_error", "backend_unavailable")
DRAINING = Kind(503, "server_error", "shutting_down")
DEADLINE = Kind(504, "server_error", "deadline_exceeded")
GONE = Kind(499, "client_error", "client_disconnected")  # for the log: nobody reads the answer

KINDS = (
    *(BAD_JSON, BAD_VALUE, TOO_LONG, UNKNOWN_FIELD, NO_KEY, NO_MODEL, NO_ROUTE, NO_METHOD),
    *(SLOW_BODY, TOO_LARGE, ENCODED, BUSY, FAILED, INTERNAL, WORKER_LOST, BEHIND, DRAINING),
    *(DEADLINE, GONE),
)


class ApiError(AdaptrtError):
    """A request that is answered with an error.

    ``param`` names the field at fault. ``retry_after`` are seconds after which it may succeed.
    With ``close`` the connection ends, because what is left of the request is not read.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind, self.message, self.param = kind, message, param
        self.retry_after, self.close = retry_after, close

    def body(self) -> bytes:
        """The JSON that a client reads."""
        error = Problem(
            message=self.message, type=self.kind.type, param=self.param, code=self.kind.code
        )
        return msgspec.json.encode(ProblemAnswer(error=error, detail=self.message))

    def headers(self) -> dict[str, str]:
        """Those that say when to come again, and with what."""
        headers = {}
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        if self.kind is NO_KEY:
            headers["www-authenticate"] = "Bearer"
        if self.close:
            headers["connection"] = "close"
        return headers


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str


class ProblemAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every answer that is no success."""

    error: Problem
    detail: str


def as_problem(error: AdaptrtError, param: str | None = None) -> ApiError:
    """An error of the project as a client is told it; one of ours stays as it is.

    What an executor says may name files of this machine, so the client is not told it.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, InputError):
        return ApiError(BAD_VALUE, str(error), param=param)
    return ApiError(FAILED, "the encoder failed; the server's log says more")
