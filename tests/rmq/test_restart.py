"""What outlives the server: leases, handles, acks, cursors; after a stop in good order and after kill -9 alike."""

from pathlib import Path

import pytest

from rmq import message as m
from rmq.config import GroupSetting, TopicSetting
from rmq.expiry import ANSWER_MS
from rmq.filter import ALL
from rmq.message import Delivered, MessageType
from rmq.port import Later
from rmq_store import record
from tests.rmq.conftest import MakeRig
from tests.rmq.rig import GROUP, INVISIBLE_MS, SMALL, TOPIC, Rig, bodies, outgoing, request

WAYS = pytest.mark.parametrize("way", ["stop", "crash"])


def again(rig: Rig, way: str, pause_ms: int = 0, **settings: object) -> None:
    """The next server on what this one leaves."""
    (rig.restart if way == "stop" else rig.crash)(pause_ms=pause_ms, **settings)


def test_what_the_configuration_lists_is_there_once_a_broker_has_settled(make_rig: MakeRig, tmp_path: Path) -> None:
    """Which a server waits for before it says that it is ready: then a kill -9 does not take it back."""
    listed = {TOPIC: TopicSetting(MessageType.NORMAL, 1)}
    rig = make_rig(flush="durable", data=str(tmp_path / "data"), topics=listed, **SMALL)
    rig.wait(rig.broker.settled())
    rig.crash(topics={})
    assert list(rig.broker._store.state.topics) == [TOPIC]


@WAYS
def test_leases_survive(disk_rig: Rig, way: str) -> None:
    """The message stays away until its time is over, on the clock that went on meanwhile; then attempt + 1."""
    disk_rig.send("a")
    disk_rig.one()
    disk_rig.settle()
    again(disk_rig, way, 10_000)
    assert disk_rig.receive() == []
    disk_rig.advance(19_999)
    assert disk_rig.receive() == []
    disk_rig.advance(1)
    assert disk_rig.one().attempt == 2


def test_a_lease_outlives_a_kill_right_behind_its_answer(disk_rig: Rig) -> None:
    """Of a receive that finds something, of one that waited, and of one that is asked again: each is written before."""
    disk_rig.send("a")
    found = disk_rig.one()
    disk_rig.crash()
    assert disk_rig.ack(found.handle) == [None]
    written: list[bool] = []
    waiting = disk_rig.poll(request(poll_ms=10_000))
    assert isinstance(waiting, Later)
    waiting.follow(lambda _: written.append(is_written(disk_rig)))
    disk_rig.send("b")
    disk_rig.until(waiting)
    disk_rig.send(outgoing("c", topic="bills", __SHARDINGKEY="x"), topic="bills")
    wanted = request(topic="bills", fifo=True, attempt_id="once")
    for _ in range(2):
        disk_rig.one(wanted)
        written.append(is_written(disk_rig))
    assert written == [True, True, True]


def is_written(rig: Rig) -> bool:
    """Whether the log's file has all that has happened."""
    store = rig.broker._store
    return not store._changes and store.log.written == store.log.end


@WAYS
def test_handles_from_before_stay_valid(disk_rig: Rig, way: str) -> None:
    """For an ack, a change and a dead letter; those of a changed lease are dead as before."""
    disk_rig.send(*"abc")
    acked, changed, buried = disk_rig.receive(request(batch=3))
    handle = disk_rig.change(changed.handle, 20_000)
    again(disk_rig, way)
    assert [outcome is None for outcome in disk_rig.ack(acked.handle, changed.handle, handle)] == [True, False, True]
    disk_rig.bury(buried.handle)
    assert bodies(disk_rig.receive(request(f"%DLQ%{GROUP}"))) == ["c"]
    disk_rig.advance(INVISIBLE_MS)
    assert disk_rig.receive(request(batch=9)) == []


@WAYS
def test_leases_that_ended_meanwhile_come_at_once(disk_rig: Rig, way: str) -> None:
    """Nobody was there to end them."""
    disk_rig.send("a")
    disk_rig.one()
    disk_rig.settle()
    again(disk_rig, way, INVISIBLE_MS)
    assert disk_rig.one().attempt == 2


@WAYS
def test_what_was_ready_is_ready(disk_rig: Rig, way: str) -> None:
    """Returned or expired before the stop: with the attempts that it has."""
    disk_rig.send("a")
    disk_rig.change(disk_rig.one().handle, 0)
    again(disk_rig, way)
    assert disk_rig.one().attempt == 2
    disk_rig.advance(INVISIBLE_MS)
    disk_rig.settle()
    again(disk_rig, way)
    assert disk_rig.one().attempt == 3


