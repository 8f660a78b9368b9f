"""The admin service on every transport: what each method asks of the broker, what it answers, what it refuses."""

import asyncio
from typing import cast

import pytest
from google.protobuf.message import Message

from rmq.adminport import AdminPort, GroupInfo, Start
from rmq.config import AS_IS, GroupFlags
from rmq.errors import ClientError, Code
from rmq.message import MessageType
from rmq.retry import RetryPolicy
from rmq_proto import admin as pb
from rmq_proto import v2
from rmq_proxy import adminconvert as convert
from rmq_proxy.admin import NAME, is_local
from rmq_proxy.adminclients import CLIENTS_MAX
from rmq_proxy.rpc import Call, GrpcCode, RpcError, Unary
from tests.proxy.admin_rig import (
    FACTS,
    NO_GROUP,
    NO_TIMER,
    NO_TOPIC,
    NO_TRANSACTION,
    PREFIX,
    STORE,
    AdminRig,
    FakeAdmin,
    Run,
    an_admin,
    kept,
)
from tests.proxy.rig import CLIENT, GROUP, NOW_MS, TOPIC, a_call, publishing, subscribing
from tests.proxy.transports import Maker, status_of

MISSING = [
    ("PutTopic", pb.PutTopicRequest(name="new", must_exist=True), "topic", NO_TOPIC),
    ("PutGroup", pb.PutGroupRequest(name="new", must_exist=True), "group_info", NO_GROUP),
    ("ListTopics", pb.ListTopicsRequest(name="nowhere"), "topic", NO_TOPIC),
    ("ListGroups", pb.ListGroupsRequest(name="nobody"), "group_info", NO_GROUP),
    ("DeleteTopic", pb.DeleteTopicRequest(name="nowhere"), "delete_topic", NO_TOPIC),
    ("DeleteGroup", pb.DeleteGroupRequest(name="nobody"), "delete_group", NO_GROUP),
    ("ResetOffset", pb.ResetOffsetRequest(group=GROUP, topic=TOPIC, begin=True), "reset_offset", NO_TOPIC),
    ("Peek", pb.PeekRequest(topic="nowhere"), "peek", NO_TOPIC),
    ("FindMessages", pb.FindMessagesRequest(topic="nowhere", key="k"), "find", NO_TOPIC),
    ("ListDeadLetters", pb.ListDeadLettersRequest(group="nobody"), "dead_letters", NO_GROUP),
    ("ReplayDeadLetters", pb.ReplayDeadLettersRequest(group="nobody"), "replay", NO_GROUP),
    ("ListTimers", pb.ListTimersRequest(number=9), "timer", NO_TIMER),
    ("CancelTimer", pb.CancelTimerRequest(number=9), "cancel_timer", NO_TIMER),
    ("ListTransactions", pb.ListTransactionsRequest(number=9), "transaction", NO_TRANSACTION),
    ("ResolveTransaction", pb.ResolveTransactionRequest(number=9), "end_transaction", NO_TRANSACTION),
    ("ListClients", pb.ListClientsRequest(group="nobody"), "group_info", NO_GROUP),
    ("VerifyMessage", pb.VerifyMessageRequest(group="nobody"), "group_info", NO_GROUP),
]
WRONG: list[tuple[str, Message, str]] = [
    ("PutTopic", pb.PutTopicRequest(name="a b"), "illegal characters"),
    (
        "PutTopic",
        pb.PutTopicRequest(name="t", type="fifo"),
        "choose NORMAL, FIFO, DELAY, TRANSACTION, PRIORITY, LITE or MIXED",
    ),
    ("PutTopic", pb.PutTopicRequest(name="t", queues=-1), "queues is -1"),
    ("PutGroup", pb.PutGroupRequest(name=""), "blank"),
    ("PutGroup", pb.PutGroupRequest(name="g", attempts_max=1001), "1 to 1000"),
    ("PutGroup", pb.PutGroupRequest(name="g", retry_ms=[1000, 0]), "up to 64 numbers from 1"),
    ("PutGroup", pb.PutGroupRequest(name="g", retry_ms=[1] * 65), "up to 64 numbers from 1"),
    ("PutGroup", pb.PutGroupRequest(name="g", retry_ms=[1], backoff=pb.Backoff()), "exclude each other"),
    ("PutGroup", pb.PutGroupRequest(name="g", backoff=pb.Backoff(initial_ms=2, max_ms=1)), "from initial_ms to max_ms"),
    ("PutGroup", pb.PutGroupRequest(name="g", backoff=pb.Backoff(max_ms=1, multiplier=1)), "from initial_ms to max_ms"),
    (
        "PutGroup",
        pb.PutGroupRequest(name="g", backoff=pb.Backoff(initial_ms=1, max_ms=1, multiplier=0.5)),
        "multiplier is 0.5, it takes 1 to 100",
    ),
    ("DeleteTopic", pb.DeleteTopicRequest(), "name a topic"),
    ("DeleteGroup", pb.DeleteGroupRequest(name=" "), "name a group"),
    ("ResetOffset", pb.ResetOffsetRequest(group="g", topic="t"), "begin, end or time_ms"),
    ("ResetOffset", pb.ResetOffsetRequest(group="g", topic="t", time_ms=-1), "time_ms cannot be negative"),
    ("Peek", pb.PeekRequest(), "name a topic"),
    ("Peek", pb.PeekRequest(topic="t", limit=1001), "give 1 to 1000, or 0 for 32"),
    ("Peek", pb.PeekRequest(topic="t", limit=-1), "give 1 to 1000, or 0 for 32"),
    ("Peek", pb.PeekRequest(topic="t", wait_ms=-1), "wait_ms cannot be negative"),
    ("Peek", pb.PeekRequest(topic="t", from_begin=True, from_end=True), "exclude each other"),
    ("Peek", pb.PeekRequest(topic="t", offsets={0: 1}, from_ms=5), "exclude each other"),
    ("Peek", pb.PeekRequest(topic="t", offsets={0: -1}), "offset cannot be negative"),
    ("FindMessages", pb.FindMessagesRequest(topic="t"), "message_id or key"),
    ("FindMessages", pb.FindMessagesRequest(topic="t", key="k", message_id="m"), "message_id or key"),
    ("Advance", pb.AdvanceRequest(ms=-1), "only moves forward"),
]


