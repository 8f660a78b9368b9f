"""Runs around each call on every transport. Today it logs, at level debug, what was called and how it ended.

Limits, authentication and metrics hook in here with their issues.
"""

import logging

from rmq_proxy.rpc import Call, GrpcCode, Row

log = logging.getLogger(__name__)


class LoggingGate:
    """Lets every call in."""

    def begin(self, call: Call, row: Row) -> None:
        """See Gate."""

    def end(self, call: Call, row: Row, code: GrpcCode, response_bytes: int) -> None:
        """See Gate."""
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s %s: %s, %d bytes", call.peer, row.path, code.name, response_bytes)
