"""What every transport does with a call: the same tests, whichever carries it and whichever stack makes it."""

import asyncio
import socket
from collections.abc import Sequence

import pytest

from rmq_proxy.rpc import Call, GrpcCode, Kind, Row, RpcError
from tests.proxy.transports import (
    COUNT,
    ECHO,
    Maker,
    Run,
    answering,
    new_future,
    raising,
    serving,
    status_of,
)

TONIC_TIMES_OUT = ("tonic", GrpcCode.CANCELLED)
"""What tonic 0.14 says when its own timer is the first."""

# ---- One in, one out ----


def test_unary_value(run: "Run[None]", make: Maker) -> None:
    """A handler's bytes are the answer, the empty answer too; the gate hears of each call once, with its size."""

    async def scenario() -> None:
        async with serving(make, ECHO) as server:
            assert await server.unary(ECHO.path, b"hello") == b"hello"
            assert await server.unary(ECHO.path, b"") == b""
            assert await server.gate.ends(2) == [(ECHO.path, GrpcCode.OK, 5), (ECHO.path, GrpcCode.OK, 0)]
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
            await server.gate.until(lambda: len(server.gate.calls) == 2)
            assert sorted(bool(call.metadata) for call in server.gate.calls) == [False, True], "who waits keeps none"
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
            assert (await status_of(server.unary("/t.T/Nope")))[0] == GrpcCode.UNIMPLEMENTED

    run(scenario())


@pytest.mark.parametrize("code", [code for code in GrpcCode if code is not GrpcCode.OK])
def test_rpc_error(run: "Run[None]", make: Maker, code: GrpcCode) -> None:
    """Every status reaches the client with its text, non-ASCII included, and the gate."""

    async def scenario() -> None:
        row = Row("/t.T/Fail", Kind.UNARY, raising(RpcError(code, "100 % schön\nyes")))
        async with serving(make, row) as server:
            status, text = await status_of(server.unary(row.path))
            assert (status, text) == (code, "100 % schön\nyes")
            assert await server.gate.ends() == [(row.path, code, 0)]

    run(scenario())


def test_error_of_a_future(run: "Run[None]", make: Maker) -> None:
    """An RpcError may come late as well."""

    async def scenario() -> None:
        late = new_future()
        late.set_exception(RpcError(GrpcCode.UNAUTHENTICATED, "who are you"))
        async with serving(make, Row("/t.T/Late", Kind.UNARY, answering(late))) as server:
            assert await status_of(server.unary("/t.T/Late")) == (GrpcCode.UNAUTHENTICATED, "who are you")

    run(scenario())


def test_given_up_by_the_server(run: "Run[None]", make: Maker) -> None:
    """A Future that the broker cancels ends the call with a status that makes clients try again; they don't hang."""

    async def scenario() -> None:
        given_up = new_future()
        given_up.cancel()
        async with serving(make, Row("/t.T/Late", Kind.UNARY, answering(given_up))) as server:
            assert (await status_of(server.unary("/t.T/Late")))[0] == GrpcCode.UNAVAILABLE
            assert not server.gate.calls[0].cancelled

    run(scenario())


def test_a_bug_is_internal(run: "Run[None]", make: Maker, caplog: pytest.LogCaptureFixture) -> None:
    """A handler's bug is INTERNAL without its secrets, logged with the traceback, and hurts no other call."""

    async def scenario() -> None:
        broken = Row("/t.T/Broken", Kind.UNARY, raising(ZeroDivisionError("secret")))
        async with serving(make, ECHO, broken) as server:
            status, text = await status_of(server.unary(broken.path))
            assert status == GrpcCode.INTERNAL
            assert "secret" not in text
            assert await server.unary(ECHO.path, b"still here") == b"still here"
            assert (await server.gate.ends())[0] == (broken.path, GrpcCode.INTERNAL, 0)

    run(scenario())
    assert "/t.T/Broken failed" in caplog.text
    assert "ZeroDivisionError: secret" in caplog.text