def test_the_fake_is_a_port() -> None:
    """What these tests stand on has the port's methods."""
    port: AdminPort = FakeAdmin()
    assert port.describe() == STORE


def test_every_method_of_the_protocol_is_served() -> None:
    """The rows are the methods that admin.proto lists."""
    methods = pb.POOL.FindServiceByName(NAME).methods_by_name
    assert sorted(AdminRig().admin_rows) == sorted(f"/{NAME}/{method}" for method in methods)


def test_describe(make: Maker, run: Run) -> None:
    """What node knows, what the store says, and how many clients live."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            admin.rig.tell(subscribing(TOPIC))
            server = await admin.ask("Describe", pb.DescribeRequest(), pb.Server.FromString)
            assert (server.version, server.pid, server.data, server.flush) == ("9.9", 4321, "/data", "fast")
            assert (server.started_ms, server.now_ms) == (FACTS.started_ms, NOW_MS)
            assert (server.log_end, server.waiting_polls, server.clients) == (5000, 3, 1)
            assert (server.damaged, server.set_aside_bytes) == (5, 600)
            assert server.manual_clock

    run(scenario())


def test_topics(make: Maker, run: Run) -> None:
    """All, or one by name, with type, queues and groups."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            admin.port.arrive(kept(0), kept(1))
            for name in ("", TOPIC):
                request = pb.ListTopicsRequest(name=name)
                (topic,) = (await admin.ask("ListTopics", request, pb.ListTopicsResponse.FromString)).topics
                assert (topic.name, topic.type, list(topic.groups)) == (TOPIC, "FIFO", [GROUP])
                assert [(queue.id, queue.max_offset) for queue in topic.queues] == [(0, 2), (1, 0)]
            assert len(admin.port.of("topics")) == 1

    run(scenario())


