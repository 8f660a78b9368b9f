"""The offsets of groups and queues: what consumers that keep count themselves commit, ask for and begin with."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from rmq.adminport import Start
from rmq.errors import Code, OffsetError
from rmq_store.journal import Acked, Change, Cursors
from tests.rmq.admin_rig import admin, of_topic, refused
from tests.rmq.conftest import MakeRig
from tests.rmq.fifo import FIFO, ack, parked, send, take
from tests.rmq.rig import GROUP, SMALL, TOPIC, Rig, bodies, request
from tests.rmq.test_pull import pulling

RESTARTS: Mapping[str, Callable[[Rig], None]] = {"restart": Rig.restart, "crash": Rig.crash}


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    """A broker in memory whose topics have one queue."""
    return make_rig(topic_queues=1)


def update(rig: Rig, offset: int, *, queue_id: int = 0, group: str = GROUP, topic: str = TOPIC) -> None:
    """Commits, and waits until it is safe."""
    rig.wait(rig.broker.update_offset(group, topic, queue_id, offset))


def committed(rig: Rig, *, queue_id: int = 0, group: str = GROUP, topic: str = TOPIC) -> int:
    """As the broker says."""
    return rig.broker.committed_offset(group, topic, queue_id)


def has_none(rig: Rig, *, queue_id: int = 0, group: str = GROUP) -> bool:
    """The group never committed one there, nor received."""
    return refused(lambda: committed(rig, queue_id=queue_id, group=group))[0] is Code.OFFSET_NOT_FOUND


# -- commits ---------------------------------------------------------------------------------------------------------


def test_a_commit_is_told_again(rig: Rig) -> None:
    """Forwards, backwards, and the next message's own offset; other groups have theirs."""
    rig.send(*"abc")
    for offset in (2, 3, 0, 1):
        update(rig, offset)
        assert committed(rig) == offset
    assert has_none(rig, group="other")


def test_a_pull_commits_nothing(rig: Rig) -> None:
    """The client says itself how far it is."""
    rig.send(*"abc")
    rig.broker.pull(pulling())
    assert has_none(rig)


@pytest.mark.parametrize("again", RESTARTS.values(), ids=RESTARTS)
def test_commits_last(disk_rig: Rig, again: Callable[[Rig], None]) -> None:
    """What was answered is there after a restart and after kill -9, and what was never committed is not."""
    for text in "abcdef":
        disk_rig.send(text)
    update(disk_rig, 2)
    update(disk_rig, 1)
    update(disk_rig, 3, group="other")
    disk_rig.broker.pull(pulling(group="reader"))
    again(disk_rig)
    assert (committed(disk_rig), committed(disk_rig, group="other")) == (1, 3)
    assert has_none(disk_rig, queue_id=1)
    assert has_none(disk_rig, group="reader")


def test_a_commit_is_answered_when_it_is_safe(disk_rig: Rig) -> None:
    """Not before its fsync."""
    disk_rig.send("a")
    answer = disk_rig.broker.update_offset(GROUP, TOPIC, 0, 1)
    assert isinstance(answer, asyncio.Future)
    assert not answer.done()
    disk_rig.until(answer)


def test_a_receive_goes_on_where_a_commit_says(rig: Rig) -> None:
    """The group has one place, whoever moves it."""
    rig.send(*"abc")
    update(rig, 1)
    assert bodies(rig.receive(request(batch=9))) == ["b", "c"]


def test_what_is_received_and_not_acked_is_not_committed(rig: Rig) -> None:
    """The oldest that is not settled, and the end once all is."""
    rig.send(*"abc")
    held = rig.receive(request(batch=9))
    rig.ack(held[0].handle, held[2].handle)
    assert committed(rig) == 1
    rig.ack(held[1].handle)
    assert committed(rig) == 3


@pytest.mark.parametrize(("offset", "again"), [(0, "abcd"), (2, "cd"), (3, "d"), (4, "")])
def test_a_commit_settles_what_the_group_holds_of_the_queue(rig: Rig, offset: int, again: str) -> None:
    """Leases below it end for good, those behind it have their messages delivered from the place on, once."""
    rig.send(*"abcd")
    held = rig.receive(request(batch=3))
    update(rig, offset)
    assert (of_topic(rig).leased, of_topic(rig).ready, committed(rig)) == (0, 0, offset)
    assert bodies(rig.receive(request(batch=9))) == list(again)
    rig.advance(60_000)
    assert sorted(bodies(rig.receive(request(batch=9)))) == list(again)
    assert held


