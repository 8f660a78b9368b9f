"""Delayed messages: never before their wall-clock time, then once, whatever happens to the server in between."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from rmq import message as m
from rmq.clock import SystemClock
from rmq.config import TopicSetting
from rmq.errors import ClientError, Code
from rmq.message import MessageType, Outgoing, SendResult
from rmq.recallhandle import RecallHandle
from rmq.shard import queue_of
from rmq_store import timers
from rmq_store.errors import StoreFull
from tests.rmq.conftest import MakeRig
from tests.rmq.rig import SMALL, TOPIC, Rig, bodies, config, outgoing, request

HOUR_MS = 3_600_000


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A broker with files, and one topic that has a group."""
    rig = Rig(config(flush="fast", data=str(tmp_path / "data"), topic_queues=1, **SMALL))
    rig.receive()
    yield rig
    rig.close()


def delayed(rig: Rig, body: str, ms: int, **properties: str) -> Outgoing:
    """A message for `ms` from now."""
    return outgoing(body, **{m.TIMER_DELIVER_MS: str(rig.clock.wall_ms() + ms), **properties})


def send(rig: Rig, body: str, ms: int) -> SendResult:
    """One for `ms` from now."""
    (result,) = rig.send(delayed(rig, body, ms))
    return result


def taken(rig: Rig) -> list[str]:
    """What there is for the group now, acknowledged."""
    messages = rig.receive(request(batch=32))
    rig.ack(*(message.handle for message in messages))
    return bodies(messages)


def recall(rig: Rig, handle: str, topic: str = TOPIC) -> str:
    """The id of what was recalled."""
    return rig.wait(rig.broker.recall(topic, handle))


def code_of(rig: Rig, handle: str, topic: str = TOPIC) -> Code:
    """Why it cannot be recalled."""
    with pytest.raises(ClientError) as caught:
        recall(rig, handle, topic)
    return caught.value.code


def test_a_delayed_message_comes_at_its_millisecond_and_not_before(rig: Rig) -> None:
    """One millisecond earlier there is nothing."""
    send(rig, "later", 5000)
    rig.advance(4999)
    assert taken(rig) == []
    rig.advance(1)
    assert taken(rig) == ["later"]
    rig.advance(HOUR_MS)
    assert taken(rig) == []


def test_it_is_the_message_that_was_sent(rig: Rig) -> None:
    """Its properties are the sender's; what the timer needed is gone, and what it stands for is named."""
    due = rig.clock.wall_ms() + 10
    rig.send(delayed(rig, "later", 10, color="red", TAGS="t", KEYS="k"))
    rig.advance(10)
    got = rig.one(request(tag="t"))
    assert got.topic == TOPIC
    assert got.properties["color"] == "red"
    assert got.properties[m.TIMER_DELIVER_MS] == str(due)
    assert not got.properties.keys() & set(timers.TIMER_PROPERTIES)
    assert got.properties[m.RMQ_ORIGIN].split("@")[1] == timers.TOPIC


def test_what_is_due_already_is_delivered_at_once(rig: Rig) -> None:
    """The past and this very millisecond; there is nothing to recall then."""
    assert [send(rig, "past", -5).recall_handle, send(rig, "now", 0).recall_handle] == ["", ""]
    assert taken(rig) == ["past", "now"]


def test_they_come_in_order_of_due_time_then_of_sending(rig: Rig) -> None:
    """Also where much becomes due at once."""
    for body, ms in (("c", 30), ("a1", 10), ("b", 20), ("a2", 10)):
        send(rig, body, ms)
    rig.advance(30)
    assert taken(rig) == ["a1", "a2", "b", "c"]


def test_a_batch_may_mix_delayed_and_other_messages(rig: Rig) -> None:
    """Each result is of its own message, in request order."""
    results = rig.send(delayed(rig, "d1", 10), outgoing("n1"), delayed(rig, "d2", 10), outgoing("n2"))
    assert [bool(result.recall_handle) for result in results] == [True, False, True, False]
    assert [result.queue_offset for result in results] == [0, 0, 1, 1]
    assert taken(rig) == ["n1", "n2"]
    rig.advance(10)
    assert taken(rig) == ["d1", "d2"]


