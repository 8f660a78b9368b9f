"""What every transport does with the table of calls: the same tests, whichever carries it."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Protocol, TypeAlias, TypeVar, cast

import grpc
import grpc.aio
import pytest

from rmq.errors import ConfigError
from rmq_proto import health as health_pb
from rmq_proto import reflection as reflection_pb
from rmq_proxy import reflection
from rmq_proxy.grpcio_transport import GrpcioTransport
from rmq_proxy.health import Health
from rmq_proxy.rpc import Call, Gate, GrpcCode, Inlet, Kind, Outlet, Row, RpcError, Table

T = TypeVar("T")
Run: TypeAlias = Callable[[Awaitable[T]], T]
REQUEST_BYTES_MAX = 100_000
LOG = logging.getLogger("test.transport")


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
        return cast("grpc.aio.UnaryStreamCall[bytes, bytes]", self.channel.unary_stream(path)(request))

    def stream(self, path: str) -> "grpc.aio.StreamStreamCall[bytes, bytes]":
        return cast("grpc.aio.StreamStreamCall[bytes, bytes]", self.channel.stream_stream(path)())


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """One loop for the module: grpc.aio serves one loop a process well, and a loop for each test badly."""
    with asyncio.Runner() as one:
        yield one


@pytest.fixture
def run(runner: asyncio.Runner) -> "Run[T]":
    async def bounded(scenario: Awaitable[T]) -> T:
        return await asyncio.wait_for(scenario, 20)

    return lambda scenario: runner.run(bounded(scenario))


@pytest.fixture(params=[GrpcioTransport], ids=["grpcio"])
def make(request: pytest.FixtureRequest) -> Maker:
    return cast(Maker, request.param)


@asynccontextmanager
async def serving(make: Maker, *rows: Row, hosts: Sequence[str] = ("127.0.0.1",)) -> AsyncIterator[Server]:
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
    return lambda call, request: future


def raising(error: Exception) -> Callable[[Call, bytes], bytes]:
    def handler(call: Call, request: bytes) -> bytes:
        raise error

    return handler


def new_future() -> "asyncio.Future[bytes]":
    return asyncio.get_running_loop().create_future()


def new_list() -> "asyncio.Future[Sequence[bytes]]":
    return asyncio.get_running_loop().create_future()


ECHO = Row("/t.T/Echo", Kind.UNARY, lambda call, request: request)
COUNT = Row("/t.T/Count", Kind.LIST, lambda call, request: [b"%d" % n for n in range(int(request))])


# ---- One in, one out ----


def test_unary_value(run: "Run[None]", make: Maker) -> None:
    """A handler's bytes are the answer, the empty answer too; the gate hears of each call once, with its size."""

    async def scenario() -> None:
        async with serving(make, ECHO) as server:
            assert await server.unary(ECHO.path, b"hello") == b"hello"
            assert await server.unary(ECHO.path, b"") == b""
            assert server.gate.ended == [(ECHO.path, GrpcCode.OK, 5), (ECHO.path, GrpcCode.OK, 0)]
            assert len(server.gate.calls) == 2

    run(scenario())


def test_unary_future(run: "Run[None]", make: Maker) -> None:
    """A handler may answer later; other calls of the same connection go on meanwhile."""

    async def scenario() -> None:
        later = new_future()
        async with serving(make, ECHO, Row("/t.T/Later", Kind.UNARY, answering(later))) as server:
            waiting = asyncio.ensure_future(server.unary("/t.T/Later"))
            assert await server.unary(ECHO.path, b"meanwhile") == b"meanwhile"
            assert not waiting.done()
            later.set_result(b"at last")
            assert await waiting == b"at last"

    run(scenario())


def test_concurrent_calls(run: "Run[None]", make: Maker) -> None:
    """Two hundred calls at once on one connection each get their own answer."""

    async def scenario() -> None:
        async with serving(make, ECHO) as server:
            answers = await asyncio.gather(*(server.unary(ECHO.path, b"%d" % n) for n in range(200)))
            assert answers == [b"%d" % n for n in range(200)]

    run(scenario())