def test_a_commit_leaves_other_queues_alone(make_rig: MakeRig) -> None:
    """What is leased or ready there comes again in its time."""
    rig = make_rig(topic_queues=2)
    rig.send("a")
    rig.send("b")
    rig.receive(request(batch=9))
    rig.advance(30_000)
    update(rig, 1)
    assert bodies(rig.receive(request(batch=9))) == ["b"]
    assert committed(rig, queue_id=1) == 0


def test_a_commit_that_goes_back_wakes_a_receive(rig: Rig) -> None:
    """It gets what is to be delivered again."""
    rig.send("a")
    rig.ack(rig.one().handle)
    waiting = rig.poll(request(poll_ms=5000))
    update(rig, 0)
    assert bodies(waiting.result()) == ["a"]


@pytest.mark.parametrize("lost", range(4))
def test_no_message_is_lost_where_a_crash_cuts_a_commit_that_goes_back(disk_rig: Rig, lost: int) -> None:
    """Whichever of its entries did not reach the disk: what was held comes again, and what lay behind the place."""
    for text in "abcdef":
        disk_rig.send(text)
    disk_rig.receive(request(batch=9))
    store = disk_rig.broker._store
    disk_rig.settle()
    apply = store.apply
    done: list[Change] = []

    def cut(change: Change) -> None:
        if len(done) < lost:
            apply(change)
        done.append(change)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "apply", cut)
        disk_rig.broker.update_offset(GROUP, TOPIC, 0, 1)
    assert [type(one) for one in done] == [Cursors, Acked, Cursors]
    disk_rig.settle()
    disk_rig.crash()
    disk_rig.advance(60_000)
    texts = {text for _ in range(9) for text in bodies(disk_rig.receive(request(batch=1)))}
    assert texts == set("bcdef") if lost == 3 else texts >= set("bcdef")


@pytest.mark.parametrize("again", [lambda rig: None, *RESTARTS.values()], ids=["", *RESTARTS])
@pytest.mark.parametrize(("offset", "left"), [(0, "a1 b1 a2 a3"), (1, "b1 a2 a3"), (3, "a3"), (4, "")])
def test_a_commit_settles_message_groups_too(
    make_rig: MakeRig, tmp_path: Path, offset: int, left: str, again: Callable[[Rig], None]
) -> None:
    """What is leased, acked behind others and parked below it; what lies behind comes in order, once each."""
    rig = make_rig(flush="durable", data=str(tmp_path / "data"), **FIFO, **SMALL)
    send(rig, "a1", "b1", "a2", "a3")
    held = take(rig, 3, fifo=True)
    assert bodies(held) == ["a1", "b1", "a2"]
    ack(rig, held[2])
    update(rig, offset)
    again(rig)
    assert (committed(rig), parked(rig)) == (offset, 0)
    came = []
    while messages := take(rig):
        came += bodies(messages)
        ack(rig, *messages)
    assert sorted(came) == sorted(left.split())
    assert [name for name in came if name[0] == "a"] == [name for name in left.split() if name[0] == "a"]
    assert committed(rig) == 4


def test_a_pull_passes_over_no_message_group(make_rig: MakeRig) -> None:
    """What waits for others of its group in one consumer group, a pull reads all the same, in the queue's order."""
    rig = make_rig(**FIFO)
    send(rig, "a1", "a2", "b1")
    take(rig, 1)
    assert bodies(rig.wait(rig.broker.pull(pulling())).messages) == ["a1", "a2", "b1"]