@WAYS
def test_acks_are_not_undone(disk_rig: Rig, way: str) -> None:
    """What was answered OK never comes again, whatever else of its batch does."""
    disk_rig.send(*map(str, range(10)))
    messages = disk_rig.receive(request(batch=10))
    disk_rig.ack(*(message.handle for message in messages[::2]))
    again(disk_rig, way, INVISIBLE_MS)
    assert bodies(disk_rig.receive(request(batch=32))) == bodies(messages[1::2])


@WAYS
def test_cursors_go_on(disk_rig: Rig, way: str) -> None:
    """What was delivered is not new any more; what was not still is, with attempt 1."""
    disk_rig.send(*"abc")
    disk_rig.one()
    disk_rig.settle()
    again(disk_rig, way)
    assert [(message.body, message.attempt) for message in disk_rig.receive(request(batch=9))] == [(b"b", 1), (b"c", 1)]


@WAYS
def test_what_a_filter_passed_over_stays_passed_over(disk_rig: Rig, way: str) -> None:
    """For this group."""
    disk_rig.send(outgoing("1", tag="a"), outgoing("2", tag="b"))
    disk_rig.ack(disk_rig.one(request(tag="b", batch=9)).handle)
    again(disk_rig, way)
    assert disk_rig.receive(request(batch=9)) == []


@WAYS
def test_suspended_deliveries_stay_uncounted(disk_rig: Rig, way: str) -> None:
    """Attempt 1 again, also where the suspension ended while nobody was there."""
    disk_rig.send("a")
    disk_rig.change(disk_rig.one().handle, 1000, suspend=True)
    again(disk_rig, way, 1000)
    assert disk_rig.one().attempt == 1


@WAYS
def test_a_renewed_lease_holds_until_its_client_proves_silent(disk_rig: Rig, way: str) -> None:
    """Whatever the lease's end was: it is the proxy that waits; then the message is back after a second."""
    disk_rig.send("a")
    disk_rig.one(request(client_id="pusher", auto_renew=True))
    its_answer_has_arrived(disk_rig)
    again(disk_rig, way, 3_600_000)
    assert disk_rig.broker.recovered_clients == [(GROUP, "pusher")]
    for _ in range(4):
        disk_rig.advance(30_000)
        assert disk_rig.receive() == []
    disk_rig.broker.offline(GROUP, "pusher")
    disk_rig.advance(999)
    assert disk_rig.receive() == []
    disk_rig.advance(1)
    assert disk_rig.one().attempt == 2


@WAYS
def test_a_renewed_lease_is_kept_for_a_client_that_stayed(disk_rig: Rig, way: str) -> None:
    """Its handle acknowledges; the total of renewals counts from the receive."""
    disk_rig.send(*"ab")
    kept, _ = disk_rig.receive(request(client_id="pusher", auto_renew=True, batch=2))
    its_answer_has_arrived(disk_rig)
    again(disk_rig, way, renew_total_ms_max=610_000, groups={GROUP: GroupSetting(17, (0,))})
    assert disk_rig.ack(kept.handle) == [None]
    for _ in range(9):
        disk_rig.advance(60_000)
        assert disk_rig.receive() == []
    disk_rig.advance(60_000)
    assert bodies(disk_rig.receive()) == ["b"]


def its_answer_has_arrived(rig: Rig) -> None:
    """There are later receives, by as much as an answer may take."""
    rig.advance(ANSWER_MS)
    rig.send("later", topic="bills")
    rig.one(request(topic="bills"))
    rig.settle()


def test_what_was_received_right_before_a_crash_is_not_renewed_behind_it(disk_rig: Rig) -> None:
    """Its answer may never have left, and the client lives on: it comes again after one auto_renew_ms, however often
    the server is killed until then; the handle acknowledges until then.
    """
    disk_rig.send(*"abc")
    first, _, _ = disk_rig.receive(request(client_id="pusher", auto_renew=True, batch=3))
    disk_rig.crash()
    assert disk_rig.broker.recovered_clients == [(GROUP, "pusher")]
    disk_rig.broker.online(GROUP, "pusher", {TOPIC: ALL})
    disk_rig.settle()
    disk_rig.crash(pause_ms=1000)
    assert disk_rig.ack(first.handle) == [None]
    disk_rig.advance(disk_rig.config.auto_renew_ms - 1001)
    assert disk_rig.receive() == []
    disk_rig.advance(1)
    assert [(m.body, m.attempt) for m in disk_rig.receive(request(batch=9))] == [(b"b", 2), (b"c", 2)]


