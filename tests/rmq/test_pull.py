"""Pulls: what is read, what is not taken, how polls wait, and how much a turn looks at.

Apache 5.5.0's proxy answers gRPC UNIMPLEMENTED to the four calls (tried 2026-11), so its broker was asked by the 4.x
protocol (DefaultMQPullConsumer, 10 messages in a queue): next offset behind what a filter passed, also where none is
left; offset 10 of 10 is "no new message", beyond it "offset illegal" with 10 to go on from. Different here: an empty
pull goes on looking until its poll ends, a SQL92 filter that does not compile is refused (Apache delivers everything),
and a queue that is not there is NOT_FOUND (a system error there).
"""

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest

from rmq import message as m
from rmq.broker import Broker
from rmq.errors import Code, OffsetError
from rmq.filter import ALL, Filter, by_sql, by_tag, reading_cost
from rmq.port import Pulled, PullRequest
from rmq.scan import SCAN_MAX
from rmq_store.errors import StoreFull
from tests.rmq.admin_rig import admin, of_topic, refused
from tests.rmq.conftest import MakeRig
from tests.rmq.rig import GROUP, TOPIC, Rig, bodies, outgoing, request

POLL_MS = 5000
READS_MAX = SCAN_MAX // (1 + reading_cost(1000))


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    """A broker in memory whose topics have one queue."""
    return make_rig(topic_queues=1)


def pulling(
    offset: int = 0,
    *,
    queue_id: int = 0,
    group: str = GROUP,
    topic: str = TOPIC,
    batch: int = 32,
    wanted: Filter = ALL,
    poll_ms: int = 0,
) -> PullRequest:
    """A pull that does not poll, unless told otherwise."""
    return PullRequest(group, topic, queue_id, offset, wanted, batch, poll_ms)


def pull(rig: Rig, wanted: PullRequest) -> tuple[list[str], int]:
    """What came, and where to go on."""
    pulled = rig.wait(rig.broker.pull(wanted))
    return bodies(pulled.messages), pulled.next_offset


def poll(rig: Rig, wanted: PullRequest) -> "asyncio.Future[Pulled]":
    """A pull that has to wait."""
    waiting = rig.broker.pull(wanted)
    assert isinstance(waiting, asyncio.Future)
    rig.turn()
    return waiting


def came(waiting: "asyncio.Future[Pulled]") -> tuple[list[str], int]:
    """What a poll brought, that has ended."""
    return bodies(waiting.result().messages), waiting.result().next_offset


def turns(rig: Rig, *polls: "asyncio.Future[Pulled]") -> list[int]:
    """How much all pulls had looked at after each turn of the loop until these ended."""
    looked = [rig.broker._pulls.looked]
    while not all(one.done() for one in polls):
        rig.loop.call_soon(rig.loop.stop)
        rig.loop.run_forever()
        looked.append(rig.broker._pulls.looked)
    return looked


# -- what is read ----------------------------------------------------------------------------------------------------


def test_messages_come_from_the_offset_on(rig: Rig) -> None:
    """At most as many as asked for; the next offset is behind the last."""
    rig.send(*"abcde")
    assert pull(rig, pulling(1, batch=3)) == (["b", "c", "d"], 4)
    assert pull(rig, pulling(4)) == (["e"], 5)


def test_a_message_says_where_it_lies_and_has_no_handle(rig: Rig) -> None:
    """Nothing was leased; the attempt is the first."""
    rig.send(outgoing("a", tag="red", KEYS="k"))
    (message,) = rig.wait(rig.broker.pull(pulling())).messages
    assert (message.topic, message.queue_id, message.queue_offset) == (TOPIC, 0, 0)
    assert (message.handle, message.attempt) == ("", 1)
    assert (message.properties[m.TAGS], message.properties[m.KEYS]) == ("red", "k")


def test_pulling_takes_nothing(rig: Rig) -> None:
    """The same comes again, to this group and others, and all of it is there for receives; what these hold is pulled
    all the same.
    """
    rig.send(*"ab")
    assert pull(rig, pulling()) == pull(rig, pulling(group="other")) == (["a", "b"], 2)
    assert bodies(rig.receive(request(batch=9))) == ["a", "b"]
    assert pull(rig, pulling()) == (["a", "b"], 2)
    assert of_topic(rig).leased == 2


