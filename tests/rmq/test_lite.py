"""Lite topics: who gets what, in which order, from where on, within which limits."""

from typing import Literal

import pytest

from rmq import message as m
from rmq.config import TopicSetting
from rmq.errors import ClientError, Code
from rmq.filter import by_tag
from rmq.message import MessageType
from rmq.port import LiteStart
from rmq_store.lites import Lite
from tests.rmq.conftest import MakeRig
from tests.rmq.lite import drain, lite, of_lite, receive, send, sync, take
from tests.rmq.rig import GROUP, INVISIBLE_MS, TOPIC, Rig, bodies, outgoing, request


def code_of(rig: Rig, *names: str, action: Literal["add", "replace"] = "add", client: str = "client") -> Code:
    """What a refused call of a client is answered."""
    with pytest.raises(ClientError) as caught:
        sync(rig, *names, action=action, client=client)
    return caught.value.code


def test_a_client_gets_the_messages_of_the_lite_topics_that_it_subscribes(rig: Rig) -> None:
    """And of no other; those that nobody subscribes reach nobody."""
    sync(rig, "a", "b")
    sync(rig, "c", client="other")
    send(rig, "a1", "b1", "c1", "d1")
    assert take(rig) == ["a1", "b1"]
    assert take(rig, client="other") == ["c1"]
    assert take(rig, client="third") == []


def test_each_group_gets_a_message_once(rig: Rig) -> None:
    """Clients of one group share a lite topic; another group has a place of its own."""
    sync(rig, "a")
    sync(rig, "a", client="second")
    sync(rig, "a", group="audit")
    send(rig, "a1")
    assert take(rig, client="second") + take(rig) == ["a1"]
    assert take(rig, group="audit") == ["a1"]


def test_a_lite_topic_is_in_order(rig: Rig) -> None:
    """The next message comes once the one before it is settled; those of other lite topics flow on."""
    sync(rig, "a", "b")
    send(rig, "a1", "a2", "a3", "b1")
    (a1, _) = sorted(receive(rig), key=lambda found: found.body)
    assert take(rig) == []
    rig.ack(a1.handle)
    assert take(rig) == ["a2"]


def test_what_is_not_settled_comes_again_before_what_is_behind_it(rig: Rig) -> None:
    """With one attempt more, to any client that subscribes it."""
    sync(rig, "a")
    sync(rig, "a", client="second")
    send(rig, "a1", "a2")
    assert take(rig) == ["a1"]
    rig.advance(INVISIBLE_MS)
    (again,) = receive(rig, client="second")
    assert (again.body, again.attempt) == (b"a1", 2)


def test_a_client_that_was_told_fifo_gets_several_of_a_lite_topic(rig: Rig) -> None:
    """In order, in one receive."""
    sync(rig, "a")
    send(rig, "a1", "a2", "a3")
    assert bodies(receive(rig, 2, fifo=True)) == ["a1", "a2"]
    assert take(rig, fifo=True) == []


def test_suspended_for_a_while(rig: Rig) -> None:
    """The lite topic waits, and the delivery does not count."""
    sync(rig, "a")
    send(rig, "a1", "a2")
    (a1,) = receive(rig)
    rig.change(a1.handle, 5000, suspend=True)
    rig.advance(4999)
    assert take(rig) == []
    rig.advance(1)
    (again,) = receive(rig)
    assert (again.body, again.attempt) == (b"a1", 1)


def test_a_dead_letter_lets_the_lite_topic_go_on(rig: Rig) -> None:
    """And comes again when it is replayed."""
    sync(rig, "a")
    send(rig, "a1", "a2")
    (a1,) = receive(rig)
    rig.bury(a1.handle)
    assert drain(rig) == ["a2"]
    polling = rig.poll(request(lite=True, poll_ms=20_000))
    assert rig.wait(rig.broker.admin.replay(GROUP, [])) == 1
    assert bodies(rig.until(polling)) == ["a1"]