def test_a_receive_that_a_crash_cut_off_is_answered_alike_when_it_is_asked_again(disk_rig: Rig) -> None:
    """A push consumer's of a message group, with the same attempt id: the same deliveries, renewed from then on."""
    disk_rig.send(outgoing("a", __SHARDINGKEY="x"), outgoing("b", __SHARDINGKEY="x"))
    wanted = request(client_id="pusher", auto_renew=True, fifo=True, attempt_id="once")
    disk_rig.one(wanted)
    disk_rig.crash()
    found = disk_rig.one(wanted)
    assert (found.body, found.attempt) == (b"a", 1)
    for _ in range(4):
        disk_rig.advance(disk_rig.config.auto_renew_ms)
        assert disk_rig.receive() == []
    assert disk_rig.ack(found.handle) == [None]


def test_a_clock_that_was_set_back_holds_no_lease_longer_than_was_asked(make_rig: MakeRig, disk_rig: Rig) -> None:
    """The stored end lies an hour ahead of the new clock: at most the invisible duration from the start counts."""
    disk_rig.clock.advance(hours=1)
    disk_rig.send("a")
    disk_rig.one()
    data = disk_rig.config.data
    disk_rig.restart(data=data + "-elsewhere")
    late = make_rig(flush="durable", data=data, topic_queues=2, **SMALL)
    late.advance(INVISIBLE_MS - 1)
    assert late.receive() == []
    late.advance(1)
    assert late.one().attempt == 2


@WAYS
def test_what_a_vanished_client_gave_back_stays_given_back(disk_rig: Rig, way: str) -> None:
    """The server does not take its lease up again; until the second is over, the handle still acknowledges."""
    disk_rig.send(*"ab")
    first, _ = disk_rig.receive(request(client_id="pusher", auto_renew=True, batch=2))
    disk_rig.broker.offline(GROUP, "pusher")
    disk_rig.settle()
    again(disk_rig, way, 500)
    assert disk_rig.broker.recovered_clients == []
    assert disk_rig.ack(first.handle) == [None]
    disk_rig.advance(500)
    assert bodies(disk_rig.receive(request(batch=9))) == ["b"]


@WAYS
def test_dead_letters_are_made_after_a_restart_too(disk_rig: Rig, way: str) -> None:
    """The last attempt ended while nobody was there."""
    disk_rig.restart(groups={GROUP: GroupSetting(1)})
    disk_rig.send("a")
    disk_rig.one()
    disk_rig.settle()
    again(disk_rig, way, INVISIBLE_MS)
    disk_rig.settle()
    assert bodies(disk_rig.receive(request(f"%DLQ%{GROUP}"))) == ["a"]
    assert disk_rig.receive() == []


@WAYS
def test_handles_of_different_lives_are_never_alike(disk_rig: Rig, way: str) -> None:
    """Though place and time of the deliveries are the same."""
    disk_rig.send("a")
    seen: set[str] = set()
    for _ in range(3):
        came = disk_rig.one()
        assert came.handle not in seen
        seen.add(came.handle)
        disk_rig.change(came.handle, 0)
        again(disk_rig, way)


def test_a_stop_answers_what_was_sent(disk_rig: Rig) -> None:
    """Verbs whose answers wait for the disk when the stop begins are answered by it."""
    answer = disk_rig.broker.send([outgoing("a")])
    disk_rig.broker.close()
    assert not isinstance(answer, list)
    disk_rig.turn()
    assert disk_rig.until(answer)[0].queue_offset == 0  # type: ignore[arg-type]  # a Future: see above
    assert disk_rig.broker._lease_alarm._timer is None
    assert disk_rig.broker._timer_alarm._timer is None
    disk_rig._start(0, {})
    assert bodies(disk_rig.receive()) == ["a"]


# -- segments that are deleted ---------------------------------------------------------------------------------------


@pytest.fixture
def short_rig(make_rig: MakeRig, tmp_path: Path) -> Rig:
    """A broker that keeps two segments of 64 KiB, and cleans up when it is told to."""
    small = {**SMALL, "segment_bytes": 64 << 10, "reserve_bytes": 64 << 10}
    return make_rig(flush="durable", data=str(tmp_path / "data"), topic_queues=1, log_bytes_max=128 << 10, **small)