def test_only_the_named_queue_is_read(make_rig: MakeRig) -> None:
    """Each queue has its own offsets."""
    rig = make_rig(topic_queues=2)
    rig.send("a")
    rig.send("b")
    assert [pull(rig, pulling(queue_id=queue_id)) for queue_id in (0, 1)] == [(["a"], 1), (["b"], 1)]


def test_a_pull_is_bounded_in_bytes_too(make_rig: MakeRig) -> None:
    """One message always comes."""
    rig = make_rig(topic_queues=1, receive_bytes_max=1 << 16)
    rig.send(*(letter * 40_000 for letter in "abc"))
    assert [len(pull(rig, pulling(batch=batch))[0]) for batch in (1, 9)] == [1, 2]


def test_receive_batch_max_lowers_the_batch(make_rig: MakeRig) -> None:
    """As that of a receive."""
    rig = make_rig(topic_queues=1, receive_batch_max=2)
    rig.send(*"abc")
    assert pull(rig, pulling()) == (["a", "b"], 2)


@pytest.mark.parametrize("wanted", [by_tag("red"), by_sql("price > 5", 100)])
def test_what_a_filter_passes_is_behind_the_next_offset(rig: Rig, wanted: Filter) -> None:
    """Also where nothing that is wanted is left."""
    rig.send(*(outgoing(text, tag="red", price="7") if text in "bd" else outgoing(text, price="3") for text in "abcde"))
    assert pull(rig, pulling(wanted=wanted, batch=1)) == (["b"], 2)
    assert pull(rig, pulling(2, wanted=wanted)) == (["d"], 5)
    assert pull(rig, pulling(4, wanted=wanted)) == ([], 5)


def test_tags_of_one_hash_are_told_apart(rig: Rig) -> None:
    """Aa and BB have the same."""
    rig.send(outgoing("1", tag="Aa"), outgoing("2", tag="BB"))
    assert pull(rig, pulling(wanted=by_tag("BB"))) == (["2"], 2)


def test_delayed_messages_are_not_there_before_their_time(rig: Rig) -> None:
    """Then they are as others."""
    due_ms = rig.clock.wall_ms() + 1000
    rig.send(outgoing("later", TIMER_DELIVER_MS=str(due_ms)))
    waiting = poll(rig, pulling(poll_ms=POLL_MS))
    assert not waiting.done()
    rig.advance(1000)
    rig.settle()
    assert came(waiting) == (["later"], 1)


def test_what_is_not_safe_yet_is_not_shown(disk_rig: Rig) -> None:
    """A message that a power cut could still take comes once it is on the disk."""
    disk_rig.send("first")
    queue = disk_rig.broker.topics.require(TOPIC).queues[1]
    stored = disk_rig.broker.send([outgoing("a")])
    pulled = disk_rig.broker.pull(pulling(queue_id=1))
    assert (queue.max_offset, pulled) == (1, Pulled([], 0))
    disk_rig.wait(stored)
    assert pull(disk_rig, pulling(queue_id=1)) == (["a"], 1)


def test_a_damaged_message_is_passed_over(disk_rig: Rig) -> None:
    """The others come."""
    disk_rig.send("a", "b")
    entry = disk_rig.broker.topics.require(TOPIC).queues[0].read(0, 1)[0]
    (segment,) = (Path(disk_rig.config.data) / "commitlog").iterdir()
    with segment.open("r+b") as file:
        file.seek(entry.position + 90)
        file.write(b"damage")
    assert pull(disk_rig, pulling()) == (["b"], 2)


# -- offsets that are not there --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("offset", "nearest"), [(-1, 0), (-(2**63), 0), (4, 3), (2**63 - 1, 3)])
def test_an_offset_outside_of_the_queue_is_refused(rig: Rig, offset: int, nearest: int) -> None:
    """With the nearest that it has. The next message's own is no error."""
    rig.send(*"abc")
    with pytest.raises(OffsetError) as caught:
        rig.broker.pull(pulling(offset, poll_ms=POLL_MS))
    assert (caught.value.code, caught.value.nearest) == (Code.ILLEGAL_OFFSET, nearest)
    assert "0 to 3" in caught.value.text
    assert pull(rig, pulling(3)) == ([], 3)


@pytest.mark.parametrize("queue_id", [-1, 1, 2**31 - 1])
def test_a_queue_that_is_not_there_is_refused(rig: Rig, queue_id: int) -> None:
    """A pull reads one queue, never "any"."""
    rig.send("a")
    code, text = refused(lambda: rig.broker.pull(pulling(queue_id=queue_id)))
    assert (code, str(queue_id) in text) == (Code.NOT_FOUND, True)


