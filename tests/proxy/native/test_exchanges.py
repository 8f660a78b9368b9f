"""Calls by their bytes, without a socket: what honest clients never send, and ends that come at odd moments."""

import asyncio
import gzip
from collections.abc import Awaitable, Callable, Iterator, Sequence

import pytest

from rmq_proxy.http2 import frames
from rmq_proxy.http2.errors import ErrorCode
from rmq_proxy.http2.hpack import Decoder
from rmq_proxy.http2.limits import Limits
from rmq_proxy.native.calls import Calls
from rmq_proxy.native.site import Site
from rmq_proxy.rpc import Call, GrpcCode, Inlet, Kind, Outlet, Row
from tests.proxy.http2.peer import Peer, data, request
from tests.proxy.transports import COUNT, ECHO, LOG, RecordingGate, Streams, answering

POST = ((":method", "POST"), (":scheme", "http"))
GRPC = (("content-type", "application/grpc"),)
MESSAGE = b"\0\0\0\0\x05hello"


class Rig:
    """A client and the calls of its connection."""

    def __init__(self, *rows: Row, limits: Limits | None = None, request_bytes_max: int = 1000) -> None:
        limits = limits or Limits()
        self.gate = RecordingGate()
        self.peer = Peer(limits)
        self.site = Site(
            {row.path: row for row in (ECHO, COUNT, *rows)},
            self.gate,
            lambda method, path, peer: (404, "text/plain", b"page"),
            limits=limits,
            request_bytes_max=request_bytes_max,
            log=LOG,
            loop=asyncio.get_running_loop(),
        )
        self.calls = Calls(self.site, self.peer.connection, "192.0.2.1:5", tls=False, wake=lambda: None)
        self._decoder = Decoder(4096, 16_384)

    def send(self, *pieces: bytes) -> None:
        """What the client sends, and what follows from it."""
        self.calls.handle(self.peer.send(*pieces))
        self.calls.handle(self.peer.connection.advance())

    def begin(self, path: str, *more: tuple[str, str], stream_id: int = 1, flags: int = frames.END_HEADERS) -> bytes:
        """The HEADERS of a call."""
        return request(stream_id, (*POST, (":path", path), *GRPC, *more), flags)

    def call(self, path: str, *more: tuple[str, str], body: bytes = MESSAGE, stream_id: int = 1) -> None:
        """A whole call."""
        self.send(self.begin(path, *more, stream_id=stream_id), data(stream_id, body, frames.END_STREAM))

    def answer(self) -> tuple[bytes, dict[str, str]]:
        """Body and last headers of what was answered since the last time."""
        self.calls.handle(self.peer.connection.advance())
        body, fields = b"", {}
        for frame in self.peer.answers():
            if frame.kind == frames.DATA:
                body += frame.payload
            elif frame.kind == frames.HEADERS:
                fields = dict(self._decoder.decode(frame.payload).fields)
        return body, fields

    def status(self) -> GrpcCode:
        """The status that was answered."""
        return GrpcCode(int(self.answer()[1]["grpc-status"]))


@pytest.fixture
def run() -> Iterator[Callable[[Awaitable[None]], None]]:
    """A loop for one scenario."""
    with asyncio.Runner() as runner:

        async def bounded(scenario: Awaitable[None]) -> None:
            await asyncio.wait_for(scenario, 60)

        yield lambda scenario: runner.run(bounded(scenario))


# ---- Requests ----


@pytest.mark.parametrize(
    ("body", "more", "code"),
    [
        (b"", (), GrpcCode.INTERNAL),
        (MESSAGE + MESSAGE, (), GrpcCode.INTERNAL),
        (MESSAGE[:7], (), GrpcCode.INTERNAL),
        (b"\1\0\0\0\x05hello", (), GrpcCode.INTERNAL),
        (b"\1\0\0\0\x05hello", (("grpc-encoding", "br"),), GrpcCode.UNIMPLEMENTED),
        (b"\0\0\1\0\0", (), GrpcCode.RESOURCE_EXHAUSTED),
        (MESSAGE, (("grpc-timeout", "soon"),), GrpcCode.INVALID_ARGUMENT),
        (MESSAGE, (("x-bin", "%"),), GrpcCode.INVALID_ARGUMENT),
        (MESSAGE, (("x", "y" * 16_300),), GrpcCode.RESOURCE_EXHAUSTED),
    ],
)
def test_refused(
    run: Callable[[Awaitable[None]], None], body: bytes, more: tuple[tuple[str, str], ...], code: GrpcCode
) -> None:
    """A request that is broken never reaches its service; the next one does."""

    async def scenario() -> None:
        rig = Rig()
        rig.call(ECHO.path, *more, body=body)
        assert rig.status() is code
        assert rig.gate.calls == []
        rig.call(ECHO.path, stream_id=3)
        assert rig.answer()[0] == MESSAGE
        assert rig.site.held_bytes == 0

    run(scenario())


