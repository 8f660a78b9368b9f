"""What the transport tests share: a server with a recording gate, and a client; each test runs on every transport."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar

import pytest

from rmq_proxy.grpcio_transport import GrpcioTransport
from rmq_proxy.native_transport import NativeTransport
from rmq_proxy.rpc import Call, Gate, GrpcCode, Inlet, Kind, Outlet, Row, RpcError, Table
from tests.proxy.stacks import GRPCIO, PLAIN, CallError, Channel, End, Metadata, Options, Stack, Stream

T = TypeVar("T")
Run: TypeAlias = Callable[[Awaitable[T]], T]
REQUEST_BYTES_MAX = 100_000
LOG = logging.getLogger("test.transport")
TRANSPORTS: "dict[str, Make]" = {"grpcio": GrpcioTransport, "native": NativeTransport}


class Transport(Protocol):
    async def start(self, hosts: Sequence[str], port: int) -> int: ...

    async def stop(self, grace_s: float) -> None: ...


class Make(Protocol):
    def __call__(self, table: Table, gate: Gate, *, request_bytes_max: int, log: logging.Logger) -> Transport: ...


@dataclass(frozen=True)
class Maker:
    """A transport to be, and the stack whose client a test shall use."""

    make: Make
    stack: Stack = GRPCIO

    def __call__(self, table: Table, gate: Gate, *, request_bytes_max: int, log: logging.Logger) -> Transport:
        return self.make(table, gate, request_bytes_max=request_bytes_max, log=log)


class RecordingGate:
    """Notes what passes; refuses where told to."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.ended: list[tuple[str, GrpcCode, int]] = []
        self.refusal: RpcError | None = None
        self.changed = asyncio.Event()

    def begin(self, call: Call, row: Row) -> None:
        self.calls.append(call)
        self.changed.set()
        if self.refusal:
            raise self.refusal

    def end(self, call: Call, row: Row, code: GrpcCode, response_bytes: int) -> None:
        self.ended.append((row.path, code, response_bytes))
        self.changed.set()

    async def ends(self, count: int = 1) -> list[tuple[str, GrpcCode, int]]:
        """What `end` was told, once it was called `count` times: a client may have its answer a moment earlier."""
        await self.until(lambda: len(self.ended) >= count)
        return self.ended

    async def until(self, true: Callable[[], object]) -> None:
        """Waits for something that begins or ends with a call; the test's own limit bounds it."""
        while not true():
            await self.changed.wait()
            self.changed.clear()


class Server:
    """A transport that serves, a gate that records, and a channel to it."""

    def __init__(self, transport: Transport, gate: RecordingGate, port: int, channel: Channel) -> None:
        self.transport = transport
        self.gate = gate
        self.port = port
        self.channel = channel

    async def unary(
        self, path: str, request: bytes = b"", metadata: Metadata = (), timeout_s: float | None = None
    ) -> bytes:
        """Raises CallError."""
        return await self.channel.unary(path, request, metadata, timeout_s)

    async def list(self, path: str, request: bytes = b"") -> list[bytes]:
        """All messages of an answer. Raises CallError."""
        call = await self.listing(path, request)
        messages = []
        while (message := await call.read()) is not None:
            messages.append(message)
        code, text = await call.end()
        if code:
            raise CallError(code, text)
        return messages

    async def listing(self, path: str, request: bytes = b"") -> Stream:
        """The same, to be read by hand."""
        return await self.channel.open(path, request)

    async def stream(self, path: str) -> Stream:
        """Both sides may speak."""
        return await self.channel.open(path)


@asynccontextmanager
async def serving(
    make: Maker,
    *rows: Row,
    hosts: Sequence[str] = ("127.0.0.1",),
    options: Options = PLAIN,
    request_bytes_max: int = REQUEST_BYTES_MAX,
) -> AsyncIterator[Server]:
    """Starts a transport for the rows, and a client of it."""
    gate = RecordingGate()
    transport = make({row.path: row for row in rows}, gate, request_bytes_max=request_bytes_max, log=LOG)
    port = await transport.start(hosts, 0)
    server = Server(transport, gate, port, await make.stack.connect(f"127.0.0.1:{port}", options))
    try:
        yield server
    finally:
        await server.channel.close()
        await transport.stop(0)


async def status_of(call: Awaitable[object]) -> End:
    """How a call fails."""
    with pytest.raises(CallError) as caught:
        await call
    return caught.value.code, caught.value.text


def answering(future: "asyncio.Future[T]") -> Callable[[Call, bytes], "asyncio.Future[T]"]:
    """A handler whose answer is `future`."""
    return lambda call, request: future


def raising(error: Exception) -> Callable[[Call, bytes], bytes]:
    """A handler that fails."""

    def handler(call: Call, request: bytes) -> bytes:
        raise error

    return handler


def new_future() -> "asyncio.Future[bytes]":
    """For one answer."""
    return asyncio.get_running_loop().create_future()


def new_list() -> "asyncio.Future[Sequence[bytes]]":
    """For a list of answers."""
    return asyncio.get_running_loop().create_future()


ECHO = Row("/t.T/Echo", Kind.UNARY, lambda call, request: request)
COUNT = Row("/t.T/Count", Kind.LIST, lambda call, request: [b"%d" % n for n in range(int(request))])


class Echoes:
    """An Inlet that answers each message, greets first, and notes its life."""

    def __init__(self, outlet: Outlet, life: list[str]) -> None:
        self.outlet = outlet
        self.life = life

    def message(self, data: bytes) -> None:
        self.life.append(data.decode())
        if data == b"refuse":
            raise RpcError(GrpcCode.INVALID_ARGUMENT, "no")
        if data == b"break":
            raise ZeroDivisionError
        self.outlet.write(data.upper())

    def half_closed(self) -> None:
        self.life.append("half closed")
        self.outlet.write(b"bye")
        self.outlet.finish()

    def closed(self) -> None:
        self.life.append("closed")
        self.outlet.write(b"too late")
        self.outlet.finish(GrpcCode.INTERNAL, "too late")


class Streams:
    """A STREAM row that keeps what it opened."""

    def __init__(self) -> None:
        self.life: list[str] = []
        self.outlets: list[Outlet] = []
        self.opened = asyncio.Event()
        self.row = Row("/t.T/Stream", Kind.STREAM, self.open)

    async def outlet(self) -> Outlet:
        """The first one: a client may have its headers a moment earlier."""
        await self.opened.wait()
        return self.outlets[0]

    def open(self, call: Call, outlet: Outlet) -> Inlet:
        self.outlets.append(outlet)
        self.opened.set()
        return Echoes(outlet, self.life)
