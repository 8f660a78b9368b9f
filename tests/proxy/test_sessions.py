"""Who is connected: heartbeats, silence, goodbyes, and clients that outlive a restart of the server."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest

from rmq.errors import ClientError, Code
from rmq_proto import v2
from rmq_proxy.rpc import GrpcCode
from rmq_proxy.validate import Limits
from tests.proxy.rig import (
    CLIENT,
    GROUP,
    TOPIC,
    Rig,
    a_call,
    a_message,
    acking,
    publishing,
    receiving,
    sending,
    settings_command,
    subscribing,
)

Act: TypeAlias = Callable[[Rig], object]


def beating(client_type: int = v2.PUSH_CONSUMER, group: str | None = GROUP) -> v2.HeartbeatRequest:
    """A heartbeat."""
    request = v2.HeartbeatRequest()
    request.client_type = client_type
    if group is not None:
        request.group.name = group
    return request


def beat(rig: Rig, request: v2.HeartbeatRequest, client_id: str = CLIENT) -> int:
    """The code that it is answered with."""
    answer = rig.ask(v2.HeartbeatResponse.FromString, "Heartbeat", request, a_call(client_id=client_id))
    return answer.status.code


def leaving(group: str | None = GROUP) -> v2.NotifyClientTerminationRequest:
    """A goodbye."""
    request = v2.NotifyClientTerminationRequest()
    if group is not None:
        request.group.name = group
    return request


def leave(rig: Rig, request: v2.NotifyClientTerminationRequest) -> int:
    """The code that it is answered with."""
    return rig.ask(v2.NotifyClientTerminationResponse.FromString, "NotifyClientTermination", request).status.code


def pass_time(rig: Rig, seconds: float) -> None:
    """Moves the clock, and lets the sessions look at it."""
    rig.clock.now_s += seconds
    rig.sessions.tick(rig.clock.now_s)


def test_silence() -> None:
    """A consumer that has been silent for 120 s is offline, once; its producers' topics are forgotten too."""
    rig = Rig()
    rig.tell(subscribing(TOPIC))
    rig.tell(publishing(TOPIC), a_call(client_id="producer"))
    pass_time(rig, 119.9)
    assert not rig.broker.of("offline")
    pass_time(rig, 5.1)
    assert rig.broker.of("offline") == [(GROUP, CLIENT)]
    assert rig.sessions.producers_of(TOPIC) == ()
    assert len(rig.sessions) == 0
    pass_time(rig, 200)
    assert len(rig.broker.of("offline")) == 1


@pytest.mark.parametrize("gone", ["goodbye", "silence"])
def test_the_streams_of_a_client_that_is_gone(gone: str) -> None:
    """Java's end, all of them; any other SDK's stay, since it would not open them again."""
    rig = Rig()
    calls = {name: a_call(client_id=name, x_mq_language=name) for name in ("JAVA", "GO", "PYTHON", "HTTP")}
    streams = {name: [rig.stream(call) for _ in range(2)] for name, call in calls.items()}
    for inlet, _ in (stream for several in streams.values() for stream in several):
        inlet.message(settings_command(subscribing(TOPIC)))
    if gone == "silence":
        pass_time(rig, 125)
    else:
        for call in calls.values():
            rig.unary("NotifyClientTermination", leaving(), call)
    assert len(rig.sessions) == 0
    ended = {name: [outlet.ended for _, outlet in several] for name, several in streams.items()}
    assert ended == {"JAVA": [(GrpcCode.OK, "")] * 2} | {name: [None] * 2 for name in ("GO", "PYTHON", "HTTP")}


@pytest.mark.parametrize(("language", "known_again"), [("JAVA", False), ("GO", True)])
def test_settings_after_a_goodbye(language: str, known_again: bool) -> None:
    """Java's SDK sends them though it is closed: its stream ends, it stays unknown, for a minute. Others' ids may be
    used again.
    """
    rig = Rig()
    call = a_call(x_mq_language=language)
    rig.unary("NotifyClientTermination", leaving(), call)
    inlet, outlet = rig.stream(call)
    inlet.message(settings_command(publishing(TOPIC)))
    assert (outlet.ended is None, bool(outlet.written)) == (known_again, known_again)
    assert bool(rig.sessions.producers_of(TOPIC)) is known_again
    pass_time(rig, 61)
    inlet, outlet = rig.stream(call)
    inlet.message(settings_command(publishing(TOPIC)))
    assert outlet.ended is None
    assert rig.sessions.producers_of(TOPIC) == (CLIENT,)