def test_in_pieces(run: Callable[[Awaitable[None]], None]) -> None:
    """A message cut into DATA of a byte each, its end in a DATA of its own; packed ones, too."""

    async def scenario() -> None:
        rig = Rig()
        rig.send(rig.begin(ECHO.path), *(data(1, bytes((octet,))) for octet in MESSAGE))
        assert rig.peer.connection.streams
        rig.send(data(1, b"", frames.END_STREAM))
        assert rig.answer()[0] == MESSAGE
        packed = gzip.compress(b"hello")
        packed = b"\1" + len(packed).to_bytes(4) + packed
        rig.call(ECHO.path, ("grpc-encoding", "gzip"), body=packed, stream_id=3)
        assert rig.answer()[0] == MESSAGE

    run(scenario())


def test_unfinished_requests_are_bounded(run: Callable[[Awaitable[None]], None]) -> None:
    """Of all connections together; what is let go counts no more."""

    async def scenario() -> None:
        rig = Rig(limits=Limits(request_bytes_held_max=1000))
        rig.send(rig.begin(ECHO.path), data(1, b"\0\0\0\x03\0" + bytes(700)))
        rig.send(rig.begin(ECHO.path, stream_id=3), data(3, b"\0\0\0\x03\0" + bytes(700)))
        assert rig.status() is GrpcCode.RESOURCE_EXHAUSTED
        rig.send(frames.rst_stream(1, ErrorCode.CANCEL))
        assert rig.site.held_bytes == 0

    run(scenario())


def test_tiny_pieces_are_a_flood(run: Callable[[Awaitable[None]], None]) -> None:
    """DATA of a byte each, without end."""

    async def scenario() -> None:
        rig = Rig(limits=Limits(fragments_max=50))
        rig.send(rig.begin(ECHO.path), data(1, b"\0\0\0\x03\0"))
        for _ in range(60):
            rig.send(data(1, b"x"))
        assert rig.peer.goaway() is ErrorCode.ENHANCE_YOUR_CALM
        assert rig.site.held_bytes == 0

    run(scenario())


def test_authority(run: Callable[[Awaitable[None]], None]) -> None:
    """From :authority, else from host."""

    async def scenario() -> None:
        rig = Rig()
        rig.call(ECHO.path, ("host", "there:1"))
        pseudo = (*POST, (":path", ECHO.path), (":authority", "here:2"), *GRPC)
        rig.send(request(3, pseudo, frames.END_HEADERS), data(3, MESSAGE, frames.END_STREAM))
        assert [call.authority for call in rig.gate.calls] == ["there:1", "here:2"]
        assert [call.peer for call in rig.gate.calls] == ["192.0.2.1:5"] * 2

    run(scenario())


@pytest.mark.parametrize(("method", "body"), [("GET", b"page"), ("HEAD", b"")])
def test_pages(run: Callable[[Awaitable[None]], None], method: str, body: bytes) -> None:
    """What is not gRPC gets a page, once its own body has ended."""

    async def scenario() -> None:
        rig = Rig()
        rig.send(request(1, ((":method", method), *POST[1:], (":path", "/")), frames.END_HEADERS), data(1, b"x"))
        assert rig.answer() == (b"", {})
        rig.send(data(1, b"", frames.END_STREAM))
        assert rig.answer() == (body, {":status": "404", "content-type": "text/plain", "content-length": "4"})
        rig.calls.give_up()

    run(scenario())


# ---- Ends ----