def test_unknown_method(run: "Run[None]", make: Maker) -> None:
    """What is not in the table is UNIMPLEMENTED, which the SDKs take for an older server."""

    async def scenario() -> None:
        async with serving(make, ECHO) as server:
            assert (await status_of(server.unary("/t.T/Nope")))[0] is grpc.StatusCode.UNIMPLEMENTED

    run(scenario())


@pytest.mark.parametrize("code", [code for code in GrpcCode if code is not GrpcCode.OK])
def test_rpc_error(run: "Run[None]", make: Maker, code: GrpcCode) -> None:
    """Every status reaches the client with its text, non-ASCII included, and the gate."""

    async def scenario() -> None:
        row = Row("/t.T/Fail", Kind.UNARY, raising(RpcError(code, "100 % schön\nyes")))
        async with serving(make, row) as server:
            status, text = await status_of(server.unary(row.path))
            assert (status.value[0], text) == (code, "100 % schön\nyes")
            assert server.gate.ended == [(row.path, code, 0)]

    run(scenario())


def test_error_of_a_future(run: "Run[None]", make: Maker) -> None:
    """An RpcError may come late as well."""

    async def scenario() -> None:
        late = new_future()
        late.set_exception(RpcError(GrpcCode.UNAUTHENTICATED, "who are you"))
        async with serving(make, Row("/t.T/Late", Kind.UNARY, answering(late))) as server:
            assert await status_of(server.unary("/t.T/Late")) == (grpc.StatusCode.UNAUTHENTICATED, "who are you")

    run(scenario())


def test_given_up_by_the_server(run: "Run[None]", make: Maker) -> None:
    """A Future that the broker cancels ends the call with a status that makes clients try again; they don't hang."""

    async def scenario() -> None:
        given_up = new_future()
        given_up.cancel()
        async with serving(make, Row("/t.T/Late", Kind.UNARY, answering(given_up))) as server:
            assert (await status_of(server.unary("/t.T/Late")))[0] is grpc.StatusCode.UNAVAILABLE
            assert not server.gate.calls[0].cancelled

    run(scenario())


def test_a_bug_is_internal(run: "Run[None]", make: Maker, caplog: pytest.LogCaptureFixture) -> None:
    """A handler's bug is INTERNAL without its secrets, logged with the traceback, and hurts no other call."""

    async def scenario() -> None:
        broken = Row("/t.T/Broken", Kind.UNARY, raising(ZeroDivisionError("secret")))
        async with serving(make, ECHO, broken) as server:
            status, text = await status_of(server.unary(broken.path))
            assert status is grpc.StatusCode.INTERNAL
            assert "secret" not in text
            assert await server.unary(ECHO.path, b"still here") == b"still here"
            assert server.gate.ended[0] == (broken.path, GrpcCode.INTERNAL, 0)

    run(scenario())
    assert "/t.T/Broken failed" in caplog.text
    assert "ZeroDivisionError: secret" in caplog.text


@pytest.mark.parametrize("kind", list(Kind))
def test_refused_by_the_gate(run: "Run[None]", make: Maker, kind: Kind) -> None:
    """begin may refuse any call; its handler does not run, end is told the status."""

    async def scenario() -> None:
        async with serving(make, Row("/t.T/Any", kind, raising(AssertionError("the handler ran")))) as server:
            server.gate.refusal = RpcError(GrpcCode.PERMISSION_DENIED, "not you")
            call = server.stream("/t.T/Any").read() if kind is Kind.STREAM else server.list("/t.T/Any")
            assert await status_of(call) == (grpc.StatusCode.PERMISSION_DENIED, "not you")
            assert server.gate.ended == [("/t.T/Any", GrpcCode.PERMISSION_DENIED, 0)]

    run(scenario())


# ---- What a service sees of a call ----


