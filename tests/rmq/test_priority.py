"""Priority: the higher first, the older first within one, nobody waits for ever; whatever befalls the server."""

import logging
import tracemalloc

import pytest

from rmq import message as m
from rmq import priority
from rmq.adminport import Start
from rmq.config import TopicSetting
from rmq.errors import ClientError, Code
from rmq.filter import by_tag
from rmq.message import MessageType, Outgoing
from rmq_store.bands import Bands
from rmq_store.ledger import Subscription
from tests.rmq.conftest import MakeRig
from tests.rmq.rig import GROUP, INVISIBLE_MS, SMALL, TOPIC, Rig, bodies, outgoing, request

NTH = 4
QUEUES = 4


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    """A topic with priorities 0 to 3, in memory."""
    return make_rig(topics={TOPIC: TopicSetting(MessageType.PRIORITY, QUEUES)})


@pytest.fixture
def fair(make_rig: MakeRig) -> Rig:
    """The same; every fourth message is a lower one."""
    return make_rig(topics={TOPIC: TopicSetting(MessageType.PRIORITY, QUEUES)}, lower_priority_nth=NTH)


@pytest.fixture
def stored(make_rig: MakeRig, tmp_path: object) -> Rig:
    """The same on disk."""
    topics = {TOPIC: TopicSetting(MessageType.PRIORITY, QUEUES)}
    return make_rig(flush="fast", data=f"{tmp_path}/data", flush_interval_ms=1, topics=topics, **SMALL)


def prior(name: str, *, tag: str = "", **properties: str) -> Outgoing:
    """`3a` has priority 3, `-a` none."""
    named = {} if name[0] == "-" else {m.PRIORITY: name[:-1]}
    return outgoing(name, tag=tag, **named, **properties)


def send(rig: Rig, *names: str) -> None:
    """A call each."""
    for name in names:
        rig.send(prior(name))


def take(rig: Rig, batch: int = 32) -> list[str]:
    """Bodies, in the order of the answer."""
    return bodies(rig.receive(request(batch=batch)))


def ones(rig: Rig, count: int) -> list[str]:
    """The same by as many receives of one message."""
    return [name for _ in range(count) for name in take(rig, 1)]


def subscription(rig: Rig) -> Subscription:
    """The group's on the topic."""
    return rig.broker._store.state.leases.subscription(GROUP, TOPIC)


# -- order -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent_together", [True, False])
def test_the_higher_comes_first_and_the_older_of_one_priority(rig: Rig, sent_together: bool) -> None:
    """In one receive and in many; a call's messages need not have one priority."""
    names = ("1a", "3a", "0a", "3b", "1b")
    if sent_together:
        rig.send(*map(prior, names))
    else:
        send(rig, *names)
    assert take(rig, 2) == ["3a", "3b"]
    assert ones(rig, 3) == ["1a", "1b", "0a"]


def test_priorities_above_the_last_queue_count_as_the_highest_and_none_as_the_lowest(rig: Rig) -> None:
    """A topic has as many priorities as queues; what a consumer sees is the priority that was sent."""
    rig.send(prior("-a"), prior("0b"), prior("3c"), prior("2147483647d"))
    got = rig.receive(request(batch=9))
    assert bodies(got) == ["3c", "2147483647d", "-a", "0b"]
    assert [message.properties.get(m.PRIORITY) for message in got] == ["3", "2147483647", None, "0"]
    assert [message.queue_id for message in got] == [3, 3, 0, 0]


def test_what_comes_later_and_is_higher_overtakes(rig: Rig) -> None:
    """Also what waits to be delivered again."""
    send(rig, "1a", "1b")
    assert take(rig, 1) == ["1a"]
    rig.advance(INVISIBLE_MS)
    send(rig, "2a")
    assert take(rig) == ["2a", "1a", "1b"]


def test_a_waiting_poll_gets_what_comes(rig: Rig) -> None:
    """Whatever its priority."""
    waiting = rig.poll(request(poll_ms=600_000))
    send(rig, "1a")
    assert bodies(rig.until(waiting)) == ["1a"]


def test_redelivered_messages_keep_their_priority_and_their_place_in_it(rig: Rig) -> None:
    """Before newer ones of their priority, behind higher ones, before lower ones, in the order of sending."""
    send(rig, "1a", "2a", "2b", "0a")
    first = rig.receive(request(batch=9))
    rig.change(first[1].handle, 0)
    send(rig, "3a", "2c")
    rig.advance(INVISIBLE_MS)
    got = rig.receive(request(batch=9))
    assert [(message.body.decode(), message.attempt) for message in got] == [
        ("3a", 1), ("2a", 2), ("2b", 2), ("2c", 1), ("1a", 2), ("0a", 2),
    ]  # fmt: skip


