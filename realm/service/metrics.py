"""What the service counts, for Prometheus. Each service has a registry of its own."""

from __future__ import annotations

from realm.errors import MissingLibraryError

try:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
except ModuleNotFoundError as error:
    raise MissingLibraryError("prometheus_client", "serve", "realm serve") from error

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters, gauges and histograms under the prefix ``realm_``."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "realm_http_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "realm_http_request_seconds",
            "From a request's arrival to the end of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge("realm_http_requests_in_flight", "Requests being answered.", registry=self.registry)
        self._batch = Histogram(
            "realm_batch_questions", "Questions answered together.", buckets=BATCHES, registry=self.registry
        )
        self._batch_seconds = Histogram(
            "realm_batch_seconds", "Time to answer a batch.", buckets=SECONDS, registry=self.registry
        )
        self._cached = Counter(
            "realm_cache_questions", "Questions looked for in the cache of answers.", ["found"], registry=self.registry
        )
        self.cache_entries = Gauge("realm_cache_answers", "Answers in the cache.", registry=self.registry)
        self.cache_bytes = Gauge("realm_cache_bytes", "Size of the answers in the cache.", registry=self.registry)
        self._edits = Counter("realm_documents_edited", "Documents edited.", ["change"], registry=self.registry)
        self.version = Gauge(
            "realm_knowledge_base_version", "Newest version of the knowledge base.", registry=self.registry
        )
        self.waiting = Gauge(
            "realm_passages_without_vector", "Passages that the model has not embedded yet.", registry=self.registry
        )
        self.index_age = Gauge(
            "realm_index_age_seconds", "How long the oldest passage without a vector waits.", registry=self.registry
        )

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request is over. route: a template such as ``/v1/documents/{document_id}``, never a path."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, questions: int, seconds: float) -> None:
        """A batch of questions was answered."""
        self._batch.observe(questions)
        self._batch_seconds.observe(seconds)

    def cached(self, hits: int, misses: int) -> None:
        """So many questions were answered from the cache, and so many were not there."""
        self._cached.labels("yes").inc(hits)
        self._cached.labels("no").inc(misses)

    def edited(self, **documents: int) -> None:
        """Documents were added, updated or deleted."""
        for change, count in documents.items():
            self._edits.labels(change).inc(count)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