def test_the_goodbyes_that_are_remembered() -> None:
    """As many as there may be clients: of more, the oldest is forgotten; who says it again is the latest."""
    rig = Rig(limits=Limits(clients_max=2))
    for client_id in ("a", "b", "a", "c"):
        rig.unary("NotifyClientTermination", leaving(None), a_call(client_id=client_id))
    assert [rig.sessions.has_left(client_id) for client_id in "abc"] == [True, False, True]


SIGNS: list[tuple[str, Act]] = [
    ("heartbeat", lambda rig: beat(rig, beating())),
    ("receive", lambda rig: rig.receive(receiving())),
    ("send", lambda rig: rig.unary("SendMessage", sending(a_message()))),
    ("ack", lambda rig: rig.unary("AckMessage", acking("h"))),
    ("settings", lambda rig: rig.tell(subscribing(TOPIC))),
    ("a call that is refused", lambda rig: rig.receive(receiving(batch=0))),
]


@pytest.mark.parametrize("act", [s[1] for s in SIGNS], ids=[s[0] for s in SIGNS])
def test_signs_of_life(act: Act) -> None:
    """Any call of a client keeps it alive for another 120 s."""
    rig = Rig()
    rig.tell(subscribing(TOPIC))
    pass_time(rig, 100)
    act(rig)
    pass_time(rig, 100)
    assert not rig.broker.of("offline")
    pass_time(rig, 25)
    assert rig.broker.of("offline") == [(GROUP, CLIENT)]


def test_scan_interval() -> None:
    """However often tick is called, clients are looked through every 5 s at the most."""
    rig = Rig()
    rig.tell(subscribing(TOPIC))
    pass_time(rig, 119)
    pass_time(rig, 2)
    assert not rig.broker.of("offline")
    pass_time(rig, 3)
    assert rig.broker.of("offline")


def test_adopted_client() -> None:
    """A client whose leases were found at the start has 120 s to be heard of, and none is announced twice."""
    rig = Rig()
    rig.sessions.adopt(GROUP, "silent")
    rig.sessions.adopt(GROUP, CLIENT)
    rig.sessions.adopt("second-group", CLIENT)
    assert not rig.broker.calls
    pass_time(rig, 100)
    assert beat(rig, beating()) == Code.OK.value
    assert not rig.broker.of("online")
    pass_time(rig, 25)
    assert rig.broker.of("offline") == [(GROUP, "silent")]
    pass_time(rig, 100)
    assert sorted(rig.broker.of("offline")[1:], key=str) == [(GROUP, CLIENT), ("second-group", CLIENT)]


def test_heartbeat_after_a_restart() -> None:
    """A consumer whose settings are not here is accepted and announced; a producer is accepted."""
    rig = Rig()
    assert beat(rig, beating()) == Code.OK.value
    assert rig.broker.of("online") == [(GROUP, CLIENT, {})]
    assert beat(rig, beating()) == Code.OK.value
    assert len(rig.broker.of("online")) == 1
    assert beat(rig, beating(v2.PRODUCER, None), "producer") == Code.OK.value
    assert beat(rig, beating(v2.PULL_CONSUMER), "puller") == Code.OK.value
    assert beat(rig, beating(v2.SIMPLE_CONSUMER, None), "groupless") == Code.OK.value
    assert len(rig.broker.of("online")) == 2


@pytest.mark.parametrize("client_type", [v2.CLIENT_TYPE_UNSPECIFIED, 77, -1])
def test_heartbeat_of_nobody(client_type: int) -> None:
    """A client that is unknown and does not say what it is gets 40015; with settings its type does not matter."""
    rig = Rig()
    assert beat(rig, beating(client_type)) == Code.UNRECOGNIZED_CLIENT_TYPE.value
    rig.tell(publishing(TOPIC))
    assert beat(rig, beating(client_type)) == Code.OK.value


