"""What all connections of one native transport share: the table, the gate, the bounds, the deadlines."""

import asyncio
import contextvars
import logging
from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

from rmq.port import Answer
from rmq_proxy.http2.limits import Limits
from rmq_proxy.native.deadlines import Deadlines
from rmq_proxy.rpc import Gate, GrpcCode, Row, RpcError, Table

Page: TypeAlias = tuple[int, str, bytes]
"""HTTP status, content type, body."""
Pages: TypeAlias = Callable[[str, str, str], Answer[Page]]
"""(method, path, peer) -> what a request gets that is not gRPC. A Future never fails."""


class Site:
    """Owned by the transport; `held_bytes` is what the connections keep of unfinished requests."""

    def __init__(
        self,
        table: Table,
        gate: Gate,
        pages: Pages,
        *,
        limits: Limits,
        request_bytes_max: int,
        log: logging.Logger,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.table = table
        self.gate = gate
        self.pages = pages
        self.limits = limits
        self.request_bytes_max = request_bytes_max
        self.log = log
        self.loop = loop
        self.context = contextvars.copy_context()  # of the callbacks of all calls that wait: each would copy its own
        self.deadlines = Deadlines(loop)
        self.held_bytes = 0
        self.endings: Counter[str] = Counter()  # connections that we ended, by reason

    def verdict(self, row: Row, error: BaseException) -> tuple[GrpcCode, str]:
        """The status for what a service raised; the culprit of anything but an RpcError is the server."""
        if isinstance(error, RpcError):
            return error.code, error.text
        if isinstance(error, asyncio.CancelledError):
            return GrpcCode.UNAVAILABLE, "the server gave this call up; try again"
        self.log.error("%s failed", row.path, exc_info=error)
        return GrpcCode.INTERNAL, "internal error; the server's log tells more"