def test_each_group_has_its_own_way_through_a_topic(rig: Rig) -> None:
    """What one was given says nothing of another."""
    send(rig, "1a", "2a")
    assert take(rig, 1) == ["2a"]
    assert bodies(rig.receive(request(group="other", batch=2))) == ["2a", "1a"]


# -- no starvation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_every_nth_message_is_of_a_lower_priority_these_in_turn(fair: Rig, batch: int) -> None:
    """However many receives it takes; the rest is the highest, to its end."""
    send(fair, *(f"3{n}" for n in "abcdefghij"), *("2a", "2b", "1a", "1b", "0a"))
    got: list[str] = []
    while more := take(fair, batch):
        got += more
    assert got == ["3a", "3b", "3c", "2a", "3d", "3e", "3f", "1a", "3g", "3h", "3i", "0a", "3j", "2b", "1b"]


def test_no_turn_is_counted_while_nothing_lower_waits(fair: Rig) -> None:
    """A message that has just come is not taken out of turn because many came before it."""
    send(fair, "3a", "3b", "3c", "3d", "3e")
    assert len(ones(fair, 5)) == 5
    send(fair, "3f", "3g", "1a")
    assert ones(fair, 3) == ["3f", "3g", "1a"]


def test_a_lower_one_comes_although_higher_ones_keep_coming(fair: Rig) -> None:
    """New ones after each receive, and those that are never acknowledged."""
    send(fair, "0a", "3a", "3b")
    got = []
    for _ in range(NTH):
        got += take(fair, 1)
        send(fair, "3x")
        fair.advance(INVISIBLE_MS)
    assert got[-1] == "0a"
    assert set(got[:-1]) == {"3a"}


def test_a_turn_is_not_used_up_by_what_has_become_the_highest(fair: Rig) -> None:
    """Where the highest ends right before the turn, the next one is the highest and the turn is for those below it."""
    send(fair, "3a", "3b", "3c", "2a", "2b", "0a")
    assert take(fair) == ["3a", "3b", "3c", "0a", "2a", "2b"]


def test_a_turn_that_finds_nothing_wanted_is_the_next_lowers(fair: Rig) -> None:
    """Filters: what is not wanted is passed over, and does not use the turn up."""
    fair.send(*(prior(f"3{n}", tag="a") for n in "abcd"), prior("2a", tag="b"), prior("1a", tag="a"))
    got = fair.receive(request(batch=9, tag="a"))
    assert bodies(got) == ["3a", "3b", "3c", "1a", "3d"]


def test_what_another_poll_waits_for_is_left_to_it(rig: Rig) -> None:
    """New or to be delivered again, it stays where it is, and lower ones come."""
    rig.send(prior("3b", tag="b"))
    assert take(rig) == ["3b"]
    rig.advance(INVISIBLE_MS)
    rig.send(prior("3c", tag="b"), prior("1a", tag="a"))
    got = rig.broker._pop.take(subscription(rig), request(batch=9, tag="a"), [by_tag("b")])
    assert bodies(got) == ["1a"]
    assert bodies(rig.receive(request(batch=9, tag="b"))) == ["3b", "3c"]


# -- what it costs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", [False, True])
def test_the_cost_of_a_receive_does_not_grow_with_the_backlog(rig: Rig, again: bool) -> None:
    """As many looks at queue entries and at messages as there are in the answer, new or to be delivered again."""
    rig.send(*(prior(f"{n % 4}x") for n in range(2000)))
    if again:
        while take(rig):
            pass
        rig.clock.advance(ms=INVISIBLE_MS)
        rig.broker.catch_up()
    looked = rig.broker._pop.looked
    assert take(rig, 32) == ["3x"] * 32
    assert rig.broker._pop.looked - looked == 32


def test_what_waits_to_be_delivered_again_takes_forty_bytes_a_message() -> None:
    """Beside the table of open messages; what was never delivered takes nothing."""
    bands = Bands()
    tracemalloc.start()
    try:
        for offset in range(1 << 30, (1 << 30) + 50_000):
            bands.add(offset % 8, offset)
        assert tracemalloc.get_traced_memory()[0] < 50_000 * 48  # a list has room for an eighth more
    finally:
        tracemalloc.stop()


# -- limits ------------------------------------------------------------------------------------------------------------


