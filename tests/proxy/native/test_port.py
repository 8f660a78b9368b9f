"""One port for all: HTTP/1.1, pages over HTTP/2, PROXY headers. Under uvloop, as in use."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterator

import pytest

from rmq.metrics import Exposition
from rmq_proxy.http2 import frames
from rmq_proxy.http2.errors import ErrorCode
from rmq_proxy.native.certificates import Certificates
from rmq_proxy.native.pages import PortPages
from rmq_proxy.scrape import Scrape
from tests.proxy.http2.peer import START, parse, request
from tests.proxy.native.portrig import METRICS, Scenario, answered, call, port

PROXIED = b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 8081\r\n"


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
