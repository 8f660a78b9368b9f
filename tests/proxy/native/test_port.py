"""One port for all: TLS and plaintext, HTTP/1.1, PROXY headers, limits on connections. Under uvloop, as in use."""

import asyncio
import os
import socket
import ssl
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias, cast

import grpc
import grpc.aio
import pytest

from rmq.errors import ConfigError
from rmq.metrics import Exposition
from rmq_proxy.http2 import frames
from rmq_proxy.http2.errors import ErrorCode
from rmq_proxy.http2.limits import Limits
from rmq_proxy.native import certificates
from rmq_proxy.native.certificates import Certificates, self_signed
from rmq_proxy.native.pages import PortPages
from rmq_proxy.native_transport import NativeTransport
from rmq_proxy.rpc import Call, Kind, Row
from rmq_proxy.scrape import Scrape
from tests.proxy.http2.peer import START, Frame, data, parse, request
from tests.proxy.transports import ECHO, LOG, RecordingGate, answering, new_future
from tests.scraping import told

Scenario: TypeAlias = Coroutine[Any, Any, None]
METRICS = b"GET /metrics HTTP/1.1\r\n\r\n"
PROXIED = b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 8081\r\n"


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[[Scenario], None]]:
    """Runs a scenario on the loop of production."""
    factory = None
    if sys.platform != "win32":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        yield lambda scenario: runner.run(asyncio.wait_for(scenario, 60))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A certificate that signs itself."""
    pytest.importorskip("cryptography")
    return self_signed(tmp_path_factory.mktemp("tls"))


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


# ---- TLS ----


def test_both_on_one_port(run: Callable[[Scenario], None], pair: Certificates) -> None:
    """A call tells whether it came over TLS."""

    async def scenario() -> None:
        async with port(certificates=pair) as one:
            assert await one.echo() == b"hello"
            assert await one.echo_over_tls(pair) == b"hello"
            assert [call.tls for call in one.gate.calls] == [False, True]
            assert one.gate.calls[1].authority == f"localhost:{one.port}"

    run(scenario())


def test_big_messages_over_tls(run: Callable[[Scenario], None], pair: Certificates) -> None:
    """Many records both ways."""

    async def scenario() -> None:
        body = os.urandom(1_000_000)
        async with port(certificates=pair) as one:
            trusted = grpc.ssl_channel_credentials(pair._paths[0].read_bytes())
            async with grpc.aio.secure_channel(f"localhost:{one.port}", trusted) as channel:
                assert await cast("Callable[[bytes], Awaitable[bytes]]", channel.unary_unary(ECHO.path))(body) == body

    run(scenario())


def test_enforcing(run: Callable[[Scenario], None], pair: Certificates) -> None:
    """Without TLS there is no call, and the GOAWAY says why."""

    async def scenario() -> None:
        async with port(certificates=pair, tls_mode="enforcing") as one:
            assert await one.echo_over_tls(pair) == b"hello"
            (goaway,) = answered(await one.send(frames.PREFACE + frames.settings({})))
            assert goaway.payload[4:8] == ErrorCode.INADEQUATE_SECURITY.to_bytes(4)
            assert b"requires TLS" in goaway.payload

    run(scenario())


@pytest.mark.parametrize("options", [{}, {"tls_mode": "disabled"}])
def test_without_tls(run: Callable[[Scenario], None], options: dict[str, str]) -> None:
    """A client that speaks TLS gets an alert, not silence."""

    async def scenario() -> None:
        async with port(**options) as one:
            assert (await one.send(b"\x16\x03\x01\x02\x00"))[:1] == b"\x15"

    run(scenario())


def test_too_many_handshakes(run: Callable[[Scenario], None], pair: Certificates) -> None:
    """One more gets an alert."""

    async def scenario() -> None:
        async with port(certificates=pair, limits=Limits(handshakes_max=1)) as one:
            _, first = await asyncio.open_connection("127.0.0.1", one.port)
            first.write(b"\x16\x03\x01\x00\x05")  # and no more
            assert b"rmq_tls_handshakes 1\n" in await one.send(METRICS)
            assert (await one.send(b"\x16\x03\x01\x00\x05"))[:1] == b"\x15"
            assert "rmq_tls_handshakes_turned_away_total 1\n" in told(one.transport.source)
            first.close()

    run(scenario())


def test_garbage_for_a_handshake(run: Callable[[Scenario], None], pair: Certificates) -> None:
    """It ends that connection, and is no longer counted."""

    async def scenario() -> None:
        async with port(certificates=pair) as one:
            await one.send(b"\x16\x03\x01\x00\x05" + b"garbage")
            assert b"rmq_tls_handshakes 0\n" in await one.send(METRICS)
            assert await one.echo_over_tls(pair) == b"hello"

    run(scenario())


def test_client_certificates(run: Callable[[Scenario], None], pair: Certificates) -> None:
    """Required: who has none is refused."""

    async def scenario() -> None:
        cert, key = pair._paths[:2]
        strict = Certificates(cert, key, client_ca=cert, clients="required")
        async with port(certificates=strict) as one:
            with pytest.raises(grpc.aio.AioRpcError):
                await one.echo_over_tls(pair)
            known = grpc.ssl_channel_credentials(cert.read_bytes(), key.read_bytes(), cert.read_bytes())
            async with grpc.aio.secure_channel(f"localhost:{one.port}", known) as channel:
                method = cast("Callable[[bytes], Awaitable[bytes]]", channel.unary_unary(ECHO.path))
                assert await method(b"hello") == b"hello"

    run(scenario())


def test_alpn(run: Callable[[Scenario], None], pair: Certificates) -> None:
    """Go's gRPC insists on h2."""

    async def scenario() -> None:
        context = ssl.create_default_context(cafile=str(pair._paths[0]))
        context.set_alpn_protocols(["h2"])
        async with port(certificates=pair) as one:
            _, writer = await asyncio.open_connection("localhost", one.port, ssl=context, family=socket.AF_INET)
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
            writer.close()

    run(scenario())