def test_metadata(run: "Run[None]", make: Maker) -> None:
    """Text arrives as text, -bin as bytes, names in lower case; an absent one is empty."""

    async def scenario() -> None:
        async with serving(make, ECHO) as server:
            await server.unary(ECHO.path, metadata=(("x-mq-client-id", "c1"), ("trace-bin", b"\x00\xff")))
            call = server.gate.calls[0]
            assert call.header("x-mq-client-id") == "c1"
            assert call.metadata["trace-bin"] == b"\x00\xff"
            assert call.header("x-mq-namespace") == ""

    run(scenario())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_peer(run: "Run[None]", make: Maker, host: str) -> None:
    """The peer is host:port, with brackets for IPv6."""
    if host == "::1" and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")

    async def scenario() -> None:
        async with serving(make, ECHO, hosts=[host]) as server:
            bracketed = f"[{host}]" if ":" in host else host
            async with grpc.aio.insecure_channel(f"{bracketed}:{server.port}") as channel:
                await cast("Callable[[bytes], Awaitable[bytes]]", channel.unary_unary(ECHO.path))(b"")
            found, _, port = server.gate.calls[0].peer.rpartition(":")
            assert (found, port.isdigit(), port == str(server.port)) == (bracketed, True, False)

    run(scenario())


def test_deadline_is_told(run: "Run[None]", make: Maker) -> None:
    """The client's deadline is on the loop's clock; None where there is none; an absurdly far one is accepted."""

    async def scenario() -> None:
        async with serving(make, ECHO) as server:
            before_s = asyncio.get_running_loop().time()
            await server.unary(ECHO.path, timeout=7)
            await server.unary(ECHO.path)
            await server.unary(ECHO.path, timeout=100 * 365 * 86400)
            soon, never, far = (call.deadline_s for call in server.gate.calls)
            assert soon is not None
            assert before_s + 5 < soon < before_s + 9
            assert never is None
            assert far is None or far > before_s + 86400 * 365

    run(scenario())


def test_deadline_passes(run: "Run[None]", make: Maker) -> None:
    """When it passes, the client gets DEADLINE_EXCEEDED and the waiting Future is cancelled."""

    async def scenario() -> None:
        never = new_future()
        async with serving(make, Row("/t.T/Never", Kind.UNARY, answering(never))) as server:
            status, _ = await status_of(server.unary("/t.T/Never", timeout=0.2))
            assert status is grpc.StatusCode.DEADLINE_EXCEEDED
            await server.gate.until(lambda: server.gate.ended)
            assert never.cancelled()
            assert server.gate.calls[0].cancelled

    run(scenario())


# ---- A client that leaves ----


@pytest.mark.parametrize("kind", [Kind.UNARY, Kind.LIST])
@pytest.mark.parametrize("how", ["cancel", "disconnect"])
def test_client_leaves_while_waiting(run: "Run[None]", make: Maker, kind: Kind, how: str) -> None:
    """The Future of a poll is cancelled, so that the broker leases nothing to a client that is gone."""

    async def scenario() -> None:
        poll = new_future()
        undelivered: list[str] = []

        def handler(call: Call, request: bytes) -> "asyncio.Future[bytes]":
            call.undelivered = lambda: undelivered.append("undelivered")
            return poll

        async with serving(make, Row("/t.T/Poll", kind, handler)) as server:
            waiting = asyncio.ensure_future(server.unary("/t.T/Poll"))
            await server.gate.until(lambda: server.gate.calls)
            if how == "cancel":
                waiting.cancel()
            else:
                await server.channel.close()
            await asyncio.wait([waiting])
            await server.gate.until(lambda: server.gate.ended)
            assert poll.cancelled()
            assert server.gate.calls[0].cancelled
            assert server.gate.ended == [("/t.T/Poll", GrpcCode.CANCELLED, 0)]
            assert undelivered == []

    run(scenario())


def test_client_leaves_in_the_middle_of_a_list(run: "Run[None]", make: Maker) -> None:
    """A LIST answer that was not written whole is reported, once: its messages are leased to nobody."""

    async def scenario() -> None:
        undelivered: list[str] = []

        def handler(call: Call, request: bytes) -> Sequence[bytes]:
            call.undelivered = lambda: undelivered.append("undelivered")
            return [bytes(1_000_000)] * 64

        async with serving(make, Row("/t.T/Big", Kind.LIST, handler)) as server:
            call = server.listing("/t.T/Big")
            await call.read()
            call.cancel()
            await server.gate.until(lambda: server.gate.ended)
            assert undelivered == ["undelivered"]
            assert server.gate.ended[0][1] is GrpcCode.CANCELLED
            assert server.gate.ended[0][2] < 64_000_000

    run(scenario())


