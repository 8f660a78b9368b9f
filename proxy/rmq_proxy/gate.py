"""Runs around each call on every transport: how long it took and how it ended, for metrics and the log at level debug.

Promises: about half a microsecond a call. Rate limits are not here but where the topic is known: see rates.
"""

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Final

from rmq.errors import Code
from rmq.metrics import Exposition, Histogram, flag
from rmq_proxy.rpc import Call, GrpcCode, Kind, Row

log = logging.getLogger(__name__)

BOUNDS_MS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000)
MESSAGING = "/apache.rocketmq.v2.MessagingService/"
OK: Final = GrpcCode.OK
SUCCESS = "success"
RESULTS = {Code.MESSAGE_NOT_FOUND.name: SUCCESS, GrpcCode.CANCELLED.name: "canceled"}
LABELS = ("protocol_type", "request_code", "response_code", "is_long_polling", "result")


class Method:
    """One row's calls by the name of their code, RocketMQ's in the answer or gRPC's own; almost all are OK."""

    __slots__ = ("long_polling", "name", "ok", "others")

    def __init__(self, row: Row) -> None:
        self.name = row.path.removeprefix(MESSAGING).lstrip("/")
        self.long_polling = row.kind is Kind.LIST
        self.ok = Histogram(BOUNDS_MS)
        self.others: dict[str, Histogram] = {}

    def other(self, code: GrpcCode, told: Code | None) -> Histogram:
        """Of calls that did not go well; `told` counts where the call itself was not broken."""
        return self.others.setdefault((told if told is not None and code is OK else code).name, Histogram(BOUNDS_MS))


class MeteringGate:
    """Lets every call in. Time is real (`monotonic_s`)."""

    def __init__(self, monotonic_s: Callable[[], float]) -> None:
        self._now_s = monotonic_s
        self._methods: dict[str, Method] = {}
        self._tells = log.isEnabledFor(logging.DEBUG)  # the level does not change while a server runs

    def begin(self, call: Call, row: Row) -> None:
        """See Gate."""
        call.begun_s = self._now_s()

    def end(self, call: Call, row: Row, code: GrpcCode, response_bytes: int) -> None:
        """See Gate."""
        method = self._methods.get(row.path)
        if method is None:
            method = self._methods[row.path] = Method(row)
        times = method.ok if code is OK and call.code is None else method.other(code, call.code)
        took_ms = 1000 * (self._now_s() - call.begun_s)
        times.counts[bisect_left(BOUNDS_MS, took_ms)] += 1  # as Histogram.add, without its frame
        times.total += took_ms
        if self._tells:
            log.debug("%s %s: %s, %d bytes", call.peer, row.path, code.name, response_bytes)

    def source(self, page: Exposition) -> Iterator[None]:
        """See metrics.Source."""
        family = page.family(
            "rocketmq_rpc_latency", "histogram", "From a request that is whole to its answer, in ms.", *LABELS
        )
        for method in list(self._methods.values()):
            polls = flag(method.long_polling)
            family.add_histogram(method.ok, "grpc", method.name, OK.name, polls, SUCCESS)
            for name, times in method.others.items():
                family.add_histogram(times, "grpc", method.name, name, polls, RESULTS.get(name, "failed"))
        yield
