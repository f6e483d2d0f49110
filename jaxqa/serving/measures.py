"""What the server counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from jaxqa.scoring.results import Score
from jaxqa.serving.compilations import Compilations
from jaxqa.serving.web import ASSETS

_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120)
_PATHS = (
    *("/", "/compute", "/health", "/metrics", "/openapi.json", "/docs"),
    *("/v1/score", "/v1/compare", "/v1/models", "/v1/chat/completions"),
)


class Measures:
    """Counters of one server."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "jaxqa_requests", "Requests answered.", ("path", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "jaxqa_request_seconds",
            "Time to answer a request.",
            ("path",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._images = Counter(
            "jaxqa_images", "Images by what came of them.", ("outcome",), registry=self.registry
        )
        compilations = Compilations()
        Gauge(
            "jaxqa_compilations",
            "Programs compiled since the server began to listen.",
            registry=self.registry,
        ).set_function(lambda: compilations.count)
        self.pending = Gauge(
            "jaxqa_pending_images", "Images that wait or are computed.", registry=self.registry
        )

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request; unknown paths are one, so that clients cannot invent series."""
        path = ASSETS if path.startswith(f"{ASSETS}/") else path
        path = path if path in (*_PATHS, ASSETS) else "other"
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def scores(self, scores: list[Score]) -> None:
        """Count images."""
        for score in scores:
            self._images.labels("scored" if score.error is None else "failed").inc()

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
