"""The admin port over a real broker: topics, groups, resets, and the clock."""

import time
from collections.abc import Callable, Mapping

import pytest

from rmq.admin import Admin
from rmq.adminport import Start
from rmq.clock import SystemClock
from rmq.config import GroupSetting, TopicSetting
from rmq.errors import Code
from rmq.groupviews import READY_COUNTED
from rmq.message import MessageType
from rmq.retry import RetryPolicy
from tests.rmq.admin_rig import OTHER, admin, bury_all, letters, make, of_topic, refused, replay
from tests.rmq.conftest import MakeRig
from tests.rmq.rig import GROUP, INVISIBLE_MS, TOPIC, Rig, bodies, request
from tests.timing import uncollected

# -- topics ------------------------------------------------------------------------------------------------------------


def test_a_topic_is_made_and_shown(rig: Rig) -> None:
    """With its queues' offsets and the groups that read it."""
    rig.wait(admin(rig).put_topic(TOPIC, MessageType.FIFO, 2))
    rig.wait(admin(rig).put_topic("zebra", None, 0))
    rig.send("a", "b", "c")
    rig.receive()
    info = admin(rig).topic(TOPIC)
    assert (info.name, info.type, info.groups) == (TOPIC, MessageType.MIXED, [GROUP])
    assert [(queue.queue_id, queue.min_offset, queue.max_offset) for queue in info.queues] == [(0, 0, 3), (1, 0, 0)]
    assert [topic.name for topic in admin(rig).topics()] == [TOPIC, "zebra"]
    assert len(admin(rig).topic("zebra").queues) == rig.config.topic_queues


def test_a_topic_that_is_there_is_changed(rig: Rig) -> None:
    """What is not said stays; queues only grow."""
    rig.wait(admin(rig).put_topic(TOPIC, MessageType.DELAY, 2))
    info = rig.wait(admin(rig).put_topic(TOPIC, None, 3))
    assert (info.type, len(info.queues)) == (MessageType.DELAY, 3)
    info = rig.wait(admin(rig).put_topic(TOPIC, MessageType.NORMAL, 0))
    assert (info.type, len(info.queues)) == (MessageType.NORMAL, 3)


