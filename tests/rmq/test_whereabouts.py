"""What the admin port knows of one message: where it lies, and what each group has made of it."""

from collections.abc import Sequence

import pytest

from rmq import message as m
from rmq.adminport import Holding, Start, Whereabouts
from rmq.errors import Code
from rmq.message import TRACE_TOPIC, MessageType
from rmq.whereabouts import TOPICS_SEARCHED_MAX
from rmq_store import timers
from tests.rmq.admin_rig import DLQ, admin, bury_all, make, refused, replay
from tests.rmq.conftest import MakeRig
from tests.rmq.rig import GROUP, INVISIBLE_MS, TOPIC, Rig, outgoing, request

ID = "id-a"


def locate(rig: Rig, message_id: str = ID, topic: str = "") -> list[tuple[str, Whereabouts]]:
    """Topic of each copy, and what is known of it."""
    return [(copy.topic, admin(rig).whereabouts(copy)) for copy in rig.wait(admin(rig).copies(message_id, topic))]


def holdings(rig: Rig, topic: str = TOPIC) -> Sequence[Holding]:
    """Of the one copy in that topic."""
    (found,) = [where.groups for name, where in locate(rig) if name == topic]
    return found


def test_each_state_of_a_message_in_a_group(rig: Rig) -> None:
    """Not delivered yet, with a consumer, to be delivered again, settled; groups without a place there are left out."""
    make(rig)
    rig.send("a")
    assert holdings(rig) == []
    rig.receive(request(tag="none"))
    rig.wait(admin(rig).reset_offset(GROUP, TOPIC, Start()))
    assert holdings(rig) == [Holding(GROUP, "WAITING")]
    taken_ms = rig.clock.lease_ms()
    message = rig.one(request(client_id="c1", auto_renew=True))
    [holding] = holdings(rig)
    assert (holding.state, holding.attempt, holding.leased_ms, holding.client_id) == ("LEASED", 1, taken_ms, "c1")
    assert holding.due_ms > taken_ms
    rig.change(message.handle, 1000)
    rig.advance(1000)
    assert holdings(rig) == [Holding(GROUP, "READY", 1)]
    rig.ack(rig.one().handle)
    assert holdings(rig) == [Holding(GROUP, "SETTLED")]


def test_each_group_for_itself(rig: Rig) -> None:
    """By name; one that renews nothing names no client."""
    make(rig)
    make(rig, group="shipping")
    rig.receive(request(group="shipping"))
    rig.receive()
    rig.send("a")
    now_ms = rig.clock.lease_ms()
    rig.one(request(group="shipping"))
    leased = Holding("shipping", "LEASED", 1, now_ms, now_ms + INVISIBLE_MS)
    assert holdings(rig) == [Holding(GROUP, "WAITING"), leased]


def test_the_states_of_a_message_group(rig: Rig) -> None:
    """One that waits for others of its group is parked; acked before them, it is not settled yet."""
    make(rig)
    rig.receive()
    rig.send(*[outgoing(name, **{m.SHARDING_KEY: "g"}) for name in "zab"])
    first = rig.one()
    assert not rig.receive()
    assert holdings(rig) == [Holding(GROUP, "PARKED")]
    rig.ack(first.handle)
    assert holdings(rig) == [Holding(GROUP, "WAITING")]
    now_ms = rig.clock.lease_ms()
    taken = rig.receive(request(batch=2, fifo=True))
    assert [message.properties[m.UNIQ_KEY] for message in taken] == [ID, "id-b"]
    rig.ack(taken[1].handle)
    [(_, where)] = locate(rig, "id-b")
    assert where.groups == [Holding(GROUP, "ACKED", 1)]
    assert holdings(rig) == [Holding(GROUP, "LEASED", 1, now_ms, now_ms + INVISIBLE_MS)]
    rig.ack(taken[0].handle)
    [(_, where)] = locate(rig, "id-b")
    assert where.groups == [Holding(GROUP, "SETTLED")]


