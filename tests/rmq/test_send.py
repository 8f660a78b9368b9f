"""Sending: where messages go, what they make, what is refused."""

import pytest

from rmq import message as m
from rmq.config import GroupSetting, TopicSetting
from rmq.errors import ClientError, Code, ConfigError
from rmq.message import MessageType, Outgoing
from rmq.topics import SERVED
from rmq_store.record import encode_properties
from tests.rmq.conftest import MakeRig
from tests.rmq.rig import TOPIC, Rig, bodies, outgoing, request


def refusal(rig: Rig, *messages: Outgoing) -> ClientError:
    """What the send is refused with."""
    with pytest.raises(ClientError) as caught:
        rig.send(*messages)
    return caught.value


def test_calls_take_turns_over_the_queues(rig: Rig) -> None:
    """Each call goes to the next queue, and to the first again after the last."""
    assert [rig.send(str(n))[0].queue_id for n in range(6)] == [0, 1, 2, 3, 0, 1]


def test_a_batch_stays_together_and_in_order(rig: Rig) -> None:
    """The messages of one call get consecutive offsets of one queue, in their order."""
    results = rig.send("a", "b", "c")
    assert [(r.queue_id, r.queue_offset) for r in results] == [(0, 0), (0, 1), (0, 2)]
    assert bodies(rig.receive(request(batch=9))) == ["a", "b", "c"]


def test_a_message_comes_as_it_was_sent(rig: Rig) -> None:
    """Body, properties, flags, born time and host are the sender's; the store adds its cluster's name."""
    sent = outgoing("", **{m.UNIQ_KEY: "7", "user": "ü"})
    sent.body, sent.sys_flag = b"\x00\xff", m.SYS_FLAG_COMPRESSED
    sent.born_ms, sent.born_host, sent.born_port = 1234, "192.0.2.7", 99
    rig.send(sent)
    came = rig.one()
    assert (came.topic, came.body, came.sys_flag) == (TOPIC, b"\x00\xff", m.SYS_FLAG_COMPRESSED)
    assert came.properties == {m.UNIQ_KEY: "7", "user": "ü", m.CLUSTER: "DefaultCluster"}
    assert (came.born_ms, came.born_host, came.store_host) == (1234, "192.0.2.7", "127.0.0.1:10911")
    assert (came.attempt, came.store_ms) == (1, rig.clock.wall_ms())


def test_profile_dev_makes_a_topic_at_its_first_send(rig: Rig) -> None:
    """The route is there before; the topic is stored with the first message, whose type it takes."""
    route = rig.broker.route(TOPIC)[0]
    assert (route.write_queues, route.accepts) == (4, SERVED)
    assert rig.broker.message_type(TOPIC) is MessageType.MIXED
    assert rig.broker.topics.find(TOPIC) is None
    rig.send("a")
    assert rig.broker.message_type(TOPIC) is MessageType.NORMAL


def test_a_subscription_leaves_the_type_open(rig: Rig) -> None:
    """Profile dev: a topic made by a consumer has no type until the first message gives it one."""
    rig.receive()
    assert rig.broker.message_type(TOPIC) is MessageType.UNSPECIFIED
    rig.send("a")
    assert rig.broker.message_type(TOPIC) is MessageType.NORMAL


def test_a_second_kind_makes_the_type_mixed(make_rig: MakeRig) -> None:
    """Profile dev: the type only records what came, and it stays MIXED."""
    rig = make_rig(topics={TOPIC: TopicSetting(MessageType.FIFO, 1)})
    rig.send("a")
    rig.send("b")
    assert rig.broker.message_type(TOPIC) is MessageType.MIXED


def test_profile_strict_names_the_command_that_makes_a_topic(make_rig: MakeRig) -> None:
    """Nothing is made by a client: send, route and type say which command is missing."""
    rig = make_rig(profile="strict")
    for verb in (lambda: rig.send("a"), lambda: rig.broker.route(TOPIC), lambda: rig.broker.message_type(TOPIC)):
        with pytest.raises(ClientError, match=f"rmq topic create {TOPIC} --type NORMAL") as caught:
            verb()
        assert caught.value.code is Code.TOPIC_NOT_FOUND
    assert rig.broker.topics.find(TOPIC) is None


def test_profile_strict_names_the_command_that_makes_a_group(make_rig: MakeRig) -> None:
    """Receive, online and the settings of a group say which flag is missing."""
    rig = make_rig(profile="strict", topics={TOPIC: TopicSetting(MessageType.NORMAL, 1)})
    broker = rig.broker
    for verb in (rig.receive, lambda: broker.online("billing", "c", {}), lambda: broker.group("billing")):
        with pytest.raises(ClientError, match="rmq group create billing") as caught:
            verb()
        assert caught.value.code is Code.CONSUMER_GROUP_NOT_FOUND


def test_profile_strict_serves_what_the_configuration_lists(make_rig: MakeRig) -> None:
    """Topics and groups of the configuration are made at the start, with their queues and attempts."""
    rig = make_rig(
        profile="strict",
        topics={TOPIC: TopicSetting(MessageType.NORMAL, 3)},
        groups={"billing": GroupSetting(5, (10, 20))},
    )
    rig.send("a")
    assert bodies(rig.receive()) == ["a"]
    view = rig.broker.group("billing")
    assert (rig.broker.route(TOPIC)[0].read_queues, view.attempts_max, view.retry.steps_ms) == (3, 5, (10, 20))
    assert rig.broker.assignment("billing", TOPIC) == rig.broker.route(TOPIC)