def test_a_commit_that_goes_back_holds_behind_damage(make_rig: MakeRig, tmp_path: Path) -> None:
    """Where the record of the deliveries before it is lost, what it settles is not taken for the group's place."""
    data = tmp_path / "data"
    small = {**SMALL, "checkpoint_interval_ms": 3_600_000}
    rig = make_rig(flush="durable", data=str(data), topic_queues=1, **small)
    rig.send(*"abcdef")
    rig.settle()
    begin = rig.broker._store.log.end
    rig.receive(request(batch=9))
    rig.settle()
    update(rig, 1)
    (segment,) = (data / "commitlog").iterdir()
    with segment.open("r+b") as file:
        file.seek(begin + 30)
        file.write(b"damage")
    rig.crash()
    rig.advance(60_000)
    assert set(bodies(rig.receive(request(batch=32)))) >= set("bcdef")


@pytest.mark.parametrize(("offset", "nearest"), [(-1, 0), (4, 3)])
def test_a_commit_outside_of_the_queue_is_refused(rig: Rig, offset: int, nearest: int) -> None:
    """Nothing is changed, not even made."""
    rig.send(*"abc")
    with pytest.raises(OffsetError) as caught:
        update(rig, offset)
    assert (caught.value.code, caught.value.nearest) == (Code.ILLEGAL_OFFSET, nearest)
    assert list(admin(rig).groups()) == []


def test_retention_counts_as_settled(disk_rig: Rig) -> None:
    """What a group has committed is never below the begin of the queue: from there it can pull."""
    disk_rig.send("a")
    update(disk_rig, 0)
    disk_rig.broker.topics.require(TOPIC).queues[0].cut(1)
    assert committed(disk_rig) == 1


def test_a_reset_is_told_as_a_commit_is(rig: Rig) -> None:
    """An operator moves the same place."""
    rig.send(*"abc")
    update(rig, 3)
    rig.wait(admin(rig).reset_offset(GROUP, TOPIC, Start(offsets={0: 1})))
    assert committed(rig) == 1


# -- what is not there -----------------------------------------------------------------------------------------------

CALLS: Mapping[str, Callable[[Rig, str, int], object]] = {
    "update": lambda rig, topic, queue_id: rig.broker.update_offset(GROUP, topic, queue_id, 0),
    "committed": lambda rig, topic, queue_id: rig.broker.committed_offset(GROUP, topic, queue_id),
    "query": lambda rig, topic, queue_id: rig.broker.query_offset(topic, queue_id),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_topics_and_queues_that_are_not_there(rig: Rig, call: Callable[[Rig, str, int], object]) -> None:
    """Nothing is made for an offset, in profile dev neither."""
    rig.send("a")
    assert refused(lambda: call(rig, "none", 0))[0] is Code.TOPIC_NOT_FOUND
    assert refused(lambda: call(rig, TOPIC, 1))[0] is Code.NOT_FOUND
    assert refused(lambda: call(rig, TOPIC, -1))[0] is Code.NOT_FOUND
    assert [one.name for one in admin(rig).topics()] == [TOPIC]


def test_profile_strict_knows_its_groups(make_rig: MakeRig) -> None:
    """A commit makes no group there, and one that is not there has no offset."""
    rig = make_rig(profile="strict", topic_queues=1)
    admin(rig).put_topic(TOPIC, None, 1)
    for call in (CALLS["update"], CALLS["committed"]):
        assert refused(lambda: call(rig, TOPIC, 0))[0] is Code.CONSUMER_GROUP_NOT_FOUND  # noqa: B023  # called at once


# -- queues ----------------------------------------------------------------------------------------------------------


def test_the_edges_of_a_queue(disk_rig: Rig) -> None:
    """The first that is kept, and the next message's."""
    for _ in range(3):
        disk_rig.send("x", "y")
    query = disk_rig.broker.query_offset
    assert (query(TOPIC, 0), query(TOPIC, 0, end=True)) == (0, 4)
    disk_rig.broker.topics.require(TOPIC).queues[0].cut(2)
    assert query(TOPIC, 0) == 2


def test_the_offset_of_a_time(rig: Rig) -> None:
    """The first message stored then or later, as Apache: 0 before all, the end behind all."""
    begin_ms = rig.clock.wall_ms()
    for text in "abc":
        rig.send(text)
        rig.advance(1000)
    found = [rig.broker.query_offset(TOPIC, 0, time_ms=begin_ms + ms) for ms in (-(10**15), 0, 1, 1000, 2000, 2001)]
    assert found == [0, 0, 1, 1, 2, 3]