def push_out(rig: Rig) -> None:
    """Other messages fill segments until those from before are deleted."""
    begin = rig.broker._store.log.end
    while rig.broker._store.log.begin <= begin:
        for _ in range(10):
            rig.send(outgoing("x" * 8_000, topic="filler"))
        rig.clean()


def hold(rig: Rig) -> Delivered:
    """One message, delivered; then its segment goes."""
    rig.send(outgoing("a", tag="t", user="u"))
    came = rig.one(request(tag="t"))
    push_out(rig)
    return came


def test_a_leased_message_outlives_its_segment(short_rig: Rig) -> None:
    """It comes again under its own place and name, with its properties and the next attempt."""
    came = hold(short_rig)
    short_rig.advance(INVISIBLE_MS)
    back = short_rig.one(request(tag="t"))
    assert (back.topic, back.queue_id, back.queue_offset) == (came.topic, came.queue_id, came.queue_offset)
    assert (back.body, back.attempt, back.born_ms) == (came.body, 2, came.born_ms)
    assert {name: back.properties[name] for name in came.properties} == came.properties
    short_rig.ack(back.handle)
    short_rig.advance(INVISIBLE_MS)
    assert short_rig.receive() == []


@pytest.mark.parametrize("way", ["", "stop", "crash"])
def test_its_old_handle_acknowledges_it(short_rig: Rig, way: str) -> None:
    """Also after a restart: the lease moved along."""
    came = hold(short_rig)
    if way:
        again(short_rig, way)
    assert short_rig.ack(came.handle) == [None]
    short_rig.advance(INVISIBLE_MS)
    assert short_rig.receive() == []


@WAYS
def test_it_can_be_moved_many_times(short_rig: Rig, way: str) -> None:
    """Each time with its attempts; the others of the group stay settled."""
    hold(short_rig)
    for attempt in range(2, 5):
        short_rig.advance(INVISIBLE_MS)
        assert short_rig.one().attempt == attempt
        push_out(short_rig)
        again(short_rig, way)


def test_it_can_still_become_a_dead_letter(short_rig: Rig) -> None:
    """Its origin is where it was sent to."""
    short_rig.bury(hold(short_rig).handle)
    (letter,) = short_rig.receive(request(f"%DLQ%{GROUP}"))
    assert (letter.body, letter.properties[m.DLQ_ORIGIN_TOPIC], letter.properties["user"]) == (b"a", TOPIC, "u")
    short_rig.advance(INVISIBLE_MS)
    assert short_rig.receive() == []


@WAYS
def test_a_suspended_message_outlives_its_segment(short_rig: Rig, way: str) -> None:
    """Though its first delivery does not count."""
    short_rig.send("a")
    short_rig.change(short_rig.one().handle, INVISIBLE_MS, suspend=True)
    push_out(short_rig)
    again(short_rig, way)
    short_rig.advance(INVISIBLE_MS)
    assert short_rig.one().attempt == 1


def test_a_settled_message_does_not_come_back_with_a_deleted_segment(short_rig: Rig) -> None:
    """Nor do the messages around it."""
    short_rig.send(*"abc")
    first, second, third = short_rig.receive(request(batch=3))
    short_rig.ack(first.handle, third.handle)
    push_out(short_rig)
    again(short_rig, "crash", INVISIBLE_MS)
    assert bodies(short_rig.receive(request(batch=9))) == [second.body.decode()]


def test_messages_that_were_never_delivered_go_with_their_segment(short_rig: Rig) -> None:
    """Retention is retention; the group goes on with what is there."""
    short_rig.receive()
    short_rig.send("a")
    push_out(short_rig)
    short_rig.send("b")
    assert bodies(short_rig.receive(request(batch=9))) == ["b"]


def test_properties_of_a_moved_message_stay_readable_by_others(short_rig: Rig) -> None:
    """The moved copy is a whole record of its own, with the origin in its properties."""
    hold(short_rig)
    topic = short_rig.broker.topics.find(f"%RETRY%{GROUP}")
    assert topic is not None
    (entry,) = topic.queues[0].read(0, 1)
    moved = short_rig.broker._store.read(topic.queues[0], 0, entry)
    assert moved is not None
    properties = record.decode_properties(moved.properties)
    assert (properties[m.RETRY_TOPIC], properties[m.UNIQ_KEY], moved.reconsume_times) == (TOPIC, "id-a", 0)