def test_client_leaves_as_the_list_comes(run: "Run[None]", make: Maker) -> None:
    """Messages that were given out in the same turn in which the client left are reported, too."""

    async def scenario() -> None:
        undelivered: list[str] = []
        poll = new_list()

        def handler(call: Call, request: bytes) -> "asyncio.Future[Sequence[bytes]]":
            call.undelivered = lambda: undelivered.append("undelivered")
            return poll

        async with serving(make, Row("/t.T/Poll", Kind.LIST, handler)) as server:
            waiting = asyncio.ensure_future(server.list("/t.T/Poll"))
            await server.gate.until(lambda: server.gate.calls)
            await server.channel.close()
            poll.set_result([bytes(2_000_000)] * 10)
            await asyncio.wait([waiting])
            await server.gate.until(lambda: server.gate.ended)
            assert undelivered == ["undelivered"]

    run(scenario())


# ---- Lists ----


@pytest.mark.parametrize("count", [0, 1, 32, 500])
def test_list(run: "Run[None]", make: Maker, count: int) -> None:
    """All messages in order, then OK; the gate hears the sum of their sizes."""

    async def scenario() -> None:
        async with serving(make, COUNT) as server:
            expected = [b"%d" % n for n in range(count)]
            assert await server.list(COUNT.path, b"%d" % count) == expected
            await server.gate.until(lambda: server.gate.ended)
            assert server.gate.ended == [(COUNT.path, GrpcCode.OK, sum(map(len, expected)))]

    run(scenario())


def test_list_whole_is_not_reported(run: "Run[None]", make: Maker) -> None:
    """`undelivered` is for answers that did not go out; one that did is never reported."""

    async def scenario() -> None:
        undelivered: list[str] = []

        def handler(call: Call, request: bytes) -> Sequence[bytes]:
            call.undelivered = lambda: undelivered.append("undelivered")
            return [b"a", b"b"]

        async with serving(make, Row("/t.T/List", Kind.LIST, handler)) as server:
            assert await server.list("/t.T/List") == [b"a", b"b"]
            await server.gate.until(lambda: server.gate.ended)
            assert undelivered == []

    run(scenario())


def test_list_error(run: "Run[None]", make: Maker) -> None:
    """A list that fails sends nothing but the status."""

    async def scenario() -> None:
        row = Row("/t.T/List", Kind.LIST, raising(RpcError(GrpcCode.UNAVAILABLE, "not now")))
        async with serving(make, row) as server:
            assert await status_of(server.list(row.path)) == (grpc.StatusCode.UNAVAILABLE, "not now")

    run(scenario())


# ---- Streams ----


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
        self.row = Row("/t.T/Stream", Kind.STREAM, self.open)

    def open(self, call: Call, outlet: Outlet) -> Inlet:
        self.outlets.append(outlet)
        return Echoes(outlet, self.life)


async def end_of(call: "grpc.aio.StreamStreamCall[bytes, bytes]") -> tuple[grpc.StatusCode, str]:
    return await call.code(), await call.details()


def test_stream(run: "Run[None]", make: Maker) -> None:
    """Messages go both ways in order; half-close reaches the service, which ends the stream."""

    async def scenario() -> None:
        streams = Streams()
        async with serving(make, streams.row) as server:
            call = server.stream("/t.T/Stream")
            for word in (b"one", b"two"):
                await call.write(word)
            assert [await call.read(), await call.read()] == [b"ONE", b"TWO"]
            await call.done_writing()
            assert await call.read() == b"bye"
            assert await call.read() is grpc.aio.EOF
            assert await end_of(call) == (grpc.StatusCode.OK, "")
            await server.gate.until(lambda: server.gate.ended)
            assert streams.life == ["one", "two", "half closed", "closed"]
            assert server.gate.ended == [("/t.T/Stream", GrpcCode.OK, 9)]

    run(scenario())


def test_stream_headers_come_at_once(run: "Run[None]", make: Maker) -> None:
    """Before either side has sent a message: the Rust client waits for them and sends nothing before."""

    async def scenario() -> None:
        async with serving(make, Streams().row) as server:
            call = server.stream("/t.T/Stream")
            await call.initial_metadata()
            call.cancel()

    run(scenario())


