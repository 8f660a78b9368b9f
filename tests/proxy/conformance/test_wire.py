"""What shows on the wire: compression, sizes, flow control, the limit of streams, TLS beside plaintext."""

import asyncio
from functools import partial
from pathlib import Path

import pytest

from rmq_proxy.http2.limits import Limits
from rmq_proxy.native.certificates import self_signed
from rmq_proxy.native_transport import NativeTransport
from rmq_proxy.rpc import Call, GrpcCode, Kind, Row
from tests.proxy.stacks import Options, Stack
from tests.proxy.transports import ECHO, REQUEST_BYTES_MAX, Maker, Run, Streams, new_future, serving, status_of
from tests.relay import Relay

ZIPPED = Options(gzip=True)
LARGE_BYTES = 39 * (1 << 20) // 10
STREAMS_MAX = 8
BIG = Row("/t.T/Big", Kind.LIST, lambda call, request: [b"%02d" % n + bytes(1_000_000) for n in range(64)])


def test_compressed_request(run: "Run[None]", make: Maker) -> None:
    """A body that came in a twentieth of its size reaches the handler whole; the answer is as it was."""

    async def scenario() -> None:
        async with serving(make, ECHO) as server:
            with Relay(server.port) as relay:
                channel = await make.stack.connect(f"127.0.0.1:{relay.port}", ZIPPED)
                assert await channel.unary(ECHO.path, bytes(REQUEST_BYTES_MAX)) == bytes(REQUEST_BYTES_MAX)
                await channel.close()
                assert sum(map(len, relay.up)) < REQUEST_BYTES_MAX // 20

    run(scenario())


def test_compressed_request_over_the_limit(run: "Run[None]", make: Maker) -> None:
    """It is the size after decompression that counts."""

    async def scenario() -> None:
        async with serving(make, ECHO, options=ZIPPED) as server:
            status, _ = await status_of(server.unary(ECHO.path, bytes(REQUEST_BYTES_MAX + 1)))
            assert status == GrpcCode.RESOURCE_EXHAUSTED
            assert await server.unary(ECHO.path, b"x") == b"x"

    run(scenario())


def test_compressed_stream(run: "Run[None]", make: Maker) -> None:
    """Each message of a stream may be compressed."""

    async def scenario() -> None:
        async with serving(make, Streams().row, options=ZIPPED) as server:
            call = await server.stream("/t.T/Stream")
            for _ in range(2):
                await call.write(b"a" * 5000)
                assert await call.read() == b"A" * 5000
            await call.half_close()
            assert await call.end() == (GrpcCode.OK, "")

    run(scenario())


def test_large_messages(run: "Run[None]", make: Maker) -> None:
    """3.9 MiB go both ways, a little less than every client takes by default."""

    async def scenario() -> None:
        async with serving(make, ECHO, request_bytes_max=1 << 22) as server:
            large = bytes(range(256)) * (LARGE_BYTES // 256)
            assert await server.unary(ECHO.path, large) == large

    run(scenario())


def test_a_slow_reader_holds_up_only_itself(run: "Run[None]", make: Maker) -> None:
    """A list of 64 MB that is hardly read stays in order and unfinished; other calls of its connection go on."""

    async def scenario() -> None:
        async with serving(make, BIG, ECHO) as server:
            slow = await server.listing(BIG.path)
            for number in range(3):
                message = await slow.read()
                assert message is not None
                assert message[:2] == b"%02d" % number
                assert await server.unary(ECHO.path, bytes(REQUEST_BYTES_MAX)) == bytes(REQUEST_BYTES_MAX)
            assert [path for path, _, _ in await server.gate.ends(3)] == [ECHO.path] * 3
            await slow.cancel()
            _, code, _ = (await server.gate.ends(4))[3]
            assert code is GrpcCode.CANCELLED

    run(scenario())


def test_calls_beyond_the_streams_wait(run: "Run[None]", stack: Stack) -> None:
    """A client keeps to the server's limit of streams: what is beyond it is sent when others have ended."""
    held: list[asyncio.Future[bytes]] = []
    open_most = 0

    def hold(call: Call, request: bytes) -> "asyncio.Future[bytes]":
        nonlocal open_most
        held.append(new_future())
        open_most = max(open_most, sum(not future.done() for future in held))
        return held[-1]

    async def scenario() -> None:
        make = Maker(partial(NativeTransport, limits=Limits(streams_max=STREAMS_MAX)), stack)
        async with serving(make, ECHO, Row("/t.T/Hold", Kind.UNARY, hold)) as server:
            await server.unary(ECHO.path)  # from here on the client knows the limit
            calls = [asyncio.ensure_future(server.unary("/t.T/Hold")) for _ in range(5 * STREAMS_MAX)]
            for number in range(len(calls)):
                await server.gate.until(lambda: any(not future.done() for future in held))
                next(future for future in held if not future.done()).set_result(b"%d" % number)
            assert len(set(await asyncio.gather(*calls))) == len(calls)
            assert open_most <= STREAMS_MAX

    run(scenario())


def test_calls_given_up_as_they_are_sent(run: "Run[None]", make: Maker) -> None:
    """Whatever a stack sends behind its reset, it is the matter of that call: others of the connection go on."""

    async def scenario() -> None:
        poll, never = new_future(), Row("/t.T/Never", Kind.UNARY, lambda call, request: new_future())
        async with serving(make, never, Row("/t.T/Poll", Kind.UNARY, lambda call, request: poll)) as server:
            waiting = asyncio.ensure_future(server.unary("/t.T/Poll"))
            await server.gate.until(lambda: server.gate.calls)
            hasty = [status_of(server.unary(never.path, b"x", timeout_s=n / 1000)) for n in range(1, 51)]
            assert {code for code, _ in await asyncio.gather(*hasty)} <= {
                GrpcCode.DEADLINE_EXCEEDED,
                GrpcCode.CANCELLED,
            }
            poll.set_result(b"not hurt")
            assert await waiting == b"not hurt"

    run(scenario())


@pytest.fixture(scope="module")
def tls_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the certificate is."""
    return tmp_path_factory.mktemp("tls")


def test_tls_and_plaintext_on_one_port(run: "Run[None]", stack: Stack, tls_folder: Path) -> None:
    """A client with TLS and one without are served side by side, and each call knows which it is."""

    async def scenario() -> None:
        certificates = self_signed(tls_folder)
        secured = Options(certificate=(tls_folder / "tls-cert.pem").read_bytes())
        make = Maker(partial(NativeTransport, certificates=certificates), stack)
        streams = Streams()
        async with serving(make, ECHO, streams.row) as server:
            over_tls = await stack.connect(f"127.0.0.1:{server.port}", secured)
            large = bytes(REQUEST_BYTES_MAX)
            answers = await asyncio.gather(over_tls.unary(ECHO.path, large), server.unary(ECHO.path, large))
            assert set(answers) == {large}
            assert sorted(call.tls for call in server.gate.calls) == [False, True]
            call = await over_tls.open("/t.T/Stream")
            await call.headers()
            await call.write(b"both ways")
            assert await call.read() == b"BOTH WAYS"
            await call.half_close()
            assert await call.end() == (GrpcCode.OK, "")
            await over_tls.close()

    run(scenario())
