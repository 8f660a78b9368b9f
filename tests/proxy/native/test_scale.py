"""Many connections, many calls in one read, many slow readers: what one costs the others. Under uvloop, as in use."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeAlias

import pytest

from rmq_proxy import native_transport
from rmq_proxy.http2 import frames
from rmq_proxy.http2.errors import ErrorCode
from rmq_proxy.http2.limits import Limits
from rmq_proxy.native.deadlines import Deadlines
from rmq_proxy.native.tls import STEP_BYTES, Session
from rmq_proxy.rpc import Call, Kind, Row
from tests.proxy.http2.peer import START, parse
from tests.proxy.native.portrig import Port, call, port
from tests.proxy.transports import answering, new_future
from tests.scraping import told

Scenario: TypeAlias = Coroutine[Any, Any, None]
KIB = 1 << 10
WIDE = START + frames.settings({frames.INITIAL_WINDOW_SIZE: frames.WINDOW_MAX}) + frames.window_update(0, 1 << 30)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Scenario], None]]:
    """Runs a scenario on the loop of production, with seconds that are short."""
    monkeypatch.setattr(native_transport, "TICK_S", 0.02)
    factory = None
    if sys.platform != "win32":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        yield lambda scenario: runner.run(asyncio.wait_for(scenario, 20))


async def until(true: Callable[[], object]) -> None:
    """Looks at each turn; the scenario's own limit bounds it."""
    while True:
        if true():
            return
        await asyncio.sleep(0.001)


async def closed(writer: asyncio.StreamWriter) -> None:
    """The client leaves."""
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


def lively(one: Port) -> int:
    """How many connections are looked at once a second."""
    return len(one.transport._lively)


# ---- Turns ----


def test_calls_of_one_read_are_served_in_portions(run: Callable[[Scenario], None]) -> None:
    """However many come at once, a turn of the loop serves so many, in order; the rest is not lost."""
    turn, served = 0, []

    def handler(one: Call, message: bytes) -> bytes:
        served.append((turn, one.header("number")))
        return b""

    async def scenario() -> None:
        def count() -> None:
            nonlocal turn
            turn += 1
            loop.call_soon(count)

        loop = asyncio.get_running_loop()
        row = Row("/t.T/Tiny", Kind.UNARY, handler)
        async with port(row, limits=Limits(frames_a_turn=40)) as one:
            loop.call_soon(count)
            _, writer = await asyncio.open_connection("127.0.0.1", one.port)
            calls = [call(2 * n + 1, row.path, ("number", str(n))) for n in range(1000)]
            writer.write(START + b"".join(calls))
            await until(lambda: len(served) == 1000)
            await closed(writer)

    run(scenario())
    assert [number for _, number in served] == [str(n) for n in range(1000)]
    turns = [turn for turn, _ in served]
    portion = 40 // 2  # HEADERS and DATA
    assert max(turns.count(turn) for turn in turns) <= 2 * portion  # the end of one read and the start of the next


def test_a_connection_that_goes_takes_what_was_not_read_with_it(run: Callable[[Scenario], None]) -> None:
    """Its calls are not served any more, and nothing else happens."""
    served: list[bytes] = []

    def handler(one: Call, message: bytes) -> bytes:
        served.append(message)
        for front in tuple(transports[0]._fronts):
            front.abort()
        return b""

    transports: list[native_transport.NativeTransport] = []

    async def scenario() -> None:
        row = Row("/t.T/Tiny", Kind.UNARY, handler)
        async with port(row, limits=Limits(frames_a_turn=4)) as one:
            transports.append(one.transport)
            answer = one.send(START + b"".join(call(2 * n + 1, row.path) for n in range(100)))
            with contextlib.suppress(ConnectionError):
                await answer
            assert await one.echo() == b"hello"

    run(scenario())
    assert 1 <= len(served) <= 2


# ---- Rest ----