def test_stream_server_speaks_first_and_ends(run: "Run[None]", make: Maker) -> None:
    """The service writes and ends whenever it likes; what was written before the end arrives; later writes do nothing."""

    async def scenario() -> None:
        streams = Streams()
        async with serving(make, streams.row) as server:
            call = server.stream("/t.T/Stream")
            await call.initial_metadata()
            outlet = streams.outlets[0]
            outlet.write(b"command")
            assert await call.read() == b"command"
            outlet.write(b"last")
            outlet.finish(GrpcCode.UNAVAILABLE, "moved")
            outlet.write(b"too late")
            assert await call.read() == b"last"
            assert await end_of(call) == (grpc.StatusCode.UNAVAILABLE, "moved")
            await server.gate.until(lambda: server.gate.ended)
            assert streams.life == ["closed"]
            assert server.gate.ended == [("/t.T/Stream", GrpcCode.UNAVAILABLE, 11)]

    run(scenario())


@pytest.mark.parametrize(
    ("word", "status"),
    [(b"refuse", (grpc.StatusCode.INVALID_ARGUMENT, "no")), (b"break", (grpc.StatusCode.INTERNAL, None))],
)
def test_stream_message_fails(
    run: "Run[None]", make: Maker, word: bytes, status: tuple[grpc.StatusCode, str | None]
) -> None:
    """An RpcError in the inlet ends the stream with its status, a bug with INTERNAL; the connection lives on."""

    async def scenario() -> None:
        streams = Streams()
        async with serving(make, streams.row, ECHO) as server:
            call = server.stream("/t.T/Stream")
            await call.write(word)
            code, text = await end_of(call)
            assert (code, text if status[1] else None) == status
            await server.gate.until(lambda: server.gate.ended)
            assert streams.life == [word.decode(), "closed"]
            assert await server.unary(ECHO.path, b"x") == b"x"

    run(scenario())


def test_stream_client_leaves(run: "Run[None]", make: Maker) -> None:
    """`closed` is called exactly once when the client goes, and the outlet is dead afterwards."""

    async def scenario() -> None:
        streams = Streams()
        async with serving(make, streams.row) as server:
            call = server.stream("/t.T/Stream")
            await call.write(b"hello")
            await call.read()
            await server.channel.close()
            await server.gate.until(lambda: server.gate.ended)
            assert streams.life.count("closed") == 1
            assert streams.life[-1] == "closed"

    run(scenario())


def test_stream_client_does_not_read(run: "Run[None]", make: Maker) -> None:
    """What waits for a client that does not read is bounded: the stream ends, the server's memory does not."""

    async def scenario() -> None:
        streams = Streams()
        async with serving(make, streams.row) as server:
            call = server.stream("/t.T/Stream")
            await call.initial_metadata()
            for _ in range(40):
                streams.outlets[0].write(bytes(1_000_000))
            sizes = [len(message) async for message in call]
            assert sum(sizes) < 20_000_000

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        run(scenario())
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


# ---- Limits ----


def test_message_at_the_limit(run: "Run[None]", make: Maker) -> None:
    """`request_bytes_max` bytes pass; answers have no limit of ours."""

    async def scenario() -> None:
        big = Row("/t.T/Big", Kind.UNARY, lambda call, request: bytes(3_000_000))
        async with serving(make, ECHO, big) as server:
            assert len(await server.unary(ECHO.path, bytes(REQUEST_BYTES_MAX))) == REQUEST_BYTES_MAX
            assert len(await server.unary(big.path)) == 3_000_000

    run(scenario())


@pytest.mark.parametrize("kind", [Kind.UNARY, Kind.LIST])
def test_message_over_the_limit(run: "Run[None]", make: Maker, kind: Kind) -> None:
    """One byte more is RESOURCE_EXHAUSTED without the handler; the connection goes on."""

    async def scenario() -> None:
        async with serving(make, ECHO, Row("/t.T/Any", kind, raising(AssertionError("the handler ran")))) as server:
            status, _ = await status_of(server.list("/t.T/Any", bytes(REQUEST_BYTES_MAX + 1)))
            assert status is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert await server.unary(ECHO.path, b"x") == b"x"

    run(scenario())


# ---- Ports and the end ----


