"""The admin client against real listeners: what its methods bring, and how it is told where to ask."""

import asyncio
import socket
import subprocess
import sys

import pytest

from rmq.adminport import Start
from rmq.config import GroupFlags
from rmq.errors import ClientError, Code
from rmq.filter import by_tag
from rmq.message import MessageType
from rmq.retry import RetryPolicy
from rmq_proto import v2
from rmq_proxy.admin_client import AdminClient, AdminError, split_endpoint
from rmq_proxy.rpc import Kind, Row
from rmq_store.record import decode_properties
from tests.proxy.admin_rig import NO_TOPIC, AdminRig, Run, a_server, ask, failure, kept
from tests.proxy.rig import GROUP, NOW_MS, TOPIC, subscribing
from tests.proxy.transports import Maker, serving

SEND = "/apache.rocketmq.v2.MessagingService/SendMessage"


def test_tables(make: Maker, run: Run) -> None:
    """Server, topics, groups and clients can be looked at."""

    async def scenario() -> None:
        async with a_server(make) as asked:
            asked.rig.tell(subscribing(TOPIC))
            assert (await asked(lambda admin: admin.describe())).version == "9.9"
            assert [topic.name for topic in await asked(lambda admin: admin.topics())] == [TOPIC]
            assert [topic.name for topic in await asked(lambda admin: admin.topics(TOPIC))] == [TOPIC]
            (group,) = await asked(lambda admin: admin.groups())
            assert (group.name, len(group.topics[0].leases)) == (GROUP, 0)
            (group,) = await asked(lambda admin: admin.groups(GROUP, leases=True))
            assert len(group.topics[0].leases) == 3
            assert [client.type for client in await asked(lambda admin: admin.clients(GROUP))] == ["PUSH_CONSUMER"]

    run(scenario())


def test_changes(make: Maker, run: Run) -> None:
    """Topics and groups are made, changed and deleted; each argument arrives."""

    async def scenario() -> None:
        async with a_server(make) as asked:
            port = asked.rig.admin
            await asked(lambda admin: admin.put_topic("t", "FIFO", 4, must_exist=True))
            await asked(lambda admin: admin.put_group("g", 3, [10, 20], orderly=True, must_exist=True))
            await asked(lambda admin: admin.delete_topic("t"))
            await asked(lambda admin: admin.delete_group("g"))
            assert port.of("put_topic") == [("t", MessageType.FIFO, 4)]
            assert port.of("put_group") == [("g", 3, RetryPolicy((10, 20)), GroupFlags(orderly=True))]
            assert (port.of("delete_topic"), port.of("delete_group")) == ([("t",)], [("g",)])

    run(scenario())


def test_reset_offset(make: Maker, run: Run) -> None:
    """To the begin, the end or a time, 1970 included; none of them, or two, is invalid and asks nobody."""

    async def scenario() -> None:
        async with a_server(make) as asked:
            await asked(lambda admin: admin.reset_offset("g", "t", begin=True))
            await asked(lambda admin: admin.reset_offset("g", "t", end=True))
            await asked(lambda admin: admin.reset_offset("g", "t", time_ms=0))
            starts = [call[2] for call in asked.rig.admin.of("reset_offset")]
            assert starts == [Start(), Start(end=True), Start(time_ms=0)]
            error = await failure(asked.endpoint, lambda admin: admin.reset_offset("g", "t"))
            assert error.kind == "invalid"
            error = await failure(asked.endpoint, lambda admin: admin.reset_offset("g", "t", begin=True, time_ms=1))
            assert (error.kind, len(asked.rig.admin.of("reset_offset"))) == ("invalid", 3)

    run(scenario())