@pytest.mark.parametrize("kind", list(Kind))
def test_refused_by_the_gate(run: "Run[None]", make: Maker, kind: Kind) -> None:
    """The gate may refuse any call; its handler does not run, `end` is told the status."""

    async def scenario() -> None:
        async with serving(make, Row("/t.T/Any", kind, raising(AssertionError("the handler ran")))) as server:
            server.gate.refusal = RpcError(GrpcCode.PERMISSION_DENIED, "not you")
            call = await (server.stream("/t.T/Any") if kind is Kind.STREAM else server.listing("/t.T/Any"))
            assert await call.end() == (GrpcCode.PERMISSION_DENIED, "not you")
            assert await server.gate.ends() == [("/t.T/Any", GrpcCode.PERMISSION_DENIED, 0)]

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


@pytest.mark.parametrize("value", [b"", b"\0", bytes(range(256)), b"a,b", bytes(1000)])
def test_binary_metadata(run: "Run[None]", make: Maker, value: bytes) -> None:
    """Every byte arrives, whether a stack pads its base64 or not; commas within are the value's own."""

    async def scenario() -> None:
        async with serving(make, ECHO) as server:
            await server.unary(ECHO.path, metadata=(("trace-bin", value),))
            assert server.gate.calls[0].metadata["trace-bin"] == value

    run(scenario())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_peer(run: "Run[None]", make: Maker, host: str) -> None:
    """The peer is host:port, with brackets for IPv6."""
    if host == "::1" and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")

    async def scenario() -> None:
        async with serving(make, ECHO, hosts=[host]) as server:
            bracketed = f"[{host}]" if ":" in host else host
            channel = await make.stack.connect(f"{bracketed}:{server.port}")
            await channel.unary(ECHO.path, b"")
            await channel.close()
            found, _, port = server.gate.calls[0].peer.rpartition(":")
            assert (found, port.isdigit(), port == str(server.port)) == (bracketed, True, False)

    run(scenario())


def test_deadline_is_told(run: "Run[None]", make: Maker) -> None:
    """The client's deadline is on the loop's clock; None where there is none; an absurdly far one is accepted."""

    async def scenario() -> None:
        async with serving(make, ECHO) as server:
            before_s = asyncio.get_running_loop().time()
            await server.unary(ECHO.path, timeout_s=7)
            await server.unary(ECHO.path)
            await server.unary(ECHO.path, timeout_s=100 * 365 * 86400)
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
            status, _ = await status_of(server.unary("/t.T/Never", timeout_s=0.2))
            assert status == GrpcCode.DEADLINE_EXCEEDED or (make.stack.name, status) == TONIC_TIMES_OUT
            await server.gate.ends()
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
            assert await server.gate.ends() == [("/t.T/Poll", GrpcCode.CANCELLED, 0)]
            assert poll.cancelled()
            assert server.gate.calls[0].cancelled
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
            call = await server.listing("/t.T/Big")
            await call.read()
            await call.cancel()
            await server.gate.ends()
            assert undelivered == ["undelivered"]
            assert server.gate.ended[0][1] is GrpcCode.CANCELLED
            assert server.gate.ended[0][2] < 64_000_000

    run(scenario())


# ---- Lists ----


@pytest.mark.parametrize("count", [0, 1, 32, 500])
def test_list(run: "Run[None]", make: Maker, count: int) -> None:
    """All messages in order, then OK; the gate hears the sum of their sizes."""

    async def scenario() -> None:
        async with serving(make, COUNT) as server:
            expected = [b"%d" % n for n in range(count)]
            assert await server.list(COUNT.path, b"%d" % count) == expected
            assert await server.gate.ends() == [(COUNT.path, GrpcCode.OK, sum(map(len, expected)))]

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
            await server.gate.ends()
            assert undelivered == []

    run(scenario())


def test_list_error(run: "Run[None]", make: Maker) -> None:
    """A list that fails sends nothing but the status."""

    async def scenario() -> None:
        row = Row("/t.T/List", Kind.LIST, raising(RpcError(GrpcCode.UNAVAILABLE, "not now")))
        async with serving(make, row) as server:
            assert await status_of(server.list(row.path)) == (GrpcCode.UNAVAILABLE, "not now")

    run(scenario())