def test_a_connection_at_rest_is_not_looked_at(run: Callable[[Scenario], None]) -> None:
    """Nor one whose call waits; whatever moves it wakes it."""

    async def scenario() -> None:
        poll = new_future()
        row = Row("/t.T/Poll", Kind.UNARY, answering(poll))
        async with port(row) as one:
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            writer.write(START + call(1, row.path))
            await one.gate.until(lambda: one.gate.calls)
            assert lively(one) == 1
            await until(lambda: lively(one) == 0)
            poll.set_result(b"x")
            await reader.readuntil(b"grpc-status\x010")
            assert lively(one) == 1
            await until(lambda: lively(one) == 0)
            writer.write(frames.ping(b"8 bytes."))
            await reader.readuntil(b"8 bytes.")
            assert lively(one) == 1
            await closed(writer)
            await until(lambda: not one.transport._fronts)
            assert lively(one) == 0

    run(scenario())


def test_idle_time_begins_with_the_end_of_the_last_call(run: Callable[[Scenario], None]) -> None:
    """A poll keeps its connection for many times the idle time, while nobody looks at it."""

    async def scenario() -> None:
        poll = new_future()
        row = Row("/t.T/Poll", Kind.UNARY, answering(poll))
        async with port(row, limits=Limits(idle_s=0.1)) as one:
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            writer.write(START + call(1, row.path))
            looks = 0
            for _ in range(3):
                await until(lambda: lively(one) == 0)
                await until(lambda: lively(one) == 1)
                looks += 1
            assert looks == 3
            poll.set_result(b"x")
            rest = await reader.read()
            kinds = [frame.kind for frame in parse(rest)]
            assert kinds.index(frames.GOAWAY) > kinds.index(frames.DATA)
            await closed(writer)

    run(scenario())


def test_without_a_limit_nothing_waits_for_its_end(run: Callable[[Scenario], None]) -> None:
    """Neither idle time nor age is watched; and a connection that went while others were looked at is not missed."""

    async def scenario() -> None:
        async with port(limits=Limits(idle_s=0)) as one:
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            writer.write(START + call(1))
            await reader.readuntil(b"grpc-status\x010")
            await until(lambda: lively(one) == 0)
            (front,) = one.transport._fronts
            assert front._idle_step is None
            await closed(writer)
            await until(lambda: not one.transport._fronts)
            assert not front.tick(0.0)

    run(scenario())


def test_many_connections_are_looked_at_in_portions(run: Callable[[Scenario], None]) -> None:
    """All of them come to rest, a few in each turn."""

    async def scenario() -> None:
        async with port(limits=Limits(ticks_a_turn=2)) as one:
            pairs = [await asyncio.open_connection("127.0.0.1", one.port) for _ in range(7)]
            for _, writer in pairs:
                writer.write(START + call(1))
            for reader, _ in pairs:
                await reader.readuntil(b"grpc-status\x010")
            await until(lambda: lively(one) == 0)
            assert len(one.transport._fronts) == 7
            for _, writer in pairs:
                await closed(writer)

    run(scenario())


def test_calls_that_are_due_together_all_end(run: Callable[[Scenario], None]) -> None:
    """Each leaves the step of time that they share, while that is gone through."""

    class Waiting:
        def __init__(self, deadlines: Deadlines) -> None:
            self.step = deadlines.add(self, 0.0)

        def expire(self) -> None:
            self.step.discard(self)
            ended.append(self)

    ended: list[Waiting] = []

    async def scenario() -> None:
        deadlines = Deadlines(asyncio.get_running_loop())
        waiting = [Waiting(deadlines) for _ in range(10)]
        await until(lambda: len(ended) == 10)
        assert set(ended) == set(waiting)

    run(scenario())


# ---- Answers that nobody takes ----