def test_messages(make: Maker, run: Run) -> None:
    """They are peeked at page by page, found, listed as dead letters and replayed."""

    async def scenario() -> None:
        async with a_server(make) as asked:
            asked.rig.admin.arrive(kept(0), kept(1), kept(0, 1))
            page = await asked(lambda admin: admin.peek(TOPIC, limit=2))
            rest = await asked(lambda admin: admin.peek(TOPIC, page.next))
            assert [(m.queue_id, m.offset) for m in (*page.messages, *rest.messages)] == [(0, 0), (1, 0), (0, 1)]
            assert not (await asked(lambda admin: admin.peek(TOPIC, from_end=True))).messages
            await asked(lambda admin: admin.peek(TOPIC, from_ms=5, filter="red", wait_ms=1))
            assert (TOPIC, Start(time_ms=5), 32, by_tag("red")) in asked.rig.admin.of("peek")
            assert [m.offset for m in await asked(lambda admin: admin.find(TOPIC, key="k"))] == [3]
            assert [m.topic for m in await asked(lambda admin: admin.dead_letters("g"))] == ["%DLQ%g"]
            assert await asked(lambda admin: admin.replay("g", ["id-1"])) == 4
            assert [t.number for t in await asked(lambda admin: admin.timers(TOPIC))] == [5, 7]
            assert [t.number for t in await asked(lambda admin: admin.timers(number=0))] == [0]
            await asked(lambda admin: admin.cancel_timer(8))
            assert asked.rig.admin.of("cancel_timer") == [(8,)]
            assert [t.number for t in await asked(lambda admin: admin.transactions(TOPIC, parked=True))] == [5, 7]
            assert [t.number for t in await asked(lambda admin: admin.transactions(number=0))] == [0]
            await asked(lambda admin: admin.resolve_transaction(8, commit=True))
            assert asked.rig.admin.of("end_transaction") == [(8, True)]

    run(scenario())


def test_waiting_for_a_message(make: Maker, run: Run) -> None:
    """The time to wait comes on top of the client's own limit."""

    async def scenario() -> None:
        async with a_server(make) as asked:

            def tail(admin: AdminClient) -> list[int]:
                return [message.offset for message in admin.peek(TOPIC, wait_ms=20_000).messages]

            waiting = asyncio.ensure_future(ask(asked.endpoint, tail, timeout_s=0.1))
            await asked.rig.admin.until(lambda: asked.rig.admin.watchers)
            loop = asyncio.get_running_loop()
            loop.call_later(0.2, asked.rig.admin.arrive, kept(0))  # later than the client's own 0.1 s
            assert await waiting == [0]

    run(scenario())


def test_sending(make: Maker, run: Run) -> None:
    """A message as any producer sends it, with all its labels; two have two ids."""

    async def scenario() -> None:
        async with a_server(make) as asked:
            sent = await asked(
                lambda admin: admin.send(TOPIC, b"x", "red", ["k1", "k2"], {"colour": "blue"}, "mg", NOW_MS + 1500)
            )
            plain = await asked(lambda admin: admin.send(TOPIC, b"y"))
            message, second = asked.rig.broker.stored
            assert (message.topic, message.body, sent.offset, plain.offset) == (TOPIC, b"x", 0, 1)
            stored = decode_properties(message.properties)
            assert (stored["TAGS"], stored["KEYS"], stored["colour"]) == ("red", "k1 k2", "blue")
            assert (stored["__SHARDINGKEY"], stored["TIMER_DELIVER_MS"]) == ("mg", str(NOW_MS + 1500))
            assert stored["UNIQ_KEY"] == sent.message_id != plain.message_id
            assert {"TAGS", "KEYS", "__SHARDINGKEY", "TIMER_DELIVER_MS"}.isdisjoint(
                decode_properties(second.properties)
            )
            assert not asked.rig.sessions.clients()

    run(scenario())


SENDS = [
    (Code.TOPIC_NOT_FOUND, "not_found"),
    (Code.FORBIDDEN, "failed"),
    (Code.ILLEGAL_TOPIC, "invalid"),
    (Code.MESSAGE_PROPERTY_CONFLICT_WITH_TYPE, "invalid"),
    (Code.TOO_MANY_REQUESTS, "busy"),
    (Code.INTERNAL_SERVER_ERROR, "failed"),
]


