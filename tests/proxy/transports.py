"""What the transport tests share: a server with a recording gate, and a client; each test runs on every transport."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol, TypeAlias, TypeVar, cast

import grpc
import grpc.aio
import pytest

from rmq_proxy.grpcio_transport import GrpcioTransport
from rmq_proxy.native_transport import NativeTransport
from rmq_proxy.rpc import Call, Gate, GrpcCode, Inlet, Kind, Outlet, Row, RpcError, Table

T = TypeVar("T")
Run: TypeAlias = Callable[[Awaitable[T]], T]
REQUEST_BYTES_MAX = 100_000
LOG = logging.getLogger("test.transport")
TRANSPORTS: "dict[str, Maker]" = {"grpcio": GrpcioTransport, "native": NativeTransport}


class Transport(Protocol):
    async def start(self, hosts: Sequence[str], port: int) -> int: ...

    async def stop(self, grace_s: float) -> None: ...


class Maker(Protocol):
    def __call__(self, table: Table, gate: Gate, *, request_bytes_max: int, log: logging.Logger) -> Transport: ...


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

    def __init__(self, transport: Transport, gate: RecordingGate, port: int) -> None:
        self.transport = transport
        self.gate = gate
        self.port = port
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)])

    async def unary(self, path: str, request: bytes = b"", **options: object) -> bytes:
        method = cast("Callable[..., Awaitable[bytes]]", self.channel.unary_unary(path))
        return await method(request, **options)

    async def list(self, path: str, request: bytes = b"", **options: object) -> list[bytes]:
        method = cast("Callable[..., AsyncIterator[bytes]]", self.channel.unary_stream(path))
        return [message async for message in method(request, **options)]

    def listing(self, path: str, request: bytes = b"") -> "grpc.aio.UnaryStreamCall[bytes, bytes]":
        method = cast("Callable[[bytes], grpc.aio.UnaryStreamCall[bytes, bytes]]", self.channel.unary_stream(path))
        return method(request)

    def stream(self, path: str) -> "grpc.aio.StreamStreamCall[bytes, bytes]":
        return cast("grpc.aio.StreamStreamCall[bytes, bytes]", self.channel.stream_stream(path)())


@asynccontextmanager
async def serving(make: Maker, *rows: Row, hosts: Sequence[str] = ("127.0.0.1",)) -> AsyncIterator[Server]:
    """Starts a transport for the rows, and a client of it."""
    gate = RecordingGate()
    transport = make({row.path: row for row in rows}, gate, request_bytes_max=REQUEST_BYTES_MAX, log=LOG)
    server = Server(transport, gate, await transport.start(hosts, 0))
    try:
        yield server
    finally:
        await server.channel.close()
        await transport.stop(0)


async def status_of(call: Awaitable[object]) -> tuple[grpc.StatusCode, str]:
    """How a call fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


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
        self.opened: asyncio.Queue[Outlet] = asyncio.Queue()
        self.row = Row("/t.T/Stream", Kind.STREAM, self.open)

    def open(self, call: Call, outlet: Outlet) -> Inlet:
        self.opened.put_nowait(outlet)
        return Echoes(outlet, self.life)


async def end_of(call: "grpc.aio.StreamStreamCall[bytes, bytes]") -> tuple[grpc.StatusCode, str]:
    """How a stream ends."""
    return await call.code(), await call.details()