def test_port_in_use(run: "Run[None]", make: Maker) -> None:
    """A second server on the port is refused with one line that names the port and says what to do."""

    async def scenario() -> None:
        async with serving(make, ECHO) as server:
            second = make({}, RecordingGate(), request_bytes_max=1, log=LOG)
            with pytest.raises(ConfigError) as caught:
                await second.start(["127.0.0.1"], server.port)
            line = str(caught.value)
            assert str(server.port) in line
            assert "--port" in line
            assert "\n" not in line
            assert await server.unary(ECHO.path, b"x") == b"x"

    run(scenario())


def test_same_port_on_every_host(run: "Run[None]", make: Maker) -> None:
    """Port 0 picks one port for all hosts."""

    async def scenario() -> None:
        async with serving(make, ECHO, hosts=["127.0.0.1", "127.0.0.2"]) as server:
            for host in ("127.0.0.1", "127.0.0.2"):
                async with grpc.aio.insecure_channel(f"{host}:{server.port}") as channel:
                    method = cast("Callable[[bytes], Awaitable[bytes]]", channel.unary_unary(ECHO.path))
                    assert await method(b"x") == b"x"

    run(scenario())


def test_foreign_host(run: "Run[None]", make: Maker) -> None:
    """An address that is not this machine's is the operator's mistake, told in one line."""

    async def scenario() -> None:
        transport = make({}, RecordingGate(), request_bytes_max=1, log=LOG)
        with pytest.raises(ConfigError, match=r"cannot listen on 192\.0\.2\.1: .*--host"):
            await transport.start(["192.0.2.1"], 0)

    run(scenario())


def test_stop_answers_what_runs(run: "Run[None]", make: Maker) -> None:
    """A poll that the broker answers after stop began still reaches its client; streams end with UNAVAILABLE at once."""

    async def scenario() -> None:
        poll = new_future()
        streams = Streams()
        async with serving(make, streams.row, Row("/t.T/Poll", Kind.UNARY, answering(poll))) as server:
            call = server.stream("/t.T/Stream")
            await call.initial_metadata()
            waiting = asyncio.ensure_future(server.unary("/t.T/Poll"))
            await server.gate.until(lambda: len(server.gate.calls) == 2)
            stopping = asyncio.ensure_future(server.transport.stop(15))
            assert (await end_of(call))[0] is grpc.StatusCode.UNAVAILABLE
            poll.set_result(b"in time")
            assert await waiting == b"in time"
            await stopping

    run(scenario())


def test_stop_cancels_after_the_grace(run: "Run[None]", make: Maker) -> None:
    """What is not answered within the grace is cancelled, and the port is free again."""

    async def scenario() -> None:
        poll = new_future()
        async with serving(make, Row("/t.T/Poll", Kind.UNARY, answering(poll))) as server:
            waiting = asyncio.ensure_future(server.unary("/t.T/Poll"))
            await server.gate.until(lambda: server.gate.calls)
            await server.transport.stop(0.1)
            await status_of(waiting)
            await server.gate.until(lambda: server.gate.ended)
            assert poll.cancelled()
            again = make({}, RecordingGate(), request_bytes_max=1, log=LOG)
            assert await again.start(["127.0.0.1"], server.port) == server.port
            await again.stop(0)

    run(scenario())


# ---- Health and reflection ----

SERVICE = "apache.rocketmq.v2.MessagingService"
Health1 = health_pb.HealthCheckResponse


def asking(service: str) -> bytes:
    return health_pb.HealthCheckRequest(service=service).SerializeToString()


def test_health_check(run: "Run[None]", make: Maker) -> None:
    """Serving for "" and each service, NOT_FOUND for others, NOT_SERVING from the moment that shutdown begins."""

    async def scenario() -> None:
        health = Health([SERVICE])
        async with serving(make, *health.rows()) as server:

            async def check(service: str) -> int:
                return Health1.FromString(await server.unary("/grpc.health.v1.Health/Check", asking(service))).status

            assert [await check(name) for name in ("", SERVICE, "grpc.health.v1.Health")] == [Health1.SERVING] * 3
            assert (await status_of(check("nobody")))[0] is grpc.StatusCode.NOT_FOUND
            health.stop_serving()
            assert await check("") == Health1.NOT_SERVING

    run(scenario())