def test_a_recalled_message_never_comes(rig: Rig) -> None:
    """Recalling again is OK; a neighbour comes."""
    gone, kept = send(rig, "gone", 50), send(rig, "kept", 50)
    assert recall(rig, gone.recall_handle) == "id-gone"
    assert recall(rig, gone.recall_handle) == "id-gone"
    rig.advance(50)
    assert taken(rig) == ["kept"]
    assert code_of(rig, kept.recall_handle) is Code.PRECONDITION_FAILED


def test_a_delivered_message_cannot_be_recalled_though_the_clock_went_back(rig: Rig) -> None:
    """What counts is that it was delivered."""
    first, later = send(rig, "first", 50), send(rig, "later", 90)
    rig.advance(60)
    rig.clock._offset_ms -= 40  # no verb turns a test's clock back; NTP does it to the machine's
    assert code_of(rig, first.recall_handle) is Code.PRECONDITION_FAILED
    assert recall(rig, later.recall_handle) == "id-later"


def test_a_clock_that_went_back_delivers_nothing_early(rig: Rig) -> None:
    """It comes when the clock has that time again."""
    send(rig, "later", 50)
    rig.clock._offset_ms -= 1000
    rig.advance(1049)
    assert taken(rig) == []
    rig.advance(1)
    assert taken(rig) == ["later"]


@pytest.mark.parametrize("handle", ["", "?", "djEgYSBi", "bm8=", "djEgb3JkZXJzIGJyb2tlci1hIHggMDppZA=="])
def test_garbage_is_no_recall_handle(rig: Rig, handle: str) -> None:
    """Whatever is wrong with it."""
    assert code_of(rig, handle) is Code.ILLEGAL_MESSAGE_ID


def test_a_handle_is_good_for_its_own_message_only(rig: Rig) -> None:
    """Not for another topic, an unknown number, or another message under the same number."""
    handle = RecallHandle.parse(send(rig, "later", 50).recall_handle)
    rig.send("x", topic="other")
    assert code_of(rig, handle.text(), "other") is Code.ILLEGAL_MESSAGE_ID
    for wrong in (
        handle._replace(number=1),
        handle._replace(message_id="id-x"),
        handle._replace(due_ms=handle.due_ms + 1),
        handle._replace(broker="b"),
    ):
        assert code_of(rig, wrong.text()) is Code.ILLEGAL_MESSAGE_ID
    assert recall(rig, handle.text()) == "id-later"


def test_profile_strict_recalls_from_topics_of_the_right_type_only(rig: Rig) -> None:
    """As Apache: DELAY or MIXED."""
    handle = send(rig, "later", 50).recall_handle
    rig.broker.topics._dev = False
    rig.wait(rig.broker.admin.put_topic("normal", m.MessageType.NORMAL, 1))
    assert code_of(rig, handle, "normal") is Code.MESSAGE_PROPERTY_CONFLICT_WITH_TYPE
    assert code_of(rig, handle, "missing") is Code.TOPIC_NOT_FOUND
    assert recall(rig, handle) == "id-later"


@pytest.mark.parametrize("way", ["restart", "crash"])
def test_timers_and_recalls_survive(rig: Rig, way: str) -> None:
    """A stop in good order, and a kill: what waits comes at its time, once; what was recalled or came does not."""
    came, gone, waits = send(rig, "came", 10), send(rig, "gone", 5000), send(rig, "waits", 5000)
    rig.advance(10)
    assert taken(rig) == ["came"]
    recall(rig, gone.recall_handle)
    rig.settle()
    for _ in range(2):
        rig.restart() if way == "restart" else rig.crash()
        assert taken(rig) == []
    assert recall(rig, gone.recall_handle) == "id-gone"
    assert code_of(rig, came.recall_handle) is Code.PRECONDITION_FAILED
    rig.advance(5000)
    assert taken(rig) == ["waits"]
    assert code_of(rig, waits.recall_handle) is Code.PRECONDITION_FAILED