def test_a_poll_ends_with_a_message_of_its_own_lite_topics(rig: Rig) -> None:
    """Other clients' polls wait on."""
    sync(rig, "a")
    sync(rig, "b", client="other")
    polling = rig.poll(request(lite=True, poll_ms=20_000))
    waiting = rig.poll(request(lite=True, poll_ms=20_000, client_id="other"))
    send(rig, "a1")
    assert bodies(rig.until(polling)) == ["a1"]
    assert not waiting.done()
    sync(rig, "a", client="other", start=LiteStart("min"))
    assert bodies(rig.until(waiting)) == ["a1"]


def test_a_poll_ends_when_what_was_before_is_settled(rig: Rig) -> None:
    """By an ack of another client, or when its lease ends."""
    sync(rig, "a")
    sync(rig, "a", client="second")
    send(rig, "a1", "a2")
    (a1,) = receive(rig)
    polling = rig.poll(request(lite=True, poll_ms=20_000, client_id="second"))
    rig.ack(a1.handle)
    assert bodies(rig.until(polling)) == ["a2"]
    polling = rig.poll(request(lite=True, poll_ms=20_000))
    rig.advance(INVISIBLE_MS)
    assert bodies(rig.until(polling)) == ["a2"]


STARTS = {
    LiteStart(): ["a5"],
    LiteStart("min"): ["a1", "a2", "a3", "a4", "a5"],
    LiteStart("max"): ["a5"],
    LiteStart("offset", 1): ["a2", "a3", "a4", "a5"],
    LiteStart("offset", 99): ["a5"],
    LiteStart("tail", 1): ["a4", "a5"],
    LiteStart("tail", 99): ["a1", "a2", "a3", "a4", "a5"],
    LiteStart("time", 2500): ["a3", "a4", "a5"],
    LiteStart("time", 99_999): ["a5"],
}


@pytest.mark.parametrize("start", STARTS, ids=str)
def test_where_a_new_subscription_begins(rig: Rig, start: LiteStart) -> None:
    """Where it says nothing: behind what is there, as with Apache. Messages of others lie between."""
    begin_ms = rig.clock.wall_ms()
    for name in ("a1", "a2", "a3", "a4"):
        rig.advance(1000)
        send(rig, "x1", name)
    moved = LiteStart("time", begin_ms + start.value) if start.kind == "time" else start
    sync(rig, "a", start=moved)
    send(rig, "a5")
    assert drain(rig) == STARTS[start]


def test_a_group_goes_on_where_it_was(rig: Rig) -> None:
    """Although its client unsubscribed meanwhile, or another one subscribes."""
    sync(rig, "a")
    send(rig, "a1")
    assert drain(rig) == ["a1"]
    sync(rig, "a", action="remove")
    send(rig, "a2")
    assert take(rig) == []
    sync(rig, "a", client="second")
    assert drain(rig, client="second") == ["a2"]


def test_an_offset_option_moves_a_place(rig: Rig) -> None:
    """Back and forth; what the group holds of the lite topic is settled then."""
    sync(rig, "a")
    send(rig, "a1", "a2", "a3")
    (a1,) = receive(rig)
    sync(rig, "a", start=LiteStart("tail", 1))
    assert take(rig) == ["a3"]
    sync(rig, "a", start=LiteStart("min"))
    assert drain(rig) == ["a1", "a2", "a3"]
    assert rig.ack(a1.handle) == [None]


def test_a_complete_set_replaces_what_a_client_subscribes(rig: Rig) -> None:
    """An empty one ends all; the same one again changes nothing, and is not journaled."""
    sync(rig, "a", "b")
    sync(rig, "b", "c", action="replace")
    send(rig, "a1", "b1", "c1")
    assert drain(rig) == ["b1", "c1"]
    rig.settle()
    end = rig.broker._store.log.end
    sync(rig, "b", "c", action="replace", start=LiteStart("min"))
    rig.settle()
    assert rig.broker._store.log.end == end
    sync(rig, action="replace")
    send(rig, "b2")
    assert take(rig) == []