def test_self_signed_files(tmp_path: Path) -> None:
    """Made once, the key for its owner's eyes only; the next start finds them."""
    pytest.importorskip("cryptography")
    first = self_signed(tmp_path / "tls")
    assert stat.S_IMODE((tmp_path / "tls" / "tls-key.pem").stat().st_mode) == 0o600
    assert self_signed(tmp_path / "tls").fingerprint == first.fingerprint
    assert self_signed(None).fingerprint != first.fingerprint
    assert len(first.fingerprint) == 64


def test_reload(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Files that change are read again; a pair that does not fit leaves the old one in place."""
    pytest.importorskip("cryptography")
    one, other = self_signed(tmp_path / "one"), self_signed(tmp_path / "other")
    before = one.fingerprint
    one.refresh(100)
    (tmp_path / "other" / "tls-cert.pem").replace(tmp_path / "one" / "tls-cert.pem")
    one.refresh(101)
    assert one.fingerprint == before
    one.refresh(101 + certificates.CHECK_INTERVAL_S)
    assert one.fingerprint == before
    assert "not read again" in caplog.text
    (tmp_path / "other" / "tls-key.pem").replace(tmp_path / "one" / "tls-key.pem")
    one.refresh(200)
    assert one.fingerprint == other.fingerprint


def test_bad_files(tmp_path: Path) -> None:
    """One line that names them."""
    with pytest.raises(ConfigError, match="cannot use the certificate"):
        Certificates(tmp_path / "cert", tmp_path / "key")


# ---- HTTP/1.1 ----


@pytest.mark.parametrize(
    ("head", "status", "body"),
    [
        (b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", b"200 OK", b"ok\n"),
        (b"HEAD /healthz HTTP/1.1\r\n\r\n", b"200 OK", b""),
        (b"POST /healthz HTTP/1.1\r\n\r\n", b"405 Method Not Allowed", b"only GET\n"),
        (b"GET /metrics?x=1 HTTP/1.1\r\n\r\n", b"200 OK", b"rmq_connections 1\n"),
        (b"GET / HTTP/1.1\r\n\r\n", b"404 Not Found", b"This is the port of a RocketMQ 5 server"),
        (b"GET  / HTTP/1.1\r\n\r\n", b"400 Bad Request", b"not a request"),
        (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 2000, b"431 Request Header Fields Too Large", b"too large"),
    ],
)
def test_http1(run: Callable[[Scenario], None], head: bytes, status: bytes, body: bytes) -> None:
    """One answer, then the end."""

    async def scenario() -> None:
        async with port() as one:
            answer = await one.send(head)
            assert answer.startswith(b"HTTP/1.1 " + status + b"\r\n")
            assert body in answer.partition(b"\r\n\r\n")[2]

    run(scenario())


def test_http1_over_tls(run: Callable[[Scenario], None], pair: Certificates) -> None:
    """A probe may use TLS as well."""

    async def scenario() -> None:
        context = ssl.create_default_context(cafile=str(pair._paths[0]))
        async with port(certificates=pair) as one:
            reader, writer = await asyncio.open_connection("localhost", one.port, ssl=context, family=socket.AF_INET)
            writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert (await reader.read()).endswith(b"ok\n")
            writer.close()

    run(scenario())


def test_pages_over_http2(run: Callable[[Scenario], None]) -> None:
    """The same pages."""

    async def scenario() -> None:
        async with port() as one:
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            page = request(1, ((":method", "GET"), (":scheme", "http"), (":path", "/healthz")))
            writer.write(frames.PREFACE + frames.settings({}) + page)
            assert b"ok\n" in await reader.readuntil(b"ok\n" + frames.frame(frames.DATA, frames.END_STREAM, 1))
            writer.close()

    run(scenario())


def test_something_else(run: Callable[[Scenario], None]) -> None:
    """Is told what the port speaks, as far as HTTP/2 can say it."""

    async def scenario() -> None:
        async with port() as one:
            (goaway,) = answered(await one.send(b"\x00\x00\x00\x2f{}"))
            assert b"HTTP/2" in goaway.payload

    run(scenario())


# ---- PROXY headers ----


def test_proxy_header(run: Callable[[Scenario], None]) -> None:
    """From a configured source: the call's peer is the client behind it, who then is not on this machine."""

    async def scenario() -> None:
        async with port(proxies=["127.0.0.0/8"]) as one:
            _reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            writer.write(PROXIED + frames.PREFACE + frames.settings({}) + call(1))
            await one.gate.ends()
            assert one.gate.calls[0].peer == "192.0.2.7:5000"
            writer.close()
            assert b"403 Forbidden" in await one.send(PROXIED + b"GET /metrics HTTP/1.1\r\n\r\n")
            assert b"200 OK" in await one.send(b"PROXY UNKNOWN\r\nGET /metrics HTTP/1.1\r\n\r\n")
            assert await one.send(b"PROXY nonsense\r\n") == b""

    run(scenario())


def test_proxy_header_from_anyone(run: Callable[[Scenario], None]) -> None:
    """Is not believed."""

    async def scenario() -> None:
        async with port() as one:
            (goaway,) = answered(await one.send(PROXIED))
            assert goaway.payload[4:8] == ErrorCode.PROTOCOL_ERROR.to_bytes(4)

    run(scenario())


def call(stream_id: int, path: str = ECHO.path, *more: tuple[str, str]) -> bytes:
    """A whole call with an empty message."""
    fields = ((":method", "POST"), (":scheme", "http"), (":path", path), ("content-type", "application/grpc"), *more)
    return request(stream_id, fields, frames.END_HEADERS) + data(stream_id, bytes(5), frames.END_STREAM)


def test_an_answer_that_takes_its_time(run: Callable[[Scenario], None]) -> None:
    """Over HTTP/1.1 it comes when it is made, and what else is sent meanwhile is not read; who left gets none."""

    async def scenario() -> None:
        made: list[asyncio.Future[bytes]] = []
        asked = asyncio.Event()

        def page() -> asyncio.Future[bytes]:
            made.append(asyncio.get_running_loop().create_future())
            asked.set()
            return made[-1]

        async with port() as one:
            one.transport.site.pages = PortPages(lambda: True, page, metrics_for_all=True)
            _, gone = await asyncio.open_connection("127.0.0.1", one.port)
            gone.write(METRICS)
            await asked.wait()
            gone.transport.abort()
            asked.clear()
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            writer.write(METRICS)
            await asked.wait()
            writer.write(METRICS)
            assert await one.echo() == b"hello"
            for answer in made:
                answer.set_result(b"rmq_connections 2\n")
            assert (await reader.read()).endswith(b"\r\n\r\nrmq_connections 2\n")
            assert len(made) == 2
            writer.close()

    run(scenario())


def test_metrics_over_http2(run: Callable[[Scenario], None]) -> None:
    """The same page on a stream; one that was reset meanwhile gets nothing, and the connection goes on."""

    async def scenario() -> None:
        async with port() as one:
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            fields = ((":method", "GET"), (":path", "/metrics"), (":scheme", "http"), (":authority", "x"))
            writer.write(START + request(1, fields) + frames.rst_stream(1, ErrorCode.CANCEL))
            writer.write(request(3, fields))
            answer = b""
            while b"rmq_connections 1\n" not in answer:
                answer += await reader.read(65536)
            writer.close()
            assert {frame.stream_id for frame in parse(answer) if frame.kind == frames.DATA} == {3}

    run(scenario())


def test_metrics_that_fail(run: Callable[[Scenario], None], caplog: pytest.LogCaptureFixture) -> None:
    """The asker is told so, the log tells more, and the port goes on."""

    def broken(page: Exposition) -> Iterator[None]:
        raise ZeroDivisionError

    async def scenario() -> None:
        async with port(scrape=Scrape(asyncio.get_running_loop().time, [broken])) as one:
            assert b"500 Internal Server Error" in await one.send(METRICS)
            assert await one.echo() == b"hello"

    run(scenario())
    assert "/metrics failed" in caplog.text


# ---- Limits and life ----


def test_connections_in_all(run: Callable[[Scenario], None]) -> None:
    """One more is closed at once, and counted."""

    async def scenario() -> None:
        async with port(limits=Limits(connections_max=1)) as one:
            _, writer = await asyncio.open_connection("127.0.0.1", one.port)
            assert await one.send(b"") == b""
            assert "rmq_connections_turned_away_total 1\n" in told(one.transport.source)
            writer.close()

    run(scenario())


def test_a_client_that_breaks_the_rules_is_counted(run: Callable[[Scenario], None]) -> None:
    """By the code that it is sent away with; one that just leaves is not."""

    async def scenario() -> None:
        async with port() as one:
            _, leaving = await asyncio.open_connection("127.0.0.1", one.port)
            leaving.write(START)
            leaving.write_eof()
            answer = await one.send(START + frames.frame(frames.PING, 0, 1, bytes(8)))
            assert frames.GOAWAY in [frame.kind for frame in answered(answer)]
            assert 'rmq_connections_ended_total{reason="protocol_error"} 1\n' in told(one.transport.source)
            leaving.close()

    run(scenario())


def test_connections_per_address() -> None:
    """Counted by the socket's peer; loopback and configured proxies are not."""

    async def scenario() -> None:
        transport = NativeTransport(
            {}, RecordingGate(), request_bytes_max=1, log=LOG, limits=Limits(connections_per_address_max=1)
        )
        fronts = [cast("Any", FakeFront("192.0.2.1")) for _ in range(3)]
        assert [transport.admit(front, "192.0.2.1") for front in fronts] == [True, False, False]
        transport.forget(fronts[1])
        transport.forget(fronts[0])
        assert transport.admit(fronts[1], "192.0.2.1")
        assert [transport.admit(cast("Any", FakeFront("127.0.0.1")), "127.0.0.1") for _ in range(2)] == [True, True]

    asyncio.run(scenario())


class FakeFront:
    def __init__(self, host: str) -> None:
        self.host = host


def test_silence(run: Callable[[Scenario], None]) -> None:
    """A connection that says nothing, or does not end its handshake, is closed."""

    async def scenario() -> None:
        async with port(limits=Limits(first_byte_s=0.2)) as one:
            assert await one.send(b"") == b""
            assert await one.send(b"PR") == b""
            assert 'rmq_connections_ended_total{reason="first_byte"} 2\n' in told(one.transport.source)

    run(scenario())


def test_idle(run: Callable[[Scenario], None]) -> None:
    """Without a call a connection is drained; one that waits for an answer is not idle."""

    async def scenario() -> None:
        poll = new_future()
        row = Row("/t.T/Poll", Kind.UNARY, answering(poll))
        async with port(row, limits=Limits(idle_s=1.0)) as one:
            polling = asyncio.ensure_future(one.call(row.path))
            await one.gate.until(lambda: one.gate.calls)
            idle = await one.send(frames.PREFACE + frames.settings({}))
            assert frames.GOAWAY in [frame.kind for frame in answered(idle)]
            assert one.transport.site.endings == {"idle": 1}
            poll.set_result(b"still here")
            assert await polling == b"still here"

    run(scenario())


def test_age(run: Callable[[Scenario], None]) -> None:
    """A connection that is old enough is drained; what runs past the drain is ended."""

    async def scenario() -> None:
        poll = new_future()
        row = Row("/t.T/Poll", Kind.UNARY, answering(poll))
        async with port(row, limits=Limits(age_s=1.0, drain_s=0.1)) as one:
            answer = await one.send(frames.PREFACE + frames.settings({}) + call(1, row.path))
            goaways = [frame.payload[:8] for frame in answered(answer) if frame.kind == frames.GOAWAY]
            assert [int.from_bytes(payload[:4]) for payload in goaways] == [frames.STREAM_ID_MAX, 1, 1]
            assert one.transport.site.endings == {"age": 1}
            assert poll.cancelled()

    run(scenario())


def test_deadline_without_a_word(run: Callable[[Scenario], None]) -> None:
    """A client that forgets its call loses it when its own deadline has passed."""

    async def scenario() -> None:
        poll = new_future()
        row = Row("/t.T/Poll", Kind.UNARY, answering(poll))
        async with port(row) as one:
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            writer.write(frames.PREFACE + frames.settings({}) + call(1, row.path, ("grpc-timeout", "200m")))
            await reader.readuntil(b"grpc-status\x014")
            assert poll.cancelled()
            writer.close()

    run(scenario())


def test_pipelined_calls_leave_together(run: Callable[[Scenario], None]) -> None:
    """Answers of Futures that are done in one turn are one write."""

    async def scenario() -> None:
        polls = [new_future() for _ in range(5)]
        waiting = iter(polls)

        def handler(one: Call, message: bytes) -> "asyncio.Future[bytes]":
            return next(waiting)

        row = Row("/t.T/Poll", Kind.UNARY, handler)
        async with port(row) as one:
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            calls = [call(n, row.path) for n in (1, 3, 5, 7, 9)]
            writer.write(frames.PREFACE + frames.settings({}) + b"".join(calls))
            await one.gate.until(lambda: len(one.gate.calls) == 5)
            await reader.read(1000)
            for poll in polls:
                poll.set_result(b"x")
            written = parse(await reader.read(100_000))
            assert [frame.stream_id for frame in written if frame.kind == frames.DATA] == [1, 3, 5, 7, 9]
            writer.close()

    run(scenario())