def test_putting_a_topic(make: Maker, run: Run) -> None:
    """Type and number of queues go to the broker, none where none was given; its answer may take its time."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            for request in (pb.PutTopicRequest(name="new"), pb.PutTopicRequest(name="new", type="MIXED", queues=3)):
                await admin.ask("PutTopic", request, pb.Topic.FromString)
            assert admin.port.of("put_topic") == [("new", None, 0), ("new", MessageType.MIXED, 3)]
            late = asyncio.get_running_loop().create_future()
            admin.port.answers["put_topic"] = late
            asyncio.get_running_loop().call_later(0.01, late.set_result, admin.port.topic("new"))
            assert (await admin.ask("PutTopic", request, pb.Topic.FromString)).name == TOPIC

    run(scenario())


def test_deleting(make: Maker, run: Run) -> None:
    """A topic or a group by name."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            await admin.ask("DeleteTopic", pb.DeleteTopicRequest(name="old"), pb.DeleteTopicResponse.FromString)
            await admin.ask("DeleteGroup", pb.DeleteGroupRequest(name="%x"), pb.DeleteGroupResponse.FromString)
            assert (admin.port.of("delete_topic"), admin.port.of("delete_group")) == ([("old",)], [("%x",)])

    run(scenario())


def test_must_be_new(make: Maker, run: Run) -> None:
    """ALREADY_EXISTS for what is there; what is not there is made."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            topic, group = (
                pb.PutTopicRequest(name="t", must_be_new=True),
                pb.PutGroupRequest(name="g", must_be_new=True),
            )
            assert (await admin.refused("PutTopic", topic))[0] == "ALREADY_EXISTS"
            assert "group g is there already" in (await admin.refused("PutGroup", group))[1]
            assert not admin.port.of("put_topic") + admin.port.of("put_group")
            admin.port.answers |= {"topic": NO_TOPIC, "group_info": NO_GROUP}
            await admin.ask("PutTopic", topic, pb.Topic.FromString)
            await admin.ask("PutGroup", group, pb.Group.FromString)
            assert admin.port.of("put_topic") == [("t", None, 0)]

    run(scenario())


def test_must_exist(make: Maker, run: Run) -> None:
    """What is there is changed."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            await admin.ask("PutTopic", pb.PutTopicRequest(name="t", must_exist=True, queues=9), pb.Topic.FromString)
            assert admin.port.of("put_topic") == [("t", None, 9)]

    run(scenario())


def test_groups(make: Maker, run: Run) -> None:
    """Lag, places, retries and clients; open messages only where they are asked for."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            for request, leases in (
                (pb.ListGroupsRequest(), 0),
                (pb.ListGroupsRequest(name=GROUP), 0),
                (pb.ListGroupsRequest(leases=True), 3),
            ):
                (group,) = (await admin.ask("ListGroups", request, pb.ListGroupsResponse.FromString)).groups
                assert (group.name, group.attempts_max, list(group.retry_ms)) == (GROUP, 17, [1000, 5000])
                (topic,) = group.topics
                assert (topic.lag_messages, topic.lag_ms, topic.ready, topic.waiting_polls) == (12, 3400, 1, 2)
                assert [(place.next_offset, place.committed_offset) for place in topic.places] == [(5, 3)]
                assert [lease.message_id for lease in topic.leases] == [f"id-0-{at}" for at in range(leases)]
                assert list(group.clients) == [CLIENT]

    run(scenario())


def test_leases_are_bounded(make: Maker, run: Run) -> None:
    """An answer holds 1000 of them, those of all groups together."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            admin.port.answers["groups"] = [admin.port.group_info(name) for name in ("a", "b", "c")]
            admin.port.open_count = 700
            request = pb.ListGroupsRequest(leases=True)
            groups = (await admin.ask("ListGroups", request, pb.ListGroupsResponse.FromString)).groups
            assert [len(group.topics[0].leases) for group in groups] == [700, 300, 0]

    run(scenario())


def test_putting_a_group(make: Maker, run: Run) -> None:
    """Attempts and back-off go to the broker, nothing where nothing was given."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            await admin.ask("PutGroup", pb.PutGroupRequest(name="g"), pb.Group.FromString)
            full = pb.PutGroupRequest(name="g", attempts_max=3, retry_ms=[10, 20])
            assert (await admin.ask("PutGroup", full, pb.Group.FromString)).name == "g"
            growing = pb.PutGroupRequest(name="g", backoff=pb.Backoff(initial_ms=10, max_ms=500, multiplier=3))
            growing.orderly, growing.lite_exclusive = False, True
            await admin.ask("PutGroup", growing, pb.Group.FromString)
            assert admin.port.of("put_group") == [
                ("g", 0, None, AS_IS),
                ("g", 3, RetryPolicy((10, 20)), AS_IS),
                ("g", 0, RetryPolicy((), 10, 500, 3.0), GroupFlags(orderly=False, lite_exclusive=True)),
            ]

    run(scenario())


def test_resetting_an_offset(make: Maker, run: Run) -> None:
    """To the begin, the end, or a time."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            for request in (
                pb.ResetOffsetRequest(group="g", topic="t", begin=True),
                pb.ResetOffsetRequest(group="g", topic="t", end=True),
                pb.ResetOffsetRequest(group="g", topic="t", time_ms=0),
            ):
                await admin.ask("ResetOffset", request, pb.Group.FromString)
            starts = [call[2] for call in admin.port.of("reset_offset")]
            assert starts == [Start(), Start(end=True), Start(time_ms=0)]

    run(scenario())