def test_health_watch(run: "Run[None]", make: Maker) -> None:
    """The state at once and each change; an unknown service is SERVICE_UNKNOWN and not an error."""

    async def scenario() -> None:
        health = Health([SERVICE])
        async with serving(make, *health.rows()) as server:
            calls = {name: server.listing("/grpc.health.v1.Health/Watch", asking(name)) for name in (SERVICE, "nobody")}

            async def told(name: str) -> int:
                return Health1.FromString(cast(bytes, await calls[name].read())).status

            assert await told(SERVICE) == Health1.SERVING
            assert await told("nobody") == Health1.SERVICE_UNKNOWN
            health.stop_serving()
            assert await told(SERVICE) == Health1.NOT_SERVING

    run(scenario())


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection(run: "Run[None]", make: Maker, version: str) -> None:
    """Lists what is served; gives files with all that they import, by name and by symbol, a method's included."""

    async def scenario() -> None:
        async with serving(make, *reflection.rows([SERVICE])) as server:
            call = server.stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")

            async def ask(request: reflection_pb.ServerReflectionRequest) -> reflection_pb.ServerReflectionResponse:
                await call.write(request.SerializeToString())
                response = reflection_pb.ServerReflectionResponse.FromString(cast(bytes, await call.read()))
                assert response.original_request == request
                return response

            request = reflection_pb.ServerReflectionRequest
            listed = (await ask(request(list_services="*"))).list_services_response
            assert [service.name for service in listed.service] == [SERVICE, *reflection.NAMES]
            for question in (
                request(file_containing_symbol=f"{SERVICE}.SendMessage"),
                request(file_containing_symbol=SERVICE),
                request(file_by_filename="apache/rocketmq/v2/service.proto"),
            ):
                files = (await ask(question)).file_descriptor_response.file_descriptor_proto
                assert [name for name in (b"service.proto", b"definition.proto", b"duration.proto", b"timestamp.proto")
                        if not any(name in file[:60] for file in files)] == []  # fmt: skip
                assert b"service.proto" in files[0][:60]
            await call.done_writing()
            assert await end_of(call) == (grpc.StatusCode.OK, "")

    run(scenario())


@pytest.mark.parametrize(
    ("question", "code"),
    [
        ({"file_by_filename": "nope.proto"}, GrpcCode.NOT_FOUND),
        ({"file_containing_symbol": "nope"}, GrpcCode.NOT_FOUND),
        ({"file_containing_symbol": f"{SERVICE}.Nope"}, GrpcCode.NOT_FOUND),
        ({"file_containing_extension": {"containing_type": "x", "extension_number": 1}}, GrpcCode.NOT_FOUND),
        ({"all_extension_numbers_of_type": "nope"}, GrpcCode.NOT_FOUND),
        ({}, GrpcCode.INVALID_ARGUMENT),
    ],
)
def test_reflection_of_what_is_not_there(question: dict[str, str], code: GrpcCode) -> None:
    """An error_response in the stream, with gRPC's code."""
    request = reflection_pb.ServerReflectionRequest(**question)  # type: ignore[arg-type]
    assert reflection.answer(request, []).error_response.error_code == code


def test_reflection_knows_no_extensions() -> None:
    """A type that exists has none of them."""
    request = reflection_pb.ServerReflectionRequest(all_extension_numbers_of_type="apache.rocketmq.v2.Message")
    response = reflection.answer(request, []).all_extension_numbers_response
    assert (response.base_type_name, list(response.extension_number)) == ("apache.rocketmq.v2.Message", [])


@pytest.mark.parametrize("path", ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"])
def test_health_garbage(run: "Run[None]", make: Maker, path: str) -> None:
    """Bytes that are no request are INVALID_ARGUMENT."""

    async def scenario() -> None:
        async with serving(make, *Health([]).rows()) as server:
            assert (await status_of(server.list(path, b"\xff")))[0] is grpc.StatusCode.INVALID_ARGUMENT

    run(scenario())


def test_reflection_garbage(run: "Run[None]", make: Maker) -> None:
    """Here, too."""

    async def scenario() -> None:
        async with serving(make, *reflection.rows([])) as server:
            call = server.stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
            await call.write(b"\xff")
            assert (await end_of(call))[0] is grpc.StatusCode.INVALID_ARGUMENT

    run(scenario())
