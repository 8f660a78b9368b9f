"""What the port answers to a request that is not gRPC, over HTTP/1.1 and HTTP/2 alike."""

import logging
from collections.abc import Callable

from rmq.port import Answer
from rmq_proxy.answers import then
from rmq_proxy.native.site import Page

log = logging.getLogger(__name__)

TEXT = "text/plain; charset=utf-8"
METRICS = "text/plain; version=0.0.4; charset=utf-8"
LOOPBACKS = ("127.", "[::1]")
ABOUT = (
    b"This is the port of a RocketMQ 5 server (rmq). Give this address to a RocketMQ 5 client as its endpoint.\n"
    b"It speaks gRPC, with TLS and without; over HTTP there are /healthz and /metrics.\n"
)


class PortPages:
    """GET /healthz, GET /metrics, and for all else what this port is.

    `healthy` is false from the moment that the server stops. Metrics are for this machine only, or for all.
    """

    def __init__(
        self, healthy: Callable[[], bool], metrics: Callable[[], Answer[bytes]], *, metrics_for_all: bool
    ) -> None:
        self._healthy = healthy
        self._metrics = metrics
        self._metrics_for_all = metrics_for_all

    def __call__(self, method: str, path: str, peer: str) -> Answer[Page]:
        """See site.Pages."""
        path = path.partition("?")[0]
        if path not in ("/healthz", "/metrics"):
            return 404, TEXT, ABOUT
        if method not in ("GET", "HEAD"):
            return 405, TEXT, b"only GET\n"
        if path == "/healthz":
            return (200, TEXT, b"ok\n") if self._healthy() else (503, TEXT, b"the server is stopping\n")
        if not self._metrics_for_all and not peer.startswith(LOOPBACKS):
            return 403, TEXT, b"metrics are for this machine only\n"
        return then(self._metrics(), lambda text: (200, METRICS, text), _failed)


def _failed(error: Exception) -> Page:
    log.error("/metrics failed", exc_info=error)
    return 500, TEXT, b"internal error; the server's log says more\n"