def test_what_became_due_while_the_server_was_down_comes_at_its_start(rig: Rig) -> None:
    """Late, but it comes."""
    send(rig, "later", 5000)
    rig.restart(pause_ms=HOUR_MS)
    assert taken(rig) == ["later"]


def test_retention_carries_timers_forward(rig: Rig) -> None:
    """Again and again; their handles stay valid, a restart and a replay know them."""
    gone, waits = send(rig, "gone", 300 * HOUR_MS), send(rig, "waits", 300 * HOUR_MS)
    for _ in range(2):
        begin = rig.broker._store.log.begin
        for _ in range(5):
            rig.send(*[outgoing("x" * 200_000)] * 3)
            rig.settle()
        rig.clock.advance(hours=100)
        rig.broker.tick()
        rig.clean()
        assert rig.broker._store.log.begin > begin
    rig.crash()
    assert len(rig.broker._store.state.timers) == 2
    assert recall(rig, gone.recall_handle) == "id-gone"
    assert recall(rig, gone.recall_handle) == "id-gone"
    group = request(group="late", batch=32)
    rig.advance(100 * HOUR_MS - 1)
    assert "waits" not in bodies(rig.receive(group))
    rig.advance(1)
    assert "waits" in bodies(rig.receive(group))
    assert code_of(rig, waits.recall_handle) is Code.PRECONDITION_FAILED
    assert not rig.broker._store.state.timers._carried


def test_no_more_than_timers_max_wait(rig: Rig) -> None:
    """The batch is refused whole; what is due already is no timer."""
    rig.restart(timers_max=2)
    send(rig, "one", 50)
    with pytest.raises(ClientError) as caught:
        rig.send(delayed(rig, "two", 50), outgoing("n"), delayed(rig, "three", 50))
    assert caught.value.code is Code.TOO_MANY_REQUESTS
    assert taken(rig) == []
    send(rig, "two", 50)
    send(rig, "past", 0)
    rig.advance(50)
    assert taken(rig) == ["past", "one", "two"]


def test_a_full_disk_makes_due_messages_wait(rig: Rig) -> None:
    """Until there is room; none is lost, and the clock of a test does not hang."""
    send(rig, "later", 50)
    rig.settle()
    log = rig.broker._store.log
    make_room, log._make_room = log._make_room, _full  # type: ignore[method-assign]
    log._easy_end = 0
    rig.clock.advance(ms=50)
    rig.broker.catch_up()
    assert taken(rig) == []
    log._make_room = make_room  # type: ignore[method-assign]
    rig.advance(999)
    assert taken(rig) == []
    rig.advance(1)
    assert taken(rig) == ["later"]


def _full(size: int, *, journal: bool) -> None:
    if not journal:
        raise StoreFull("full")