def test_profile_strict_makes_nothing_for_a_pull(make_rig: MakeRig) -> None:
    """Neither topic nor group; profile dev makes both, as for a receive."""
    strict = make_rig(profile="strict", groups={}, topics={})
    assert refused(lambda: strict.broker.pull(pulling()))[0] is Code.CONSUMER_GROUP_NOT_FOUND
    admin(strict).put_group(GROUP, 0, None)
    assert refused(lambda: strict.broker.pull(pulling()))[0] is Code.TOPIC_NOT_FOUND
    dev = make_rig()
    assert pull(dev, pulling()) == ([], 0)
    assert [one.name for one in admin(dev).groups()] == [GROUP]


def test_a_full_disk_makes_no_topic_for_a_pull(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pulling from what is there goes on."""

    def full(*_: object) -> None:
        raise StoreFull("disk full")

    rig.send("a")
    monkeypatch.setattr(rig.broker.topics, "make", full)
    assert refused(lambda: rig.broker.pull(pulling(topic="new")))[0] is Code.INTERNAL_SERVER_ERROR
    assert pull(rig, pulling()) == (["a"], 1)


def test_retention_moves_the_begin(disk_rig: Rig) -> None:
    """Expired messages are shown to nobody; a poll that has looked at less goes on with what is left."""
    disk_rig.send("old")
    queue = disk_rig.broker.topics.require(TOPIC).queues[0]
    waiting = poll(disk_rig, pulling(wanted=by_tag("red"), poll_ms=POLL_MS))
    queue.cut(1)
    with pytest.raises(OffsetError) as caught:
        disk_rig.broker.pull(pulling(0))
    assert caught.value.nearest == 1
    disk_rig.send("elsewhere")
    disk_rig.send(outgoing("new", tag="red"))
    assert came(waiting) == (["new"], 2)


# -- polls -----------------------------------------------------------------------------------------------------------


def test_a_message_that_comes_later_ends_the_poll(rig: Rig) -> None:
    """Of this queue, and wanted; others move its offset on."""
    rig.send("a")
    waiting = poll(rig, pulling(1, wanted=by_tag("red"), poll_ms=POLL_MS))
    rig.send("b")
    assert not waiting.done()
    rig.send(outgoing("c", tag="red"))
    assert came(waiting) == (["c"], 3)


def test_the_end_of_a_poll_says_how_far_it_came(rig: Rig) -> None:
    """The next pull need not look there again."""
    waiting = poll(rig, pulling(wanted=by_tag("red"), poll_ms=200))
    rig.send(*"abc")
    assert rig.until(waiting) == Pulled([], 3)


def test_polls_on_one_queue_all_get_the_message(rig: Rig) -> None:
    """Of one group as of several: nothing is taken. More than a turn serves are served in the next."""
    polls = [poll(rig, pulling(group=f"g{n % 3}", poll_ms=POLL_MS)) for n in range(100)]
    rig.send("a")
    rig.run_while(lambda: not all(one.done() for one in polls))
    assert {came(one)[1] for one in polls} == {1}


def test_a_receive_and_a_pull_wait_side_by_side(rig: Rig) -> None:
    """Each gets the message: the one leases it, the other reads it."""
    waiting = poll(rig, pulling(poll_ms=POLL_MS))
    received = rig.poll(request(poll_ms=POLL_MS))
    assert of_topic(rig).waiting_polls == 2
    rig.send("a")
    assert (came(waiting)[0], bodies(received.result())) == (["a"], ["a"])
    assert of_topic(rig).waiting_polls == 0


def test_a_poll_given_up_waits_no_more(rig: Rig) -> None:
    """Whoever cancels it leaves the line, and nothing is looked at for it."""
    waiting = poll(rig, pulling(poll_ms=POLL_MS))
    waiting.cancel()
    assert admin(rig).describe().waiting_polls == 0
    rig.send("a")
    assert rig.broker._pulls.looked == 0


def test_a_poll_given_up_in_line_is_passed_by(rig: Rig) -> None:
    """Those behind it get theirs."""
    rig.send(*(outgoing("cheap", price="3") for _ in range(READS_MAX)), outgoing("dear", price="7"))
    wanted = pulling(wanted=by_sql("price > 5", 100), poll_ms=POLL_MS)
    first, second = rig.broker.pull(wanted), rig.broker.pull(wanted)
    assert isinstance(first, asyncio.Future)
    assert isinstance(second, asyncio.Future)
    first.cancel()
    rig.run_while(lambda: not second.done())
    assert came(second) == (["dear"], READS_MAX + 1)


@pytest.mark.parametrize("limit", ["polls_max", "polls_per_group_max"])
def test_pulls_count_among_the_polls(make_rig: MakeRig, limit: str) -> None:
    """Beyond the limit TOO_MANY_REQUESTS, whichever kind comes last."""
    rig = make_rig(topic_queues=1, **{limit: 2})
    waiting = (poll(rig, pulling(poll_ms=POLL_MS)), rig.poll(request(poll_ms=POLL_MS)))
    assert refused(lambda: rig.broker.pull(pulling(poll_ms=POLL_MS)))[0] is Code.TOO_MANY_REQUESTS
    assert refused(lambda: rig.broker.receive(request(poll_ms=POLL_MS)))[0] is Code.TOO_MANY_REQUESTS
    assert not any(one.done() for one in waiting)


@pytest.mark.parametrize(
    "drop", [lambda rig: admin(rig).delete_topic(TOPIC), lambda rig: admin(rig).delete_group(GROUP), Broker.end_polls]
)
def test_polls_end_with_what_they_wait_for(rig: Rig, drop: object) -> None:
    """Topic, group or server: answered at once, with no message."""
    rig.send("a")
    waiting = poll(rig, pulling(1, poll_ms=POLL_MS))
    assert callable(drop)
    drop(rig.broker if drop is Broker.end_polls else rig)
    assert waiting.result() == Pulled([], 1)
    assert not rig.broker._pulls._polls


def test_after_the_end_of_polls_none_waits(rig: Rig) -> None:
    """The server stops."""
    rig.broker.end_polls()
    assert rig.broker.pull(pulling(poll_ms=POLL_MS)) == Pulled([], 0)


# -- work ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wanted", "seen"), [(by_sql("price > 5", 100), READS_MAX), (by_tag("red"), SCAN_MAX)])
def test_a_pull_that_does_not_wait_looks_at_a_bounded_number(rig: Rig, wanted: Filter, seen: int) -> None:
    """It answers how far it came; a record read in vain counts as several entries."""
    for _ in range(2):
        rig.send(*(outgoing("cheap", price="3") for _ in range(500)))
    assert pull(rig, pulling(wanted=wanted)) == ([], seen)


def test_a_selective_filter_gets_through_a_long_backlog_in_bounded_turns(rig: Rig) -> None:
    """Many polls share a turn, one of which goes on by itself to the one message at the end."""
    for _ in range(3):
        rig.send(*(outgoing("cheap", price="3") for _ in range(READS_MAX)))
    rig.send(outgoing("dear", price="7"))
    wanted = by_sql("price > 5", 100)
    answers = [rig.broker.pull(pulling(group=f"g{n}", wanted=wanted, poll_ms=POLL_MS)) for n in range(10)]
    assert rig.broker._pulls.looked <= SCAN_MAX + reading_cost(1000), "all but the first wait for their turn"
    polls = [answer for answer in answers if isinstance(answer, asyncio.Future)]
    looked = turns(rig, *polls)
    assert max(later - earlier for earlier, later in pairwise(looked)) <= 2 * SCAN_MAX
    assert {came(one) == (["dear"], 3 * READS_MAX + 1) for one in polls} == {True}


def test_a_disk_that_fails_fails_the_poll(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """That one alone, and a pull that does not wait; later ones are served."""
    waiting = poll(rig, pulling(poll_ms=POLL_MS))
    queue = rig.broker.topics.require(TOPIC).queues[0]
    with monkeypatch.context() as patch:
        patch.setattr(type(queue), "read", lambda *_: [])
        rig.send("a")
        assert isinstance(waiting.exception(), OSError)
        with pytest.raises(OSError, match="ends before offset 0"):
            rig.broker.pull(pulling())
    assert pull(rig, pulling()) == (["a"], 1)


def test_what_is_pulled_is_counted_as_going_out(rig: Rig) -> None:
    """By group and topic, as receives; the group has no place for that."""
    rig.send(*"ab")
    pull(rig, pulling())
    subscription = rig.broker._store.state.leases.subscription(GROUP, TOPIC)
    counted = rig.broker._traffic.of(subscription)
    assert (counted.messages, counted.again, counted.messages_bytes > 0) == (2, 0, True)
    assert of_topic(rig).places == []