def test_heartbeat_of_a_bad_group() -> None:
    """An illegal group is 40003; one that the broker refuses has its code, at once or later."""
    rig = Rig()
    assert beat(rig, beating(group="a b")) == Code.ILLEGAL_CONSUMER_GROUP.value
    rig.broker.answers["online"] = ClientError(Code.CONSUMER_GROUP_NOT_FOUND, "create it")
    assert beat(rig, beating()) == Code.CONSUMER_GROUP_NOT_FOUND.value


def test_late_refusal_of_a_heartbeat(run: Callable[[Awaitable[None]], None]) -> None:
    """Where the broker takes its time its refusal comes all the same."""

    async def scenario() -> None:
        rig = Rig()
        known: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        rig.broker.answers["online"] = known
        answer = rig.unary("Heartbeat", beating())
        assert isinstance(answer, asyncio.Future)
        known.set_exception(ClientError(Code.CONSUMER_GROUP_NOT_FOUND, "create it"))
        assert v2.HeartbeatResponse.FromString(await answer).status.code == 40403

    run(scenario())


def test_goodbye() -> None:
    """A consumer that says goodbye is offline at once and forgotten."""
    rig = Rig()
    rig.tell(subscribing(TOPIC))
    assert leave(rig, leaving()) == Code.OK.value
    assert rig.broker.of("offline") == [(GROUP, CLIENT)]
    assert len(rig.sessions) == 0


def test_goodbye_without_a_group() -> None:
    """Without a group, or with Go's empty one, all of the client's groups are left."""
    for request in (leaving(None), leaving("")):
        rig = Rig()
        rig.receive(receiving())
        rig.receive(receiving(group="second"))
        assert leave(rig, request) == Code.OK.value
        assert rig.broker.of("offline") == [(GROUP, CLIENT), ("second", CLIENT)]


def test_goodbye_of_an_unknown_client() -> None:
    """Unknown clients are gone either way: OK; the group that one names is told to the broker."""
    rig = Rig()
    assert leave(rig, leaving(None)) == Code.OK.value
    assert not rig.broker.calls
    assert leave(rig, leaving()) == Code.OK.value
    assert rig.broker.of("offline") == [(GROUP, CLIENT)]


def test_goodbye_that_the_broker_refuses() -> None:
    """A group that is gone has nothing to release: OK."""
    rig = Rig()
    rig.tell(subscribing(TOPIC))
    rig.broker.answers["offline"] = ClientError(Code.CONSUMER_GROUP_NOT_FOUND, "gone")
    assert leave(rig, leaving()) == Code.OK.value


def test_goodbye_of_a_bad_group() -> None:
    """An illegal group is 40003, and the client stays."""
    rig = Rig()
    rig.tell(subscribing(TOPIC))
    assert leave(rig, leaving("a b")) == Code.ILLEGAL_CONSUMER_GROUP.value
    assert len(rig.sessions) == 1


def test_settings_replace_settings() -> None:
    """New settings of a consumer replace its subscriptions; another group means that the first is left."""
    rig = Rig()
    rig.tell(subscribing(TOPIC))
    rig.tell(subscribing("other"))
    topics = [set(call[2]) for call in rig.broker.of("online") if isinstance(call[2], dict)]
    assert topics == [{TOPIC}, {"other"}]
    assert not rig.broker.of("offline")
    rig.tell(subscribing(TOPIC, group="second"))
    assert rig.broker.of("offline") == [(GROUP, CLIENT)]


def test_producers_of_a_topic() -> None:
    """New settings of a producer replace its topics; the latest settings come last."""
    rig = Rig()
    for client_id in ("a", "b"):
        rig.tell(publishing(TOPIC, "other"), a_call(client_id=client_id))
    assert rig.sessions.producers_of(TOPIC) == ("a", "b")
    rig.tell(publishing(TOPIC), a_call(client_id="a"))
    assert rig.sessions.producers_of(TOPIC) == ("b", "a")
    assert rig.sessions.producers_of("other") == ("b",)
    assert rig.sessions.producers_of("unknown") == ()


def test_a_pull_consumer_gets_no_place_by_its_settings() -> None:
    """The broker hears that it lives, and of no topic: where it begins is its own choice; we know what it said."""
    rig = Rig()
    rig.tell(subscribing(TOPIC, client_type=v2.PULL_CONSUMER))
    assert rig.broker.of("online") == [(GROUP, CLIENT, {})]
    client = rig.sessions.get(CLIENT)
    assert client is not None
    assert list(client.groups[GROUP]) == [TOPIC]