def test_future_that_is_done(run: Callable[[Awaitable[None]], None]) -> None:
    """Is answered in the same turn; so is one that failed."""

    async def scenario() -> None:
        good, bad = (asyncio.get_running_loop().create_future() for _ in range(2))
        good.set_result(b"hello")
        bad.set_exception(ZeroDivisionError())
        rig = Rig(Row("/good", Kind.UNARY, answering(good)), Row("/bad", Kind.UNARY, answering(bad)))
        rig.call("/good")
        assert rig.answer()[0] == MESSAGE
        rig.call("/bad", stream_id=3)
        assert rig.status() is GrpcCode.INTERNAL

    run(scenario())


def test_deadline_of_a_stream(run: Callable[[Awaitable[None]], None]) -> None:
    """Ends it with its status; the service hears of the end once."""

    async def scenario() -> None:
        streams = Streams()
        rig = Rig(streams.row)
        rig.send(rig.begin(streams.row.path, ("grpc-timeout", "50m")), data(1, MESSAGE))
        assert await rig.gate.ends() == [(streams.row.path, GrpcCode.DEADLINE_EXCEEDED, 5)]
        assert rig.status() is GrpcCode.DEADLINE_EXCEEDED
        assert streams.life == ["hello", "closed"]

    run(scenario())


def test_a_request_that_ends_at_once(run: Callable[[Awaitable[None]], None]) -> None:
    """A stream without a message is half-closed; a broken one ends the stream."""

    async def scenario() -> None:
        streams = Streams()
        rig = Rig(streams.row)
        rig.send(rig.begin(streams.row.path, flags=frames.END_HEADERS | frames.END_STREAM))
        assert rig.status() is GrpcCode.OK
        rig.call(streams.row.path, body=b"\0\0\1\0\0", stream_id=3)
        assert rig.status() is GrpcCode.RESOURCE_EXHAUSTED
        await rig.gate.ends(2)
        assert streams.life == ["half closed", "closed", "closed"]

    run(scenario())


def test_a_service_that_cannot_open(run: Callable[[Awaitable[None]], None], caplog: pytest.LogCaptureFixture) -> None:
    """Ends the stream; its bug at the end is logged and hurts nobody."""

    class Broken:
        def message(self, data: bytes) -> None: ...

        def half_closed(self) -> None: ...

        def closed(self) -> None:
            raise ZeroDivisionError

    def refuse(call: Call, outlet: Outlet) -> Inlet:
        raise ZeroDivisionError

    async def scenario() -> None:
        rig = Rig(Row("/refuse", Kind.STREAM, refuse), Row("/broken", Kind.STREAM, lambda call, outlet: Broken()))
        rig.call("/refuse")
        assert rig.status() is GrpcCode.INTERNAL
        rig.send(rig.begin("/broken", stream_id=3), frames.rst_stream(3, ErrorCode.CANCEL))
        ends = await rig.gate.ends(2)
        assert [code for _, code, _ in ends] == [GrpcCode.INTERNAL, GrpcCode.CANCELLED]
        assert "/broken failed to close" in caplog.text

    run(scenario())


@pytest.mark.parametrize("broken", [False, True])
def test_reset_behind_the_call(run: Callable[[Awaitable[None]], None], broken: bool) -> None:
    """Call and reset in one read: the list was given out and did not leave. A bug in taking it back hurts nobody."""

    async def scenario() -> None:
        told = []

        def handler(call: Call, message: bytes) -> Sequence[bytes]:
            def undelivered() -> None:
                told.append(call)
                if broken:
                    raise ZeroDivisionError

            call.undelivered = undelivered
            return [b"a"]

        rig = Rig(Row("/list", Kind.LIST, handler))
        body = data(1, MESSAGE, frames.END_STREAM)
        rig.send(rig.begin("/list"), body, frames.rst_stream(1, ErrorCode.CANCEL))
        assert told == rig.gate.calls
        assert [code for _, code, _ in await rig.gate.ends()] == [GrpcCode.CANCELLED]

    run(scenario())


def test_list_that_waits_for_the_window(run: Callable[[Awaitable[None]], None]) -> None:
    """Small as it is, it is whole only when the client lets it through; the gate hears of it then."""

    async def scenario() -> None:
        rig = Rig()
        rig.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 3}))
        rig.call(COUNT.path, body=b"\0\0\0\0\x012")
        assert rig.gate.ended == []
        rig.send(frames.window_update(1, 100))
        assert rig.answer()[0] == b"\0\0\0\0\x010\0\0\0\0\x011"
        assert rig.gate.ended == [(COUNT.path, GrpcCode.OK, 2)]

    run(scenario())
