"""What goes wrong with the admin client: each kind of error against something real, each in one line that helps."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias, cast

import pytest

from rmq_proxy.admin_client import AdminClient
from rmq_proxy.rpc import Call, GrpcCode, Kind, Row, RpcError, Unary
from tests.proxy.admin_rig import PREFIX, AdminRig, Run, failure
from tests.proxy.transports import ECHO, Maker, answering, new_future, raising, serving

Answerer: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def describe(admin: AdminClient) -> object:
    """Any call."""
    return admin.describe()


@asynccontextmanager
async def listening(answer: Answerer) -> AsyncIterator[str]:
    """A TCP server that has `answer` deal with each connection; its endpoint."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await answer(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def saying(text: bytes, *, stays: bool = False) -> Answerer:
    """Says one thing to whoever speaks to it, and hangs up, or stays until the client does."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(text)
        if stays:
            await reader.read()

    return answer


async def resetting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Ends the connection the hard way."""
    await reader.read(1)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def web_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Speaks HTTP/2: after the client's preface its settings, and 404 (0x8D) to each HEADERS frame (type 1)."""
    await reader.readexactly(24)
    writer.write(bytes.fromhex("000000 04 00 00000000"))
    while True:
        head = await reader.readexactly(9)
        await reader.readexactly(int.from_bytes(head[:3], "big"))
        if head[3] == 1:
            writer.write(bytes.fromhex("000001 01 05") + head[5:] + b"\x8d")


def a_closed_port() -> int:
    """Free a moment ago."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


STATUSES = [
    (GrpcCode.NOT_FOUND, "not_found"),
    (GrpcCode.ALREADY_EXISTS, "exists"),
    (GrpcCode.INVALID_ARGUMENT, "invalid"),
    (GrpcCode.PERMISSION_DENIED, "refused"),
    (GrpcCode.UNAUTHENTICATED, "refused"),
    (GrpcCode.RESOURCE_EXHAUSTED, "busy"),
    (GrpcCode.FAILED_PRECONDITION, "failed"),
    (GrpcCode.INTERNAL, "failed"),
]


@pytest.mark.parametrize(("code", "kind"), STATUSES, ids=[s[0].name for s in STATUSES])
def test_statuses_become_kinds(make: Maker, run: Run, code: GrpcCode, kind: str) -> None:
    """The server's text is the error's, in one line."""

    async def scenario() -> None:
        row = Row(PREFIX + "Describe", Kind.UNARY, raising(RpcError(code, "do\n  this")))
        async with serving(make, row) as server:
            error = await failure(f"127.0.0.1:{server.port}", describe)
            assert (error.kind, error.text) == (kind, "do this")

    run(scenario())


def test_a_peer_from_afar_is_refused(make: Maker, run: Run) -> None:
    """The kind is `refused`, the line names the setting."""

    async def scenario() -> None:
        handler = cast("Unary", AdminRig().admin_rows[PREFIX + "Describe"].handler)

        def from_afar(call: Call, data: bytes) -> "bytes | asyncio.Future[bytes]":
            call.peer = "10.1.2.3:5555"  # this machine may have no address but the loopback's
            return handler(call, data)

        async with serving(make, Row(PREFIX + "Describe", Kind.UNARY, from_afar)) as server:
            error = await failure(f"127.0.0.1:{server.port}", describe)
            assert error.kind == "refused"
            assert "10.1.2.3:5555" in error.text
            assert "admin_remote: true" in error.text

    run(scenario())


def test_nothing_listens(run: Run) -> None:
    """`down`, and how to start a server; over IPv6 as well."""

    async def scenario() -> None:
        for host in ("127.0.0.1", "localhost", "[::1]"):
            endpoint = f"{host}:{a_closed_port()}"
            error = await failure(endpoint, describe)
            assert error.kind == "down"
            assert f"nothing listens at {endpoint}" in error.text
            assert "rmq serve" in error.text

    run(scenario())


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b"])
def test_a_name_without_an_address(run: Run, host: str) -> None:
    """`down`, and the line names the host."""

    async def scenario() -> None:
        error = await failure(f"{host}:8081", describe)
        assert (error.kind, f"there is no host {host} (" in error.text) == ("down", True)

    run(scenario())


STRANGERS: dict[str, Answerer] = {
    "HTTP/1.1": saying(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
    "HTTP/2": web_server,
    "SSH": saying(b"SSH-2.0-OpenSSH_9.9\r\n"),
    "TLS": saying(bytes.fromhex("15030300020246")),
    "nothing": saying(b""),
    "a reset": resetting,
}


@pytest.mark.parametrize("answer", STRANGERS.values(), ids=STRANGERS)
def test_something_else_listens(run: Run, answer: Answerer) -> None:
    """A server of another protocol, or one that hangs up, is `not_ours`."""

    async def scenario() -> None:
        async with listening(answer) as endpoint:
            error = await failure(endpoint, describe)
            assert (error.kind, "no RocketMQ server; check the port" in error.text) == ("not_ours", True)

    run(scenario())


def test_a_server_without_the_service(make: Maker, run: Run) -> None:
    """An Apache or an old rmq is `not_ours`, whatever of our services was asked for."""

    async def scenario() -> None:
        async with serving(make, ECHO) as server:
            uses: list[Callable[[AdminClient], object]] = [
                describe,
                lambda admin: admin.health(),
                lambda admin: admin.send("t", b"x"),
            ]
            for use in uses:
                error = await failure(f"127.0.0.1:{server.port}", use)
                assert (error.kind, "Apache RocketMQ or an older rmq" in error.text) == ("not_ours", True)

    run(scenario())


def test_an_answer_in_another_language(make: Maker, run: Run) -> None:
    """What cannot be read as our answer is `not_ours`."""

    async def scenario() -> None:
        row = Row(PREFIX + "Describe", Kind.UNARY, lambda call, request: b"\xff\xff\xff")
        async with serving(make, row) as server:
            assert (await failure(f"127.0.0.1:{server.port}", describe)).kind == "not_ours"

    run(scenario())


def test_a_server_that_does_not_answer(make: Maker, run: Run) -> None:
    """`busy` after the client's time, with what to do: a call that hangs, and a port that takes connections only."""

    async def scenario() -> None:
        hanging = Row(PREFIX + "Describe", Kind.UNARY, answering(new_future()))
        async with serving(make, hanging) as server:
            error = await failure(f"127.0.0.1:{server.port}", describe, timeout_s=0.2)
            assert (error.kind, "did not answer within 0.2 s" in error.text) == ("busy", True)
        async with listening(saying(b"", stays=True)) as endpoint:
            error = await failure(endpoint, describe, timeout_s=0.2)
            assert (error.kind, "allow more time" in error.text) == ("busy", True)

    run(scenario())


def test_a_stranger_that_does_not_hang_up(run: Run) -> None:
    """It never ends the connection, but what it says is enough: `not_ours`."""

    async def scenario() -> None:
        async with listening(saying(b"220 mail\r\n", stays=True)) as endpoint:
            assert (await failure(endpoint, describe, timeout_s=10)).kind == "not_ours"

    run(scenario())


def test_a_server_that_ends(make: Maker, run: Run) -> None:
    """UNAVAILABLE from a server that still speaks HTTP/2 is `busy`: try again."""

    async def scenario() -> None:
        row = Row(PREFIX + "Describe", Kind.UNARY, raising(RpcError(GrpcCode.UNAVAILABLE, "shutting down")))
        async with serving(make, row) as server:
            error = await failure(f"127.0.0.1:{server.port}", describe)
            assert (error.kind, "(shutting down); try again" in error.text) == ("busy", True)

    run(scenario())