def test_a_message_whose_topic_was_deleted_is_given_up(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """It says so, and the others come."""
    rig.send(delayed(rig, "lost", 40), delayed(rig, "lost too", 50))
    rig.wait(rig.broker.admin.delete_topic(TOPIC))
    rig.advance(40)
    assert "its topic was deleted" in caplog.text
    rig.crash()
    rig.send("new")
    rig.advance(9)
    assert taken(rig) == ["new"]
    assert len(rig.broker._store.state.timers) == 1


def test_a_timer_that_cannot_be_read_is_given_up(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """Damage costs the one message."""
    send(rig, "lost", 50)
    send(rig, "kept", 50)
    rig.settle()
    store = rig.broker._store
    position = store.state.topics[timers.TOPIC].queues[0].read(0, 1)[0].position
    store.log.segment_at(position).write(position + 100, b"\xff" * 8)
    rig.advance(50)
    assert "cannot be read" in caplog.text
    assert taken(rig) == ["kept"]


def test_the_loop_s_own_timer_delivers() -> None:
    """On the machine's clock, without a tick by hand."""
    clock = SystemClock()
    with contextlib.closing(Rig(config(), clock)) as live:
        due_ms = clock.wall_ms() + 60
        poll = live.poll(request(poll_ms=20_000))
        live.send(outgoing("soon", **{m.TIMER_DELIVER_MS: str(due_ms)}))
        assert bodies(live.until(poll)) == ["soon"]
        assert clock.wall_ms() >= due_ms


def test_delayed_messages_for_people(rig: Rig) -> None:
    """They are listed by due time, of one topic or all; one can be shown and cancelled, by its number."""
    admin = rig.broker.admin
    rig.send(delayed(rig, "late", 90), delayed(rig, "soon", 10))
    rig.send(outgoing("else", topic="other", **{m.TIMER_DELIVER_MS: str(rig.clock.wall_ms() + 50)}))
    assert [one.message.body.decode() for one in admin.timers("", 9)] == ["soon", "else", "late"]
    assert [one.number for one in admin.timers("", 2)] == [1, 2]
    assert [one.number for one in admin.timers(TOPIC, 9)] == [1, 0]
    assert [one.number for one in admin.timers(TOPIC, 1)] == [1]
    listing = admin.timers("", 9)
    assert next(iter(listing)).number == 1
    shown = admin.timer(2)
    assert (shown.message.topic, shown.due_ms) == ("other", rig.clock.wall_ms() + 50)
    rig.wait(admin.cancel_timer(2))
    assert [one.number for one in listing] == [0]
    rig.advance(90)
    assert taken(rig) == ["soon", "late"]
    assert rig.receive(request("other")) == []


@pytest.mark.parametrize("number", [-1, 0, 7])
def test_a_timer_that_does_not_wait_is_not_there(rig: Rig, number: int) -> None:
    """Fired, or never was."""
    send(rig, "came", 10)
    rig.advance(10)
    for verb in (rig.broker.admin.timer, rig.broker.admin.cancel_timer):
        with pytest.raises(ClientError) as caught:
            verb(number)
        assert caught.value.code is Code.NOT_FOUND


def test_the_timer_topic_cannot_be_deleted_by_hand(rig: Rig) -> None:
    """All delayed messages would be gone."""
    send(rig, "waits", 10)
    with pytest.raises(ClientError, match="cancel single ones"):
        rig.broker.admin.delete_topic(timers.TOPIC)


def test_a_reset_takes_what_waits() -> None:
    """A server for tests begins anew, and its numbers with it; an old handle is nobody's."""
    with contextlib.closing(Rig(config())) as rig:
        old = send(rig, "old", 10)
        rig.wait(rig.broker.admin.reset())
        send(rig, "new", 20)
        assert code_of(rig, old.recall_handle) is Code.ILLEGAL_MESSAGE_ID
        rig.advance(20)
        assert taken(rig) == ["new"]


def test_time_moved_within_a_turn(rig: Rig) -> None:
    """Sent and due before its record is in a file: it comes all the same."""
    answer = rig.broker.send([delayed(rig, "at once", 50)])
    rig.clock.advance(ms=50)
    rig.broker.catch_up()
    rig.wait(answer)
    assert taken(rig) == ["at once"]


def test_a_delayed_message_with_a_message_group_goes_to_the_group_s_queue(make_rig: MakeRig) -> None:
    """At its time, and at once where it is due; as all others of that group do."""
    rig = make_rig(topics={TOPIC: TopicSetting(MessageType.MIXED, 4)})
    group = {m.SHARDING_KEY: "order-3"}
    rows = (delayed(rig, "later", 10, **group), outgoing("now", **group), delayed(rig, "past", -1, **group))
    results = rig.send(*rows, outgoing("other", **{m.SHARDING_KEY: "order-2"}))
    rig.advance(10)
    assert [result.queue_id for result in results] == [queue_of("order-3", 4)] * 3 + [queue_of("order-2", 4)]
    came = []
    while messages := rig.receive(request(batch=32)):
        came += [(message.queue_id, message.body.decode()) for message in messages]
        rig.ack(*(message.handle for message in messages))
    assert [name for queue_id, name in came if queue_id == results[0].queue_id] == ["now", "past", "later"]