def test_an_older_version_comes_too_late(rig: Rig) -> None:
    """Of two calls that passed each other the later one counts."""
    sync(rig, "a", action="replace", version=2)
    sync(rig, "b", action="replace", version=1)
    send(rig, "a1", "b1")
    assert take(rig) == ["a1"]


def test_a_client_that_left_subscribes_nothing(rig: Rig) -> None:
    """Its group keeps the place."""
    sync(rig, "a")
    rig.broker.offline(GROUP, "client")
    send(rig, "a1")
    assert take(rig) == []
    sync(rig, "a")
    assert take(rig) == ["a1"]


def test_messages_that_a_client_does_not_want_are_passed_over(rig: Rig) -> None:
    """By its filter."""
    sync(rig, "a")
    rig.send(outgoing("a1", tag="x", **{m.LITE_TOPIC: "a"}), outgoing("a2", tag="y", **{m.LITE_TOPIC: "a"}))
    wanted = request(lite=True)
    wanted.filter = by_tag("y")
    assert bodies(rig.receive(wanted)) == ["a2"]


def test_a_delayed_message_of_a_lite_topic(rig: Rig) -> None:
    """Comes when it is due."""
    sync(rig, "a")
    due_ms = str(rig.clock.wall_ms() + 5000)
    rig.send(outgoing("a1", **{m.LITE_TOPIC: "a", m.TIMER_DELIVER_MS: due_ms}))
    assert take(rig) == []
    rig.advance(5000)
    assert take(rig) == ["a1"]


def test_an_ordinary_consumer_of_the_parent_gets_all(rig: Rig) -> None:
    """Of all lite topics."""
    send(rig, "a1", "b1")
    assert sorted(bodies(rig.receive(request(batch=9)))) == ["a1", "b1"]


def test_a_group_with_lite_topics_gets_nothing_else_of_the_parent(rig: Rig) -> None:
    """Whatever a receive says of itself: after a restart nobody knows what the client told of itself."""
    sync(rig, "a")
    send(rig, "a1", "b1")
    assert bodies(rig.receive(request(batch=9))) == ["a1"]


def test_limits(make_rig: MakeRig) -> None:
    """Of lite topics in all, at the send and at the subscription, and of what one client subscribes; all or nothing."""
    rig = make_rig(lite_topics_max=3, lite_subscriptions_max=2)
    assert code_of(rig, "a", "b", "c") is Code.LITE_SUBSCRIPTION_QUOTA_EXCEEDED
    sync(rig, "a", "b")
    sync(rig, "b", "x", action="remove")
    sync(rig, "b")
    assert code_of(rig, "c") is Code.LITE_SUBSCRIPTION_QUOTA_EXCEEDED
    sync(rig, "b", "c", action="replace")
    assert code_of(rig, "d", client="other") is Code.LITE_TOPIC_QUOTA_EXCEEDED
    assert code_of(rig, "a", "b", "c", action="replace") is Code.LITE_SUBSCRIPTION_QUOTA_EXCEEDED
    with pytest.raises(ClientError) as caught:
        rig.send(of_lite("c1"), of_lite("d1"))
    assert caught.value.code is Code.LITE_TOPIC_QUOTA_EXCEEDED
    send(rig, "c2")
    assert drain(rig) == ["c2"]


def test_too_many_leases(make_rig: MakeRig) -> None:
    """A receive that would take one more is refused, as any."""
    rig = make_rig(leases_max=1)
    sync(rig, "a", "b")
    send(rig, "a1", "b1")
    (first,) = receive(rig)
    with pytest.raises(ClientError) as caught:
        receive(rig)
    assert caught.value.code is Code.TOO_MANY_REQUESTS
    rig.ack(first.handle)
    assert len(take(rig)) == 1