def test_all_untaken_answers_have_one_bound(run: Callable[[Scenario], None]) -> None:
    """Beyond it the connection that holds most ends with ENHANCE_YOUR_CALM, its messages go back; others live."""
    given_back: list[str] = []

    def handler(one: Call, message: bytes) -> list[bytes]:
        one.undelivered = lambda: given_back.append(one.header("size"))
        return [bytes(int(one.header("size")))]

    async def scenario() -> None:
        row = Row("/t.T/Big", Kind.LIST, handler)
        async with port(row, limits=Limits(answer_bytes_total_max=1024 * KIB)) as one:
            small = await asyncio.open_connection("127.0.0.1", one.port, limit=1 << 20)
            small[1].write(START + call(1, row.path, ("size", str(400 * KIB))))
            await until(lambda: "rmq_untaken_answer_bytes 0\n" not in told(one.transport.source))
            answer = parse(await one.send(START + call(1, row.path, ("size", str(900 * KIB)))))
            last = answer[-1]
            assert (last.kind, int.from_bytes(last.payload[4:8])) == (frames.GOAWAY, ErrorCode.ENHANCE_YOUR_CALM)
            assert given_back == [str(900 * KIB)]
            assert "rmq_connections_ended_for_untaken_answers_total 1\n" in told(one.transport.source)
            small[1].write(frames.window_update(0, 1 << 20) + frames.window_update(1, 1 << 20))
            await small[0].readuntil(b"grpc-status\x010")
            await until(lambda: "rmq_untaken_answer_bytes 0\n" in told(one.transport.source))
            await closed(small[1])

    run(scenario())


def test_a_client_that_takes_nothing_does_not_keep_its_closed_connection(run: Callable[[Scenario], None]) -> None:
    """What was written waits for it for so long; then the socket is cut. What it holds is counted meanwhile."""

    async def scenario() -> None:
        row = Row("/t.T/Big", Kind.LIST, lambda one, message: [bytes(8 << 20)])
        limits = Limits(answer_bytes_total_max=4 << 20, linger_s=0.1)
        async with port(row, limits=limits) as one:
            with socket.socket() as deaf:
                deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
                deaf.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(deaf, ("127.0.0.1", one.port))
                await loop.sock_sendall(deaf, WIDE + call(1, row.path))
                await until(lambda: "untaken_answers_total 1\n" in told(one.transport.source))
                assert one.transport._fronts
                await until(lambda: not one.transport._fronts)
                assert "rmq_untaken_answer_bytes 0\n" in told(one.transport.source)

    run(scenario())


def test_a_closing_connection_that_still_holds_too_much_is_cut(run: Callable[[Scenario], None]) -> None:
    """It was told once; it counts once."""

    async def scenario() -> None:
        row = Row("/t.T/Big", Kind.LIST, lambda one, message: [bytes(8 << 20)])
        async with port(row, limits=Limits(answer_bytes_total_max=KIB)) as one:
            with socket.socket() as deaf:
                deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
                deaf.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(deaf, ("127.0.0.1", one.port))
                await loop.sock_sendall(deaf, WIDE + call(1, row.path))
                await until(lambda: one.gate.ended)
                await until(lambda: not one.transport._fronts)
                assert "untaken_answers_total 1\n" in told(one.transport.source)
                assert await one.echo() == b"hello"

    run(scenario())


# ---- TLS ----


def test_bytes_pass_tls_in_steps() -> None:
    """OpenSSL's buffers keep the size of the largest piece they ever held: none is larger than a step."""
    sizes: list[int] = []

    class Recorded:
        """A buffer and a TLS object in one: gives back what it was given."""

        def __init__(self) -> None:
            self.held: list[bytes] = []

        def write(self, data: bytes) -> None:
            sizes.append(len(data))
            self.held.append(data)

        def read(self, size: int = 0) -> bytes:
            return self.held.pop()

    session = Session.__new__(Session)
    session._outgoing = session._ssl = Recorded()  # type: ignore[assignment]
    body = bytes(range(256)) * 1000
    assert session.send(body) == body
    assert max(sizes) == STEP_BYTES
