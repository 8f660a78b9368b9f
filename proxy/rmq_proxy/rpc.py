"""The seam between services and transports: one table of every call that we serve, over bytes.

A service knows no transport and a transport knows no protobuf. `Gate.begin` and `Gate.end` run once for each call on
every transport: there authentication, metrics and tracing hook in.
"""

import asyncio
import enum
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol, TypeAlias

import msgspec

from rmq.errors import Code

Metadata: TypeAlias = Mapping[str, str | bytes]


class GrpcCode(enum.IntEnum):
    """The gRPC status codes that we answer with; business outcomes travel in-band as RocketMQ codes under OK."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class RpcError(Exception):
    """Ends a call with a gRPC status instead of an answer."""

    def __init__(self, code: GrpcCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


NO_METADATA: Metadata = MappingProxyType({})


class Call:
    """One call as a service sees it, whichever transport carries it."""

    __slots__ = (
        "authority", "begun_s", "cancelled", "code", "deadline_s", "metadata", "peer", "principal", "tls",
        "undelivered",
    )  # fmt: skip

    def __init__(
        self, peer: str, metadata: Metadata, *, authority: str = "", deadline_s: float | None = None, tls: bool = False
    ) -> None:
        self.peer = peer  # "host:port" of the client; IPv6 as "[::1]:port"
        self.metadata = metadata  # lower-case names; names ending in -bin carry bytes. Gone once the call `waits`
        self.authority = authority  # the :authority pseudo header, "host:port"
        self.deadline_s = deadline_s  # on the event loop's clock; None: none was given
        self.tls = tls
        self.begun_s = 0.0  # set by the gate
        self.code: Code | None = None  # what the answer's status says, where the service knows it not to be OK
        self.principal: str | None = None  # set by authentication, when that is on
        self.cancelled = False  # the client is gone or gave up
        self.undelivered: Callable[[], None] | None = (
            None  # a LIST answer could not be written in full: the transport calls this once
        )

    def waits(self) -> None:
        """A UNARY or LIST handler has answered with a Future: of the many calls that wait, only the start of each
        reads metadata, and they are half of its memory. Every transport tells.
        """
        self.metadata = NO_METADATA

    def header(self, name: str) -> str:
        """The text of a metadata entry, empty when absent."""
        value = self.metadata.get(name, "")
        return value if isinstance(value, str) else value.decode("latin-1")


class Outlet(Protocol):
    """The server's half of a stream. Safe to call after the stream has ended: it then does nothing."""

    def write(self, message: bytes) -> None:
        """Queues one message; never blocks."""

    def finish(self, code: GrpcCode = GrpcCode.OK, text: str = "") -> None:
        """Ends the stream with a status."""


class Inlet(Protocol):
    """The client's half of a stream, called by the transport."""

    def message(self, data: bytes) -> None:
        """One inbound message; an RpcError raised here ends the stream with its status."""

    def half_closed(self) -> None:
        """The client sends no more."""

    def closed(self) -> None:
        """The stream is over, for whatever reason; called exactly once, after which the outlet is dead."""


Unary: TypeAlias = Callable[[Call, bytes], "bytes | asyncio.Future[bytes]"]
Listing: TypeAlias = Callable[[Call, bytes], "Sequence[bytes] | asyncio.Future[Sequence[bytes]]"]
Open: TypeAlias = Callable[[Call, Outlet], Inlet]


class Kind(enum.Enum):
    """How a call's messages flow."""

    UNARY = "unary"  # one in, one out
    LIST = "list"  # one in, a finite list out, written together (ReceiveMessage, PullMessage)
    STREAM = "stream"  # many in, many out (Telemetry; Watch and reflection)


class Row(msgspec.Struct, frozen=True):
    """One served call. `action` and `limit` say what it touches, for authorization and for traffic governance."""

    path: str  # "/package.Service/Method"
    kind: Kind
    handler: Unary | Listing | Open
    action: str = ""  # "Pub", "Sub", ... (facts: grpc.md 3.3)
    limit: str = ""  # limit class: "route", "producer", "consumer", "client", "transaction", "open"


Table: TypeAlias = Mapping[str, Row]


class Gate(Protocol):
    """Runs around each call on every transport."""

    def begin(self, call: Call, row: Row) -> None:
        """Before the handler; an RpcError refuses the call."""

    def end(self, call: Call, row: Row, code: GrpcCode, response_bytes: int) -> None:
        """After the last byte of the answer was handed over."""