def test_priorities_have_no_say(rig: Rig) -> None:
    """Of a topic that had messages with a priority before: what comes again, comes."""
    rig.send(outgoing("p1", **{m.PRIORITY: "1"}))
    assert bodies(rig.receive(request())) == ["p1"]
    sync(rig, "a")
    rig.advance(INVISIBLE_MS)
    assert take(rig) == ["p1"]


def test_a_message_has_a_group_or_a_lite_topic(rig: Rig) -> None:
    """Both would name a queue."""
    with pytest.raises(ClientError) as caught:
        rig.send(outgoing("a1", **{m.LITE_TOPIC: "a", m.SHARDING_KEY: "g"}))
    assert caught.value.code is Code.MESSAGE_PROPERTY_CONFLICT_WITH_TYPE


def test_profile_strict_wants_a_topic_of_type_lite(make_rig: MakeRig) -> None:
    """At the subscription as at the send."""
    rig = make_rig(profile="strict", topics={TOPIC: TopicSetting(MessageType.NORMAL, 1)}, groups={})
    rig.broker.groups.make(GROUP, 17, rig.broker.groups.default_retry)
    assert code_of(rig, "a") is Code.MESSAGE_PROPERTY_CONFLICT_WITH_TYPE
    with pytest.raises(ClientError) as caught:
        send(rig, "a1")
    assert caught.value.code is Code.MESSAGE_PROPERTY_CONFLICT_WITH_TYPE


def test_what_cannot_be_read_is_passed_over(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a receive, and where a subscription looks for a time."""
    sync(rig, "a")
    send(rig, "a1", "a2")
    store = rig.broker._store
    read = store.read_message
    monkeypatch.setattr(store, "read_message", lambda *place: None if place[2] == 0 else read(*place))
    sync(rig, "a", start=LiteStart("time", 0), client="second")
    assert take(rig, client="second") == ["a2"]


def test_a_failing_disk_takes_nothing_away(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a receive was about to give comes with the next."""
    sync(rig, "a", "b")
    send(rig, "a1", "b1")

    def fail(*_: object) -> None:
        raise OSError("no")

    with monkeypatch.context() as patch:
        patch.setattr(rig.broker._store, "read_message", fail)
        with pytest.raises(OSError, match="no"):
            receive(rig)
    assert take(rig) == ["a1", "b1"]


def test_a_long_backlog_of_what_nobody_wants_is_read_in_turns(rig: Rig) -> None:
    """A poll goes on by itself, and its end is not lost."""
    sync(rig, "a")
    for _ in range(30):
        rig.send(*(outgoing(f"a{number}", tag="x", **{m.LITE_TOPIC: "a"}) for number in range(100)))
    rig.send(outgoing("last", tag="y", **{m.LITE_TOPIC: "a"}))
    wanted = request(lite=True, poll_ms=20_000, tag="y")
    assert bodies(rig.wait(rig.broker.receive(wanted))) == ["last"]


def test_two_names_never_share_a_key(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second is refused."""
    for module in ("rmq.lite", "rmq_store.lites"):
        monkeypatch.setattr(f"{module}.key_of", lambda *_: 1)
    sync(rig, "a")
    assert code_of(rig, "b") is Code.ILLEGAL_LITE_TOPIC


def test_a_receive_looks_at_lite_topics_that_have_something_only(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are subscribed."""
    sync(rig, *(f"n{number}x" for number in range(1000)))
    assert take(rig) == []
    looked: list[int] = []
    lites, key = rig.broker._store.state.lites, lite(rig, "n7x").key
    get = lites.get

    def look(key: int) -> Lite | None:
        looked.append(key)
        return get(key)

    send(rig, "n7x1")
    monkeypatch.setattr(lites, "get", look)
    assert take(rig) == ["n7x1"]
    assert take(rig) == []
    assert looked == [key]
