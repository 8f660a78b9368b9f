"""What the tests of the native port share: a port that serves ECHO, and its frames."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, cast

import grpc
import grpc.aio

from rmq_proxy.http2 import frames
from rmq_proxy.native.certificates import Certificates
from rmq_proxy.native_transport import NativeTransport
from rmq_proxy.rpc import Row
from tests.proxy.http2.peer import Frame, data, parse, request
from tests.proxy.transports import ECHO, LOG, RecordingGate

Scenario: TypeAlias = Coroutine[Any, Any, None]
METRICS = b"GET /metrics HTTP/1.1\r\n\r\n"


class Port:
    """A transport that serves."""

    def __init__(self, transport: NativeTransport, gate: RecordingGate, port: int) -> None:
        self.transport = transport
        self.gate = gate
        self.port = port

    async def send(self, data: bytes) -> bytes:
        """All that comes back until the port closes the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        answer = await reader.read()
        writer.close()
        return answer

    async def call(self, path: str, request: bytes = b"") -> bytes:
        """One call in the clear."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            return await cast("Callable[[bytes], Awaitable[bytes]]", channel.unary_unary(path))(request)

    async def echo(self) -> bytes:
        """The same, of ECHO."""
        return await self.call(ECHO.path, b"hello")

    async def echo_over_tls(self, pair: Certificates) -> bytes:
        """One call over TLS by a client that checks the certificate."""
        trusted = grpc.ssl_channel_credentials(pair._paths[0].read_bytes())
        async with grpc.aio.secure_channel(f"localhost:{self.port}", trusted) as channel:
            return await cast("Callable[[bytes], Awaitable[bytes]]", channel.unary_unary(ECHO.path))(b"hello")


@asynccontextmanager
async def port(*rows: Row, **options: Any) -> AsyncIterator[Port]:
    """A transport for ECHO and the rows."""
    gate = RecordingGate()
    table = {row.path: row for row in (ECHO, *rows)}
    transport = NativeTransport(table, gate, request_bytes_max=1 << 20, log=LOG, **options)
    one = Port(transport, gate, await transport.start(["127.0.0.1"], 0))
    try:
        yield one
    finally:
        await transport.stop(0)


def answered(data: bytes) -> list[Frame]:
    """The frames of an answer but the greeting."""
    return [frame for frame in parse(data) if frame.kind != frames.SETTINGS]


def call(stream_id: int, path: str = ECHO.path, *more: tuple[str, str]) -> bytes:
    """A whole call with an empty message."""
    fields = ((":method", "POST"), (":scheme", "http"), (":path", path), ("content-type", "application/grpc"), *more)
    return request(stream_id, fields, frames.END_HEADERS) + data(stream_id, bytes(5), frames.END_STREAM)
