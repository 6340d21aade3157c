"""Numbers of one server in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.process_collector import ProcessCollector

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_PICTURES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The numbers, in a registry of their own, so that a process may hold several servers."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter("dyzoo_requests", "Requests that were answered", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "dyzoo_request_seconds", "Time from a request's head to its answer", ["route"], buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.pictures = Counter(
            "dyzoo_pictures", "Pictures: detected, refused, failed in the network, or dropped", ["outcome"],
            registry=registry,
        )  # fmt: skip
        self.batch = Histogram("dyzoo_batch_pictures", "Pictures of a batch", buckets=_PICTURES, registry=registry)
        self.network = Histogram(
            "dyzoo_network_seconds", "Time of a batch in the network", buckets=_SECONDS, registry=registry
        )
        self.queue = Gauge("dyzoo_queue_pictures", "Pictures that are decoded, wait, or are seen", registry=registry)
        self.held = Gauge("dyzoo_held_bytes", "Bytes of the bodies of running requests", registry=registry)
        self.errors = Counter("dyzoo_errors", "Failures of the server itself", ["kind"], registry=registry)
        self.model = Info("dyzoo_model", "The detector and the version of dyzoo", registry=registry)
        for kind in ("network", "decoding", "server"):
            self.errors.labels(kind)
        for outcome in ("detected", "refused", "failed", "dropped"):
            self.pictures.labels(outcome)
        ProcessCollector(registry=registry)

    def watch(self, queue: Callable[[], float], held: Callable[[], float]) -> None:
        """Ask for the numbers that go up and down when they are wanted."""
        self.queue.set_function(queue)
        self.held.set_function(held)

    def text(self) -> bytes:
        """All of them."""
        return generate_latest(self.registry)