def test_every_copy_is_found_the_newest_first(rig: Rig) -> None:
    """A dead letter and its replay know the topic that the message was sent to, and are found under it."""
    make(rig)
    bury_all(rig, "a")
    replay(rig)
    everywhere = [(name, where.sent_to) for name, where in locate(rig)]
    assert everywhere == [(m.RETRY_PREFIX + GROUP, TOPIC), (DLQ, TOPIC), (TOPIC, TOPIC)]
    assert [(name, where.sent_to) for name, where in locate(rig, topic=TOPIC)] == everywhere
    assert holdings(rig, DLQ) == []  # the mark of what was replayed is no group
    assert locate(rig, topic=DLQ) == []


def test_a_delayed_message_tells_when_it_is_due_until_it_is(rig: Rig) -> None:
    """It waits in the server's own topic for the one that it was sent to; then it is in both."""
    make(rig)
    due_ms = rig.clock.wall_ms() + 5000
    rig.send(outgoing("a", **{m.TIMER_DELIVER_MS: str(due_ms)}))
    for topic in ("", TOPIC):
        assert locate(rig, topic=topic) == [(timers.TOPIC, Whereabouts(TOPIC, due_ms, []))]
    rig.advance(5000)
    assert locate(rig) == [(TOPIC, Whereabouts(TOPIC, 0, [])), (timers.TOPIC, Whereabouts(TOPIC, 0, []))]


def test_another_topics_message_of_the_same_id_is_not_meant(rig: Rig) -> None:
    """Ids are their senders'; without a topic both are told."""
    make(rig)
    rig.send("a")
    rig.send("a", topic="other")
    assert [name for name, _ in locate(rig)] == ["other", TOPIC]
    assert [name for name, _ in locate(rig, topic=TOPIC)] == [TOPIC]
    assert locate(rig, "id-z") == []


def test_what_cannot_be_searched_is_refused(make_rig: MakeRig) -> None:
    """No id, or too many topics to look into: then the topic has to be named."""
    rig = make_rig()
    assert refused(lambda: admin(rig).copies(" ", TOPIC))[0] is Code.BAD_REQUEST
    for number in range(TOPICS_SEARCHED_MAX + 1):
        rig.broker.topics.make(f"t{number}", MessageType.NORMAL, 1)
    code, text = refused(lambda: admin(rig).copies(ID, ""))
    assert (code, "name the message's topic" in text) == (Code.BAD_REQUEST, True)
    assert locate(rig, topic="t1") == []


@pytest.mark.parametrize("profile", ["dev", "strict"])
def test_the_trace_topic_is_there_without_being_made(make_rig: MakeRig, profile: str) -> None:
    """Its route and its type before anyone uses it; the first send makes it, with one queue as Apache's has."""
    rig = make_rig(profile=profile)
    [route] = rig.broker.route(TRACE_TOPIC)
    assert (route.read_queues, route.writable) == (1, True)
    assert rig.broker.message_type(TRACE_TOPIC) is MessageType.MIXED
    assert rig.broker.topics.find(TRACE_TOPIC) is None
    rig.send("told", topic=TRACE_TOPIC)
    assert len(admin(rig).topic(TRACE_TOPIC).queues) == 1
    found = rig.wait(admin(rig).find(TRACE_TOPIC, message_id="id-told"))
    assert [kept.body for kept in found] == [b"told"]


def test_a_half_message_is_nowhere_until_it_is_committed(rig: Rig) -> None:
    """Whether its topic is named or not."""
    [sent] = rig.send(outgoing("a", TRAN_MSG="true"))
    rig.settle()
    assert [locate(rig), locate(rig, topic=TOPIC)] == [[], []]
    rig.wait(rig.broker.end_transaction(TOPIC, sent.transaction_id, commit=True))
    assert [topic for topic, _ in locate(rig)] == [TOPIC]
