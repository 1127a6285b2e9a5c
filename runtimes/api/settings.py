"""What a server is started with: checked, and nothing opened yet."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from runtimes.arguments import check_whole
from runtimes.auto import AUTO
from runtimes.choices import Unknown
from runtimes.errors import InputError, shown

MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One server.

    ``model_names`` are empty, one for all bundles, or one for each. ``default_task`` is that of
    requests that name none; None is ``base``. Without ``workers`` the encoder is a thread of the
    server's own process. Limits: ``max_texts``, ``max_tokens`` and ``max_bytes`` are of one
    request, ``max_queue`` of texts that wait, ``max_concurrent`` of requests under way;
    ``deadline`` is in seconds. ``max_text_bytes`` is of one text, in UTF-8. ``unknown`` and
    ``fallback`` are those of :meth:`~runtimes.embedder.Embedder.load`, for bundles of few tokens;
    ``indexes`` are what the vectors are for.

    Raises :class:`InputError` for what cannot be meant.
    """

    bundles: tuple[Path, ...]
    host: str = "127.0.0.1"
    port: int = 8080
    default_task: str | None = None
    model_names: tuple[str, ...] = ()
    api_key_file: Path | None = None
    workers: int = 0
    triton: str | None = None
    max_texts: int = 2048
    max_tokens: int = 1 << 18
    max_bytes: int = 8 * MIB
    max_text_bytes: int = MIB
    max_queue: int = 16384
    max_concurrent: int = 256
    deadline: float = 60.0
    cors_origins: tuple[str, ...] = ()
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    threads: int | None = None
    runtime: str = AUTO
    device: str | None = None
    unknown: str | None = None
    fallback: Path | None = None
    indexes: tuple[Path, ...] = ()
    access_log: bool = True

    def __post_init__(self) -> None:
        for name in ("max_texts", "max_tokens", "max_bytes", "max_text_bytes", "max_queue"):
            check_whole(_flag(name), getattr(self, name), 1)
        check_whole("--max-concurrent", self.max_concurrent, 1)
        check_whole("--workers", self.workers, 0)
        if self.threads is not None:
            check_whole("--threads", self.threads, 1)
        if not 0 < self.deadline < math.inf:
            raise InputError(f"--deadline: got {self.deadline}, expected seconds above 0")
        if not 0 <= self.port <= 65535:
            raise InputError(f"--port: got {self.port}, expected 0 (any free one) to 65535")
        self._check_combinations()

    def _check_combinations(self) -> None:
        if not self.bundles:
            raise InputError("--bundle: got none, expected at least one")
        if len(self.model_names) not in (0, 1, len(self.bundles)):
            raise InputError(
                f"--model-name: got {len(self.model_names)} for {len(self.bundles)} bundles, "
                "expected one for all, or one for each in the same order"
            )
        if self.max_queue < self.max_texts:
            raise InputError(
                f"--max-queue: got {self.max_queue}, expected at least --max-texts "
                f"({self.max_texts}); a full request would never fit"
            )
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise InputError("--tls-certificate and --tls-key: got one, expected both or neither")
        if self.unknown is not None:
            Unknown.parse("--unknown", self.unknown)
        if self.triton is not None and self.fallback is not None:
            raise InputError(
                "--fallback: the server at --triton runs the model, and has none; leave it out"
            )
        if self.triton is not None and (self.workers or self.threads or self.runtime != AUTO):
            raise InputError(
                "--triton: the server there runs the model; leave --workers, --threads and "
                "--runtime out"
            )
        for origin in self.cors_origins:
            if origin != "*" and not origin.startswith(("http://", "https://")):
                raise InputError(
                    f"--cors-origin: got {shown(origin)}, expected * or an origin such as "
                    "https://example.org"
                )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