def test_profile_strict_holds_messages_to_the_topics_type(make_rig: MakeRig) -> None:
    """A NORMAL message on a FIFO topic is refused; the route lists the type."""
    rig = make_rig(profile="strict", topics={TOPIC: TopicSetting(MessageType.FIFO, 1)})
    error = refusal(rig, outgoing("a"))
    assert error.code is Code.MESSAGE_PROPERTY_CONFLICT_WITH_TYPE
    assert "expected FIFO, actual NORMAL" in error.text
    assert rig.broker.route(TOPIC)[0].accepts == (MessageType.FIFO,)


def test_profile_strict_lets_the_first_message_give_a_type(disk_rig: Rig) -> None:
    """A topic that profile dev made for a consumer has none yet: it takes what is served."""
    disk_rig.receive()
    disk_rig.restart(profile="strict")
    assert disk_rig.broker.route(TOPIC)[0].accepts == SERVED
    disk_rig.send("a")
    assert disk_rig.broker.message_type(TOPIC) is MessageType.NORMAL


@pytest.mark.parametrize("position", [0, 1, 2])
def test_all_of_a_batch_or_none(rig: Rig, position: int) -> None:
    """One message with too many properties, at whatever place, keeps the others out."""
    batch = [outgoing(str(n)) for n in range(3)]
    batch[position].properties += encode_properties({"long": "x" * 32_000})
    assert refusal(rig, *batch).code is Code.MESSAGE_PROPERTIES_TOO_LARGE
    assert rig.receive(request(batch=9)) == []


def test_a_message_larger_than_a_segment_keeps_its_batch_out(make_rig: MakeRig) -> None:
    """Where segments are smaller than message_bytes_max, the size is refused before anything is stored."""
    rig = make_rig(memory_bytes_max=8 << 20)  # segments of 1 MiB
    assert refusal(rig, outgoing("a"), outgoing("b" * (1 << 20))).code is Code.MESSAGE_BODY_TOO_LARGE
    assert rig.receive(request(batch=9)) == []


def test_the_servers_own_property_is_refused(rig: Rig) -> None:
    """RMQ_ORIGIN from a client would settle another's message at the next replay."""
    error = refusal(rig, outgoing("a", **{m.RMQ_ORIGIN: f"0@{TOPIC}@0@0@billing@0"}))
    assert error.code is Code.ILLEGAL_MESSAGE_PROPERTY_KEY


def test_the_largest_properties_still_fit_a_dead_letter(rig: Rig) -> None:
    """A message at the limit can be dead-lettered: room for its origin is kept free."""
    group = "g" * 120
    topic = "t" * 127
    size = len("long") + 2 + len(f"{m.UNIQ_KEY}_id-a_{m.CLUSTER}_DefaultCluster_")
    rig.send(outgoing("a", topic=topic, long="x" * (32_767 - 20 - 1024 - size)))
    came = rig.one(request(topic, group))
    rig.wait(rig.broker.dead_letter(group, topic, came.handle))
    (dead,) = rig.receive(request(f"%DLQ%{group}"))
    assert dead.properties["long"] == came.properties["long"]
    error = refusal(rig, outgoing("a", topic=topic, long="x" * (32_767 - 20 - 1024 - size + 1)))
    assert error.code is Code.MESSAGE_PROPERTIES_TOO_LARGE


@pytest.mark.parametrize(
    ("settings", "topic", "code"),
    [({}, "t" * 128, Code.ILLEGAL_TOPIC), ({"topics_max": 1}, "second", Code.FORBIDDEN)],
)
def test_limits_of_topics(make_rig: MakeRig, settings: dict[str, int], topic: str, code: Code) -> None:
    """A name that the record can't hold, and one topic too many, are refused by send and receive."""
    rig = make_rig(**settings)
    rig.send("a", topic="first")
    assert refusal(rig, outgoing("a", topic=topic)).code is code
    with pytest.raises(ClientError) as caught:
        rig.receive(request(topic))
    assert caught.value.code is code


@pytest.mark.parametrize(
    ("settings", "group", "code"),
    [({}, "g" * 121, Code.ILLEGAL_CONSUMER_GROUP), ({"groups_max": 1}, "second", Code.FORBIDDEN)],
)
def test_limits_of_groups(make_rig: MakeRig, settings: dict[str, int], group: str, code: Code) -> None:
    """A name too long for its retry topic, and one group too many, are refused."""
    rig = make_rig(**settings)
    rig.receive(request(group="first"))
    with pytest.raises(ClientError) as caught:
        rig.receive(request(group=group))
    assert caught.value.code is code


def test_a_configuration_that_cannot_be_made_stops_the_start(make_rig: MakeRig) -> None:
    """More topics than topics_max: one line for the operator."""
    two = {name: TopicSetting(MessageType.NORMAL, 1) for name in ("a", "b")}
    with pytest.raises(ConfigError, match="topics_max = 1"):
        make_rig(topics_max=1, topics=two)


def test_a_full_disk_refuses_sends_and_lets_consumers_go_on(disk_rig: Rig) -> None:
    """Send and dead letter say so; receive, ack, change of the invisible duration and redelivery work."""
    disk_rig.send("a", "b", "c")
    disk_rig.fill_disk()
    error = refusal(disk_rig, outgoing("x" * 600_000), outgoing("x" * 300_000))
    assert (error.code, "disk full" in error.text) == (Code.INTERNAL_SERVER_ERROR, True)
    first, second, third = disk_rig.receive(request(batch=3))
    assert disk_rig.ack(first.handle) == [None]
    disk_rig.change(second.handle, 1000)
    disk_rig.advance(1000)
    assert disk_rig.one().body == second.body
    assert not disk_rig.broker.failed.done()
    disk_rig.restart()
    disk_rig.advance(60_000)
    assert sorted(bodies(disk_rig.receive(request(batch=9)))) == ["b", "c"], third