def test_at_leases_max_only_what_was_delivered_comes_again(make_rig: MakeRig) -> None:
    """In the order of priorities, lower ones too; new ones wait, and a receive is told so."""
    rig = make_rig(topics={TOPIC: TopicSetting(MessageType.PRIORITY, QUEUES)}, leases_max=2)
    send(rig, "2a", "1a", "3a")
    assert take(rig, 2) == ["3a", "2a"]
    send(rig, "3b")
    with pytest.raises(ClientError) as caught:
        rig.receive()
    assert caught.value.code is Code.TOO_MANY_REQUESTS
    rig.advance(INVISIBLE_MS)
    assert take(rig, 9) == ["3a", "2a"]


def test_a_receive_looks_at_a_bounded_number_of_messages(rig: Rig) -> None:
    """A long backlog that is not wanted takes several turns, and hides nothing."""
    rig.send(*(prior("3x", tag="b") for _ in range(2000)))
    rig.send(prior("1a", tag="a"))
    wanted = request(tag="a")
    assert rig.receive(wanted) == []
    assert bodies([*rig.receive(wanted), *rig.receive(wanted), *rig.receive(wanted)]) == ["1a"]


def test_a_read_error_leaves_everything_as_it_was(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was taken out to be delivered again is there for the next receive."""
    send(rig, "2a", "1a")
    take(rig)
    rig.advance(INVISIBLE_MS)
    send(rig, "0a")

    def fail(*_: object) -> None:
        raise OSError(5, "I/O error")

    with monkeypatch.context() as broken:
        broken.setattr(rig.broker._store, "read", fail)
        with pytest.raises(OSError, match="I/O error"):
            rig.receive(request(batch=9))
    assert take(rig) == ["2a", "1a", "0a"]


def test_what_is_settled_or_leased_by_now_is_passed_over(rig: Rig) -> None:
    """Whoever is named among those to be delivered again is looked up in the table of open messages."""
    send(rig, "1a", "1b", "1c")
    rig.ack(rig.one().handle)
    assert take(rig, 1) == ["1b"]
    bands = subscription(rig).bands
    assert bands is not None
    bands.add(1, 0)
    bands.add(1, 1)
    assert take(rig) == ["1c"]


# -- settling, and what lasts ------------------------------------------------------------------------------------------


def test_acked_messages_stay_so_and_used_up_ones_are_dead_letters(make_rig: MakeRig) -> None:
    """As on any topic; a dead letter that is replayed comes with its priority."""
    rig = make_rig(topics={TOPIC: TopicSetting(MessageType.PRIORITY, QUEUES)}, attempts_max=1)
    send(rig, "1a", "3a", "2a")
    rig.ack(rig.one().handle)
    rig.one()
    rig.advance(INVISIBLE_MS)
    letter = rig.one(request(f"%DLQ%{GROUP}", "auditor"))
    assert (letter.body, letter.properties[m.PRIORITY]) == (b"2a", "2")
    assert rig.wait(rig.broker.admin.replay(GROUP, [])) == 1
    assert take(rig) == ["2a", "1a"]


@pytest.mark.parametrize("end", ["restart", "crash"])
def test_order_outlives_the_server(stored: Rig, end: str) -> None:
    """What is ready again, what was never delivered, and what retention has carried forward."""
    send(stored, "1a", "3a", "2a", "3b", "1b")
    held = stored.receive(request(batch=3))
    assert bodies(held) == ["3a", "3b", "2a"]
    stored.change(held[1].handle, 0)
    stored.settle()
    getattr(stored, end)(pause_ms=INVISIBLE_MS)
    send(stored, "3c")
    assert take(stored) == ["3a", "3b", "3c", "2a", "1a", "1b"]


def test_what_retention_carried_forward_keeps_its_priority(stored: Rig) -> None:
    """It lies in the retry topic then, and comes by the queue that it was sent to."""
    send(stored, "1a", "3a")
    assert take(stored) == ["3a", "1a"]
    stored.restart(log_bytes_max=1 << 20)
    for _ in range(40):
        stored.send(*(outgoing("x" * 60_000, topic="filler") for _ in range(2)))
    stored.clean()
    assert stored.broker.topics.find(TOPIC).queues[3].min_offset == 1  # type: ignore[union-attr]  # it is there
    stored.advance(INVISIBLE_MS)
    send(stored, "2a")
    got = stored.receive(request(batch=9))
    assert [(message.body, message.queue_id) for message in got] == [(b"3a", 3), (b"2a", 2), (b"1a", 1)]


def test_a_topic_may_become_one_with_priorities_and_cease_to_be(rig: Rig) -> None:
    """What waits to be delivered again goes along, either way."""

    def become(kind: MessageType) -> None:
        rig.wait(rig.broker.admin.put_topic(TOPIC, kind, 0))

    send(rig, "1a", "3a", "2a")
    assert len(take(rig)) == 3
    rig.advance(INVISIBLE_MS)
    become(MessageType.NORMAL)
    assert sorted(take(rig)) == ["1a", "2a", "3a"]
    rig.advance(INVISIBLE_MS)
    become(MessageType.PRIORITY)
    assert take(rig) == ["3a", "2a", "1a"]


def test_a_reset_gives_everything_anew_in_order(rig: Rig) -> None:
    """What waited to be delivered again is settled, and comes as new."""
    send(rig, "1a", "3a", "2a")
    take(rig, 2)
    rig.advance(INVISIBLE_MS)
    found = rig.broker.admin.group_info(GROUP).topics[0]
    assert (found.ready, found.leased, found.lag_messages) == (2, 0, 1)
    rig.wait(rig.broker.admin.reset_offset(GROUP, TOPIC, Start()))
    got = rig.receive(request(batch=9))
    assert [(message.body, message.attempt) for message in got] == [(b"3a", 1), (b"2a", 1), (b"1a", 1)]


# -- types -------------------------------------------------------------------------------------------------------------


def test_profile_strict_takes_messages_with_priority_on_such_topics_only(make_rig: MakeRig) -> None:
    """And those without on others only, as Apache."""
    kinds = {TOPIC: MessageType.PRIORITY, "plain": MessageType.NORMAL, "mixed": MessageType.MIXED}
    rig = make_rig(profile="strict", topics={name: TopicSetting(kind, 2) for name, kind in kinds.items()})
    assert rig.broker.route(TOPIC)[0].accepts == (MessageType.PRIORITY,)
    rig.send(prior("1a"))
    rig.send(outgoing("a", topic="mixed", **{m.PRIORITY: "1"}))
    for refused in (outgoing("a"), outgoing("a", topic="plain", **{m.PRIORITY: "1"})):
        with pytest.raises(ClientError) as caught:
            rig.send(refused)
        assert caught.value.code is Code.MESSAGE_PROPERTY_CONFLICT_WITH_TYPE


def test_profile_dev_gives_a_topic_the_type_that_heeds_what_comes(
    make_rig: MakeRig, caplog: pytest.LogCaptureFixture
) -> None:
    """Normal and delayed messages have the lowest priority beside others; with message groups priority has no say,
    and the log says so.
    """
    rig = make_rig()
    rig.send("a")
    rig.send(prior("1b"))
    rig.send("c", prior("2d"))
    assert rig.broker.message_type(TOPIC) is MessageType.PRIORITY
    later = str(rig.clock.wall_ms() + 1000)
    rig.send(outgoing("e", **{m.TIMER_DELIVER_MS: later}), prior("3f", **{m.TIMER_DELIVER_MS: later}))
    assert rig.broker.message_type(TOPIC) is MessageType.PRIORITY
    assert take(rig) == ["2d", "1b", "a", "c"]
    rig.advance(1000)
    assert take(rig) == ["3f", "e"]
    with caplog.at_level(logging.WARNING, "rmq.topics"):
        rig.send(outgoing("g", **{m.SHARDING_KEY: "g"}))
    assert rig.broker.message_type(TOPIC) is MessageType.MIXED
    assert "priority has no say" in caplog.text


# -- the parts ---------------------------------------------------------------------------------------------------------


def test_bands_name_each_offset_once_the_lowest_first() -> None:
    """However often and in whatever order they were added."""
    bands = Bands()
    for queue_id, offset in ((1, 5), (2, 7), (1, 3), (1, 5)):
        bands.add(queue_id, offset)
    assert (len(bands), sorted(bands)) == (4, [1, 2])
    assert [bands.pop(1), bands.pop(1), bands.pop(1), bands.pop(9)] == [3, 5, None, None]
    assert list(bands) == [2]


@pytest.mark.parametrize(("value", "queue_id"), [(-1, 0), (0, 0), (6, 6), (7, 7), (8, 7), (2**31 - 1, 7)])
def test_a_priority_has_a_queue(value: int, queue_id: int) -> None:
    """RocketMQ 5.5: the queue of its number, at most the last."""
    assert priority.queue_of(value, 8) == queue_id


def test_what_retention_deleted_takes_no_turn_of_lower_ones(stored: Rig) -> None:
    """It is the turn of a lower one, and the highest that is left has none before it."""
    stored.restart(log_bytes_max=1 << 20, lower_priority_nth=3)
    send(stored, "3a", "3b", "3c", "0a")
    assert take(stored, 2) == ["3a", "3b"]
    for _ in range(40):
        stored.send(*(outgoing("x" * 60_000, topic="filler") for _ in range(2)))
    stored.clean()
    assert stored.broker.topics.require(TOPIC).queues[3].min_offset == 3
    send(stored, "2a", "2b", "2c", "1a")
    assert take(stored) == ["1a", "2a", "2b", "2c"]