MISTAKES: Mapping[str, tuple[Callable[[Admin], object], Code, str]] = {
    "fewer queues": (lambda a: a.put_topic(TOPIC, None, 1), Code.BAD_REQUEST, "only get more"),
    "too many queues": (lambda a: a.put_topic("t", None, 100_000), Code.BAD_REQUEST, "queues_per_topic_max"),
    "long topic": (lambda a: a.put_topic("t" * 200, None, 1), Code.ILLEGAL_TOPIC, "longer"),
    "long group": (lambda a: a.put_group("g" * 200, 0, None), Code.ILLEGAL_CONSUMER_GROUP, "longer"),
    "topic": (lambda a: a.topic("no"), Code.TOPIC_NOT_FOUND, "no topic no"),
    "delete topic": (lambda a: a.delete_topic("no"), Code.TOPIC_NOT_FOUND, "no topic no"),
    "peek": (lambda a: a.peek("no", Start(), 1), Code.TOPIC_NOT_FOUND, "no topic no"),
    "watch": (lambda a: a.watch("no"), Code.TOPIC_NOT_FOUND, "no topic no"),
    "find": (lambda a: a.find("no", key="k"), Code.TOPIC_NOT_FOUND, "no topic no"),
    "find nothing": (lambda a: a.find(TOPIC), Code.BAD_REQUEST, "one of the two"),
    "find both": (lambda a: a.find(TOPIC, key="k", message_id="i"), Code.BAD_REQUEST, "one of the two"),
    "group": (lambda a: a.group_info("no"), Code.CONSUMER_GROUP_NOT_FOUND, "no group no"),
    "delete group": (lambda a: a.delete_group("no"), Code.CONSUMER_GROUP_NOT_FOUND, "no group no"),
    "reset no group": (lambda a: a.reset_offset("no", TOPIC, Start()), Code.CONSUMER_GROUP_NOT_FOUND, "no group no"),
    "reset no topic": (lambda a: a.reset_offset(GROUP, "no", Start()), Code.TOPIC_NOT_FOUND, "no topic no"),
    "replay no group": (lambda a: a.replay("no", ()), Code.CONSUMER_GROUP_NOT_FOUND, "no group no"),
    "replay no letter": (lambda a: a.replay(GROUP, ()), Code.TOPIC_NOT_FOUND, "no topic %DLQ%"),
    "backwards": (lambda a: a.advance(-1), Code.BAD_REQUEST, "only moves forward"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_and_changes_nothing(rig: Rig, mistake: str) -> None:
    """In the caller's words."""
    make(rig, queues=2)
    before = list(admin(rig).topics()), list(admin(rig).groups())
    call, code, text = MISTAKES[mistake]
    found = refused(lambda: call(admin(rig)))
    assert found[0] is code
    assert text in found[1]
    assert (list(admin(rig).topics()), list(admin(rig).groups())) == before


def test_a_topic_is_deleted_with_all_that_hangs_on_it(rig: Rig) -> None:
    """Messages, places, leases, polls and those who watch; one of its name begins anew."""
    make(rig, queues=4)
    rig.send("a", "b")
    handle = rig.one().handle
    rig.receive()
    poll = rig.poll(request(poll_ms=20_000))
    watch = admin(rig).watch(TOPIC)
    rig.wait(admin(rig).delete_topic(TOPIC))
    assert (poll.result(), watch.done()) == ([], True)
    assert refused(lambda: admin(rig).topic(TOPIC))[0] is Code.TOPIC_NOT_FOUND
    assert admin(rig).group_info(GROUP).topics == []
    assert admin(rig).describe().open_messages == 0
    (result,) = rig.ack(handle)
    assert result is not None
    rig.send("new")
    assert [queue.max_offset for queue in admin(rig).topic(TOPIC).queues] == [1, 0, 0, 0]
    assert bodies(rig.receive()) == ["new"]


def test_a_listing_leaves_out_what_is_deleted_meanwhile(rig: Rig) -> None:
    """It looks at each when it comes to it."""
    for name in "abc":
        make(rig, topic=name, group=name)
    topics, groups = iter(admin(rig).topics()), iter(admin(rig).groups())
    assert (next(topics).name, next(groups).name) == ("a", "a")
    rig.wait(admin(rig).delete_topic("b"))
    rig.wait(admin(rig).delete_group("b"))
    assert ([one.name for one in topics], [one.name for one in groups]) == (["c"], ["c"])


# -- groups ------------------------------------------------------------------------------------------------------------


def test_a_group_is_made_changed_and_shown(rig: Rig) -> None:
    """What is not said stays."""
    info = rig.wait(admin(rig).put_group(GROUP, 0, None))
    assert (info.name, info.attempts_max, info.retry.steps_ms[:2]) == (GROUP, 17, (1000, 5000))
    rig.wait(admin(rig).put_group(GROUP, 3, None))
    info = rig.wait(admin(rig).put_group(GROUP, 0, RetryPolicy((7, 8))))
    assert (info.attempts_max, info.retry.steps_ms) == (3, (7, 8))
    growing = RetryPolicy((), 10, 500, 3.0)
    rig.wait(admin(rig).put_group(GROUP, 0, growing))
    info = rig.wait(admin(rig).put_group(GROUP, 4, None))
    assert (info.attempts_max, info.retry) == (4, growing)


def test_a_group_shows_what_it_holds(rig: Rig) -> None:
    """Lag in messages and in time, leases, what is ready again, polls, clients."""
    make(rig)
    rig.send("a")
    rig.clock.advance(ms=1000)
    rig.send("b", "c", "d")
    rig.one(request(invisible_ms=5000))
    rig.one(request(auto_renew=True, client_id="pusher"))
    rig.advance(6000)
    rig.one(request())  # "a" again
    assert not rig.poll(request(tag="none", poll_ms=20_000)).done()  # it passes over "c" and "d"
    found = of_topic(rig, open_max=10)
    assert (found.lag_messages, found.leased, found.ready, found.waiting_polls) == (0, 2, 0, 1)
    (place,) = found.places
    assert (place.next_offset, place.committed_offset, place.max_offset, place.open) == (4, 0, 4, 2)
    rows = {(one.message_id, one.offset, one.attempt, one.client_id) for one in found.open}
    assert rows == {("id-a", 0, 2, ""), ("id-b", 1, 1, "pusher")}
    assert all(one.due_ms > rig.clock.wall_ms() for one in found.open)
    assert admin(rig).group_info(GROUP).clients == ["pusher"]
    assert [info.clients for info in admin(rig).groups()] == [["pusher"]]
    assert len(of_topic(rig, open_max=1).open) == 1
    assert of_topic(rig).open == []


def test_lag_is_what_was_never_delivered(rig: Rig) -> None:
    """Its age is that of the oldest such message in any queue."""
    make(rig, queues=2)
    rig.receive()
    for name in "abcd":
        rig.send(name)
        rig.clock.advance(ms=1000)
    assert (of_topic(rig).lag_messages, of_topic(rig).lag_ms) == (4, 4000)
    rig.receive(request(batch=3))
    assert of_topic(rig).lag_messages == 1
    assert of_topic(rig).lag_ms in (1000, 2000)
    rig.receive(request(batch=3))
    assert (of_topic(rig).lag_messages, of_topic(rig).lag_ms) == (0, 0)


def test_what_waits_to_be_delivered_again_is_counted(rig: Rig) -> None:
    """Exactly up to a limit; what was settled meanwhile is none of it."""
    make(rig)
    rig.send("a", "b", "c")
    rig.receive(request(batch=3, invisible_ms=1000))
    rig.advance(2000)
    found = of_topic(rig, open_max=3)
    assert (found.leased, found.ready, {one.due_ms for one in found.open}) == (0, 3, {0})


def test_of_very_many_the_number_is_near(make_rig: MakeRig) -> None:
    """Looking costs the same, however many there are."""
    rig = make_rig(topic_queues=1, receive_batch_max=READY_COUNTED * 2)
    for _ in range(0, READY_COUNTED + 100, 100):
        rig.send(*(str(number) for number in range(100)))
    while rig.receive(request(batch=READY_COUNTED * 2, invisible_ms=1000)):
        pass
    while of_topic(rig).leased:
        rig.advance(2000)
    assert of_topic(rig).ready >= READY_COUNTED


def test_renewed_leases_are_counted_by_client(rig: Rig) -> None:
    """0 for those that are not there."""
    make(rig)
    rig.send("a", "b", "c")
    for _ in range(2):
        rig.receive(request(auto_renew=True, client_id="pusher"))
    rig.receive(request(client_id="puller"))
    assert [admin(rig).renewed(GROUP, client) for client in ("pusher", "puller", "nobody")] == [2, 0, 0]
    assert admin(rig).renewed("no", "pusher") == 0


def test_a_group_is_deleted_and_its_dead_letters_stay(rig: Rig) -> None:
    """Places, leases and polls go."""
    make(rig)
    bury_all(rig, "dead")
    rig.send("a")
    handle = rig.one().handle
    poll = rig.poll(request(poll_ms=20_000))
    rig.wait(admin(rig).delete_group(GROUP))
    assert poll.result() == []
    assert admin(rig).describe().open_messages == 0
    (result,) = rig.ack(handle)
    assert result is not None
    assert letters(rig) == ["dead"]
    assert refused(lambda: admin(rig).replay(GROUP, ()))[0] is Code.CONSUMER_GROUP_NOT_FOUND


# -- reset -------------------------------------------------------------------------------------------------------------


def fill(rig: Rig) -> int:
    """Five messages, a second apart, all received but not settled; the time of the third."""
    make(rig)
    for name in "abcde":
        rig.clock.advance(ms=1000)
        rig.send(name)
    rig.receive(request(batch=32))
    return rig.clock.wall_ms() - 2000


STARTS: Mapping[str, tuple[Callable[[int], Start], str]] = {
    "begin": (lambda _: Start(), "abcde"),
    "end": (lambda _: Start(end=True), ""),
    "time": (lambda third_ms: Start(time_ms=third_ms), "cde"),
    "between": (lambda third_ms: Start(time_ms=third_ms + 1), "de"),
    "before all": (lambda _: Start(time_ms=0), "abcde"),
    "after all": (lambda third_ms: Start(time_ms=third_ms + 86_400_000), ""),
    "offsets": (lambda _: Start(offsets={0: 3}), "de"),
    "beyond": (lambda _: Start(offsets={0: 99}), ""),
}


@pytest.mark.parametrize("start", STARTS)
def test_a_group_goes_on_where_it_is_told(rig: Rig, start: str) -> None:
    """With first deliveries; what it held is settled, and the lag is right at once."""
    third_ms = fill(rig)
    begin, expected = STARTS[start]
    info = rig.wait(admin(rig).reset_offset(GROUP, TOPIC, begin(third_ms)))
    assert [topic.lag_messages for topic in info.topics] == [len(expected)]
    assert (of_topic(rig).leased, of_topic(rig).ready) == (0, 0)
    assert of_topic(rig).lag_ms == (
        rig.clock.wall_ms() - third_ms + (2 - "abcde".index(expected[0])) * 1000 if expected else 0
    )
    found = rig.receive(request(batch=32))
    assert ("".join(bodies(found)), {one.attempt for one in found} or {1}) == (expected, {1})
    rig.advance(INVISIBLE_MS + 1)
    assert "".join(bodies(rig.receive(request(batch=32)))) == expected


def test_a_reset_ends_old_handles(rig: Rig) -> None:
    """They can settle nothing that is delivered anew."""
    make(rig)
    rig.send("a")
    old = rig.one().handle
    rig.wait(admin(rig).reset_offset(GROUP, TOPIC, Start()))
    (result,) = rig.ack(old)
    assert result is not None
    assert result.code is Code.INVALID_RECEIPT_HANDLE
    again = rig.one()
    (result,) = rig.ack(old)
    assert result is not None
    assert rig.ack(again.handle) == [None]


def test_a_reset_wakes_waiting_polls(rig: Rig) -> None:
    """They get what is there again."""
    make(rig)
    rig.send("a")
    rig.ack(rig.one().handle)
    poll = rig.poll(request(poll_ms=20_000))
    rig.wait(admin(rig).reset_offset(GROUP, TOPIC, Start()))
    assert bodies(rig.until(poll)) == ["a"]


def test_a_reset_leaves_other_groups_alone_and_may_come_first(rig: Rig) -> None:
    """A group that never read the topic has its places then."""
    make(rig, queues=2)
    make(rig, queues=2, group=OTHER)
    rig.send("a")
    held = rig.one(request(group=OTHER))
    rig.wait(admin(rig).reset_offset(GROUP, TOPIC, Start(end=True)))
    rig.send("b")
    assert bodies(rig.receive(request(batch=9))) == ["b"]
    assert rig.ack(held.handle, group=OTHER) == [None]


def test_very_much_is_settled_in_more_than_one_entry(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry of the journal has to fit a record."""
    monkeypatch.setattr("rmq.offsets._SETTLED_AT_ONCE", 3)
    rig = make_rig(topic_queues=1)
    rig.send(*"abcdefgh")
    rig.receive(request(batch=32))
    rig.wait(admin(rig).reset_offset(GROUP, TOPIC, Start()))
    assert "".join(bodies(rig.receive(request(batch=32)))) == "abcdefgh"


# -- clock and reset ---------------------------------------------------------------------------------------------------


def test_an_advance_does_all_that_becomes_due(make_rig: MakeRig) -> None:
    """More than one tick does, and polls that wait get their messages."""
    rig = make_rig(topic_queues=1, receive_batch_max=1)
    rig.send(*(str(number) for number in range(1200)))
    for _ in range(1200):
        rig.broker.receive(request(invisible_ms=10_000))
    rig.turn()
    assert of_topic(rig).leased == 1200
    poll = rig.poll(request(poll_ms=20_000))
    before_ms = rig.clock.wall_ms()
    assert admin(rig).advance(11_000) == before_ms + 11_000
    assert of_topic(rig).leased == 0
    assert rig.until(poll)[0].attempt == 2


def test_an_advance_lets_renewed_leases_be_renewed(rig: Rig) -> None:
    """It ends, and they are as they were."""
    make(rig)
    rig.send("a")
    rig.one(request(auto_renew=True))
    admin(rig).advance(rig.config.auto_renew_ms * 10)
    assert of_topic(rig).leased == 1


def test_an_advance_ends_what_is_too_old(make_rig: MakeRig) -> None:
    """As retention would have by then."""
    rig = make_rig(topic_queues=1, memory_bytes_max=8 << 20, retention_hours=1)
    for _ in range(30):
        rig.send("x" * 100_000)
    rig.turn(50)
    begin = admin(rig).describe().log_begin
    admin(rig).advance(2 * 3_600_000)
    assert admin(rig).describe().log_begin > begin


def test_the_machines_clock_is_not_moved(make_rig: MakeRig) -> None:
    """Only a manual one."""
    rig = make_rig(SystemClock())
    assert refused(lambda: admin(rig).advance(1)) == (
        Code.BAD_REQUEST,
        "the clock is the machine's: start the server with --manual-clock",
    )


def test_a_reset_leaves_nothing_behind(make_rig: MakeRig) -> None:
    """But what the configuration wants; in little time."""
    rig = make_rig(
        topics={"wanted": TopicSetting(MessageType.NORMAL, 3)},
        groups={"kept": GroupSetting(attempts_max=5)},
        topic_queues=8,
    )
    for number in range(20):
        rig.send("a", "b", topic=f"t{number}")
        rig.receive(request(topic=f"t{number}", group=f"g{number % 5}", auto_renew=number % 2 == 0))
        assert not rig.poll(request(topic=f"t{number}", group="waits", tag="none", poll_ms=20_000)).done()
    make(rig)
    bury_all(rig, "dead")
    replay(rig)
    watch = admin(rig).watch("t3")
    poll = rig.poll(request(topic="t1", group="waits", tag="none", poll_ms=20_000))
    with uncollected():
        begun_s = time.thread_time()
        rig.wait(admin(rig).reset())
        assert time.thread_time() - begun_s < 0.05  # seldom above 0.003; a machine may be slow
    assert (poll.result(), watch.done()) == ([], True)
    assert [(one.name, len(one.queues)) for one in admin(rig).topics()] == [("wanted", 3)]
    assert [(one.name, one.attempts_max) for one in admin(rig).groups()] == [("kept", 5)]
    store, leases = rig.broker._store, rig.broker._store.state.leases
    assert (len(rig.broker._waiters), admin(rig)._browser._watchers) == (0, {})
    assert (leases.open_count, leases.leases, leases.by_client) == (0, {}, {})
    assert (leases.subscriptions, leases.by_topic, leases.by_group, leases.dirty) == ({}, {}, {}, {})
    assert (store.state.stale_folders, store.state.dirty_queues) == ([], {})
    rig.send("new")
    assert [(one.body, one.attempt) for one in rig.receive(request(batch=9))] == [(b"new", 1)]


def test_a_server_that_keeps_its_data_is_not_reset(disk_rig: Rig) -> None:
    """Not by a call."""
    make(disk_rig)
    assert refused(lambda: admin(disk_rig).reset())[0] is Code.BAD_REQUEST
    assert admin(disk_rig).topic(TOPIC).name == TOPIC


def test_the_store_in_numbers(rig: Rig) -> None:
    """Positions, and how many there are of everything."""
    make(rig)
    rig.send("a", "b")
    rig.receive()
    assert not rig.poll(request(tag="none", poll_ms=20_000)).done()
    info = admin(rig).describe()
    assert (info.topics, info.groups, info.open_messages, info.waiting_polls) == (1, 1, 1, 1)
    assert info.log_begin == 0
    assert info.log_safe == info.log_end > 0
    assert info.disk_free_bytes > 0
