"""What ``/metrics`` shows, for Prometheus. No label comes from a client's own words."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from runtimes.api.backends import CallDone

CONTENT_TYPE = CONTENT_TYPE_LATEST
disable_created_metrics()  # type: ignore[no-untyped-call]  # a time of creation beside every value, which nobody asks for
_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
_TOKENS = (16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


class Metrics:
    """One server's."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "adaptrt_requests",
            "Answered requests by route and status; 499: the client hung up.",
            ("route", "status"),
            registry=registry,
        )
        self.seconds = Histogram(
            "adaptrt_request_seconds",
            "Time from a request's headers to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.texts = Counter(
            "adaptrt_texts", "Texts embedded.", ("model", "task"), registry=registry
        )
        self.tokens = Counter(
            "adaptrt_tokens", "Tokens embedded.", ("model", "task"), registry=registry
        )
        self.truncated = Counter(
            "adaptrt_truncated_texts", "Texts whose end was cut off.", registry=registry
        )
        self.problems = Counter(
            "adaptrt_problems",
            "Requests that were not answered, by code.",
            ("code",),
            registry=registry,
        )
        self.in_flight = Gauge(
            "adaptrt_requests_in_flight", "Embedding requests under way.", registry=registry
        )
        self.queue_texts = Gauge(
            "adaptrt_queue_texts", "Texts that wait for the encoder.", registry=registry
        )
        self.queue_tokens = Gauge(
            "adaptrt_queue_tokens", "Tokens that wait for the encoder.", registry=registry
        )
        self.ready = Gauge(
            "adaptrt_ready", "1 while requests are answered, 0 otherwise.", registry=registry
        )
        self.call_rows = Histogram(
            "adaptrt_call_texts",
            "Texts in a call of the encoder.",
            buckets=_SIZES,
            registry=registry,
        )
        self.call_tokens = Histogram(
            "adaptrt_call_tokens",
            "Tokens in a call of the encoder, without padding.",
            buckets=_TOKENS,
            registry=registry,
        )
        self.padding = Counter(
            "adaptrt_padding_tokens", "Tokens computed as padding.", registry=registry
        )
        self.call_seconds = Histogram(
            "adaptrt_call_seconds", "Time of a call.", buckets=_SECONDS, registry=registry
        )
        self.restarts = Counter(
            "adaptrt_worker_restarts", "Worker processes that were replaced.", registry=registry
        )

    def watch(self, waiting: Callable[[], tuple[int, int]], ready: Callable[[], bool]) -> None:
        """Take the gauges' values when they are asked for."""
        self.queue_texts.set_function(lambda: waiting()[0])
        self.queue_tokens.set_function(lambda: waiting()[1])
        self.ready.set_function(lambda: float(ready()))

    def called(self, call: CallDone) -> None:
        """One call of the encoder."""
        self.call_rows.observe(call.rows)
        self.call_tokens.observe(call.tokens)
        self.call_seconds.observe(call.seconds)
        self.padding.inc(call.padded - call.tokens)

    def text(self) -> bytes:
        """All of it in Prometheus' format."""
        return generate_latest(self.registry)