@pytest.mark.parametrize(("method", "request_", "verb", "error"), MISSING, ids=[m[0] for m in MISSING])
def test_what_is_not_there(
    make: Maker, run: Run, method: str, request_: Message, verb: str, error: ClientError
) -> None:
    """NOT_FOUND with the broker's own words."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            admin.port.answers[verb] = error
            assert await admin.refused(method, request_) == ("NOT_FOUND", error.text)

    run(scenario())


@pytest.mark.parametrize(("method", "request_", "text"), WRONG, ids=[f"{w[0]}-{w[2]}" for w in WRONG])
def test_what_is_wrong(make: Maker, run: Run, method: str, request_: Message, text: str) -> None:
    """INVALID_ARGUMENT with what to do, before the broker is asked."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            code, told = await admin.refused(method, request_)
            assert (code, admin.port.calls) == ("INVALID_ARGUMENT", [])
            assert text in told

    run(scenario())


CODES = [
    (Code.BAD_REQUEST, "INVALID_ARGUMENT"),
    (Code.ILLEGAL_TOPIC, "INVALID_ARGUMENT"),
    (Code.UNAUTHORIZED, "UNAUTHENTICATED"),
    (Code.FORBIDDEN, "FAILED_PRECONDITION"),
    (Code.MESSAGE_NOT_FOUND, "NOT_FOUND"),
    (Code.PRECONDITION_FAILED, "FAILED_PRECONDITION"),
    (Code.TOO_MANY_REQUESTS, "RESOURCE_EXHAUSTED"),
    (Code.NOT_IMPLEMENTED, "FAILED_PRECONDITION"),
    (Code.INTERNAL_SERVER_ERROR, "INTERNAL"),
]


@pytest.mark.parametrize(("code", "status"), CODES, ids=[c[0].name for c in CODES])
def test_codes_become_statuses(make: Maker, run: Run, code: Code, status: str) -> None:
    """Every error of the broker has its gRPC status, whether it comes at once or later; its text stays."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            admin.port.answers["reset"] = ClientError(code, "do this")
            assert await admin.refused("Reset", pb.ResetRequest()) == (status, "do this")
            late = asyncio.get_running_loop().create_future()
            late.set_exception(ClientError(code, "do that"))
            admin.port.answers["reset"] = late
            assert await admin.refused("Reset", pb.ResetRequest()) == (status, "do that")

    run(scenario())


def test_a_bug_is_internal(make: Maker, run: Run) -> None:
    """What is no ClientError is INTERNAL and tells nothing, at once or later."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            late = asyncio.get_running_loop().create_future()
            late.set_exception(ZeroDivisionError("secret"))
            for broken in (ZeroDivisionError("secret"), late):
                admin.port.answers["reset"] = broken
                code, text = await admin.refused("Reset", pb.ResetRequest())
                assert (code, "secret" in text) == ("INTERNAL", False)

    run(scenario())