@pytest.mark.parametrize(("code", "kind"), SENDS, ids=[s[0].name for s in SENDS])
def test_sends_that_are_refused(make: Maker, run: Run, code: Code, kind: str) -> None:
    """The code inside the answer becomes the error's kind, its text stays."""

    async def scenario() -> None:
        async with a_server(make) as asked:
            asked.rig.broker.answers["send"] = ClientError(code, "do this")
            error = await failure(asked.endpoint, lambda admin: admin.send(TOPIC, b"x"))
            assert (error.kind, error.text) == (kind, "do this")

    run(scenario())


def test_health(make: Maker, run: Run) -> None:
    """True as long as the server serves."""

    async def scenario() -> None:
        async with a_server(make) as asked:
            assert await asked(lambda admin: admin.health())
            asked.health.stop_serving()
            assert not await asked(lambda admin: admin.health())

    run(scenario())


def test_what_tests_need(make: Maker, run: Run) -> None:
    """Time moves, and everything goes."""

    async def scenario() -> None:
        async with a_server(make) as asked:
            assert await asked(lambda admin: admin.advance(500)) == NOW_MS + 500
            await asked(lambda admin: admin.reset())
            assert asked.rig.admin.of("reset") == [()]

    run(scenario())


def test_one_client_makes_many_calls(make: Maker, run: Run) -> None:
    """Over one connection, also after an error."""

    async def scenario() -> None:
        async with a_server(make) as asked:

            def use(admin: AdminClient) -> str:
                asked.rig.admin.answers["topic"] = NO_TOPIC
                with pytest.raises(AdminError):
                    admin.topics("nowhere")
                return admin.describe().version

            assert await asked(use) == "9.9"
            assert len({call.peer for call in asked.server.gate.calls}) == 1

    run(scenario())


def test_proxies_of_the_environment_are_not_asked(make: Maker, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker on this machine is reached, whatever http_proxy says."""
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)

    async def scenario() -> None:
        async with a_server(make) as asked:
            assert await asked(lambda admin: admin.health())

    run(scenario())


def test_ipv6(make: Maker, run: Run) -> None:
    """An address in brackets with a port."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")

    async def scenario() -> None:
        rig = AdminRig()
        async with serving(make, *rig.admin_rows.values(), hosts=["::1"]) as server:
            assert (await ask(f"[::1]:{server.port}", lambda admin: admin.describe())).version == "9.9"

    run(scenario())


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("localhost", "localhost", 8081),
        ("broker-1.example_x:99", "broker-1.example_x", 99),
        ("10.0.0.1:1", "10.0.0.1", 1),
        ("[::1]:9000", "::1", 9000),
        ("[::1]", "::1", 8081),
        ("2001:db8::7", "2001:db8::7", 8081),
        ("fe80::1%eth0", "fe80::1%eth0", 8081),
    ],
)
def test_endpoints(text: str, host: str, port: int) -> None:
    """HOST, HOST:PORT, and IPv6 addresses with brackets or without; 8081 where no port is named."""
    assert split_endpoint(text) == (host, port)


@pytest.mark.parametrize(
    "text",
    ["", ":8081", "http://localhost:8081", "a b", "h:", "h:x", "h:0", "h:65536", "[::1", "[h]x:1", "a:1,b:2", "::1:x"],
)
def test_what_is_no_endpoint(text: str) -> None:
    """`invalid`, before anything is opened, and an example of one."""
    with pytest.raises(AdminError, match="write HOST:PORT, such as localhost:8081") as caught:
        AdminClient(text)
    assert caught.value.kind == "invalid"


def test_grpc_is_imported_late() -> None:
    """Whoever only names the client does not pay for grpc."""
    code = "import sys, rmq_proxy.admin_client; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_an_old_answer_to_a_send(make: Maker, run: Run) -> None:
    """A refusal without a text is told by its number."""

    async def scenario() -> None:
        refusal = v2.SendMessageResponse()
        refusal.status.code = 50_400
        row = Row(SEND, Kind.UNARY, lambda call, request: refusal.SerializeToString())
        async with serving(make, row) as server:
            error = await failure(f"127.0.0.1:{server.port}", lambda admin: admin.send("t", b"x"))
            assert (error.kind, error.text) == ("failed", "the server answered 50400")

    run(scenario())