def test_garbage_is_refused(make: Maker, run: Run) -> None:
    """A request that is no protobuf is INVALID_ARGUMENT."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            code, _ = await status_of(admin.server.unary(PREFIX + "Describe", b"\xff\xff"))
            assert code == GrpcCode.INVALID_ARGUMENT

    run(scenario())


def test_clients(make: Maker, run: Run) -> None:
    """Consumers and producers with what they said of themselves, and how long they have been silent."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            rig, wanted = admin.rig, subscribing(TOPIC, expression="red || blue")
            wanted.user_agent.language, wanted.user_agent.version = v2.JAVA, "5.0.7"
            rig.tell(wanted, a_call())
            spoken = a_call(client_id="p", x_mq_language="GO", x_mq_client_version="5.1")
            inlet, _ = rig.stream(spoken)
            rig.tell(publishing("b", "a"), spoken)
            inlet.closed()
            rig.sessions.adopt("second", "quiet")
            rig.clock.now_s += 1.5
            answer = await admin.ask("ListClients", pb.ListClientsRequest(), pb.ListClientsResponse.FromString)
            consumer, producer, quiet = answer.clients
            assert (consumer.client_id, consumer.type, consumer.language) == (CLIENT, "PUSH_CONSUMER", "JAVA")
            assert (consumer.version, consumer.peer, consumer.stream) == ("5.0.7", "10.1.2.3:5555", True)
            assert (list(consumer.groups), dict(consumer.subscriptions)) == ([GROUP], {TOPIC: "red || blue"})
            assert (consumer.silent_ms, consumer.leases) == (1500, 2)
            assert (producer.type, producer.language, producer.version) == ("PRODUCER", "GO", "5.1")
            assert (list(producer.topics), producer.leases) == (["a", "b"], 0)
            assert (quiet.type, quiet.language, quiet.stream, quiet.peer) == ("", "", False, "")
            of_group = pb.ListClientsRequest(group="second")
            answer = await admin.ask("ListClients", of_group, pb.ListClientsResponse.FromString)
            assert [client.client_id for client in answer.clients] == ["quiet"]

    run(scenario())


def test_clients_are_bounded(make: Maker, run: Run) -> None:
    """An answer holds 1000 clients, the first by id, and says how many it leaves out."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            for number in reversed(range(CLIENTS_MAX + 2)):
                admin.rig.sessions.adopt(GROUP, f"{number:06}")
            answer = await admin.ask("ListClients", pb.ListClientsRequest(), pb.ListClientsResponse.FromString)
            assert (len(answer.clients), answer.clients[-1].client_id, answer.left_out) == (1000, "000999", 2)

    run(scenario())


def test_what_tests_need(make: Maker, run: Run) -> None:
    """Time moves by milliseconds, and everything can go."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            answer = await admin.ask("Advance", pb.AdvanceRequest(ms=500), pb.AdvanceResponse.FromString)
            assert answer.now_ms == NOW_MS + 500
            await admin.ask("Reset", pb.ResetRequest(), pb.ResetResponse.FromString)
            assert admin.port.of("reset") == [()]

    run(scenario())


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        ("127.0.0.1:5", True),
        ("127.8.9.1:5", True),
        ("[::1]:5", True),
        ("[::ffff:127.0.0.1]:5", True),
        ("10.1.2.3:5", False),
        ("[::ffff:10.1.2.3]:5", False),
        ("[2001:db8::1]:5", False),
        ("[fe80::1%eth0]:5", False),
        ("localhost:5", False),
        ("", False),
        ("unix", False),
    ],
)
def test_who_is_local(peer: str, local: bool) -> None:
    """Loopback addresses of both families, and nobody else, not even who cannot be told."""
    assert is_local(peer) is local


@pytest.mark.parametrize("method", ["Describe", "Reset", "Peek"])
def test_peers_from_afar(method: str) -> None:
    """PERMISSION_DENIED that names the setting, before the request is read; with the setting they are served."""
    call = Call("10.1.2.3:5555", {})
    handler = cast("Unary", AdminRig().admin_rows[PREFIX + method].handler)
    with pytest.raises(RpcError) as caught:
        handler(call, b"\xff\xff")
    assert caught.value.code is GrpcCode.PERMISSION_DENIED
    assert "admin_remote: true" in caught.value.text
    open_handler = cast("Unary", AdminRig(remote=True).admin_rows[PREFIX + "Describe"].handler)
    assert open_handler(call, b"")


def test_a_group_shows_pauses_or_how_they_grow() -> None:
    """Never both."""
    steps = convert.group(GroupInfo("g", 3, RetryPolicy((10, 20)), [], []))
    assert (list(steps.retry_ms), steps.HasField("backoff")) == ([10, 20], False)
    growing = convert.group(GroupInfo("g", 3, RetryPolicy((), 10, 500, 3.0), [], [], GroupFlags(orderly=True)))
    assert (steps.orderly, growing.orderly, growing.lite_exclusive) == (False, True, False)
    assert (list(growing.retry_ms), growing.backoff) == ([], pb.Backoff(initial_ms=10, max_ms=500, multiplier=3))
