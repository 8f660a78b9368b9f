"""Order per message group through restarts, limits, filters and resets; types and queues."""

import logging

import pytest

from rmq import message as m
from rmq.adminport import Start
from rmq.config import TopicSetting
from rmq.errors import ClientError, Code
from rmq.filter import by_tag
from rmq.message import Delivered, MessageType
from tests.rmq.conftest import MakeRig
from tests.rmq.fifo import FIFO, ack, attempts, grouped, ledger_of, parked, send, take
from tests.rmq.rig import GROUP, INVISIBLE_MS, TOPIC, Rig, bodies, outgoing, request

# -- what lasts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["restart", "crash"])
def test_order_early_acks_and_attempt_ids_outlive_the_server(stored: Rig, end: str) -> None:
    """In good order, from a checkpoint, or killed, from the log."""
    send(stored, "a1", "a2", "a3", "a4", "b1", "b2")
    a1, a2, _, b1 = [*take(stored, 3, fifo=True, attempt_id="x"), *take(stored, 1, fifo=True)]
    assert take(stored) == []
    ack(stored, b1)
    getattr(stored, end)()
    assert parked(stored) == 2
    assert bodies(take(stored, 3, fifo=True, attempt_id="x")) == ["a1", "a2", "a3"]
    ack(stored, a2)
    getattr(stored, end)()
    assert bodies(take(stored)) == ["b2"]
    ack(stored, a2)
    ack(stored, a1)
    getattr(stored, end)(pause_ms=INVISIBLE_MS)
    assert attempts(take(stored, fifo=True)) == [("a3", 2), ("a4", 1), ("b2", 2)]


@pytest.mark.parametrize("end", ["restart", "crash"])
def test_a_long_line_outlives_the_server(stored: Rig, end: str) -> None:
    """More than one part of a checkpoint holds."""
    for at in range(0, 600, 100):
        send(stored, *(f"a{n}" for n in range(at, at + 100)))
    (first,) = take(stored)
    while parked(stored) < 599:
        assert take(stored) == []
    getattr(stored, end)()
    assert parked(stored) == 599
    ack(stored, first)
    assert bodies(take(stored, fifo=True)) == [f"a{n}" for n in range(1, 33)]


@pytest.mark.parametrize("end", ["restart", "crash"])
def test_an_ack_that_was_undone_stays_undone(stored: Rig, end: str) -> None:
    """Although the journal has it, and what it was behind is settled without another delivery."""
    stored.send(*grouped("a1", tag="old"), *grouped("a2", "a3", tag="new"))
    _, a2, _ = take(stored, fifo=True)
    ack(stored, a2)
    stored.advance(INVISIBLE_MS)
    assert attempts(stored.receive(request(tag="new"))) == [("a2", 2)]
    getattr(stored, end)()
    assert take(stored) == []
    stored.advance(INVISIBLE_MS)
    assert attempts(take(stored, fifo=True)) == [("a2", 3), ("a3", 2)]


@pytest.mark.parametrize("end", ["restart", "crash"])
@pytest.mark.parametrize("given_back", [True, False])
def test_an_ack_behind_one_whose_delivery_is_over_lasts(stored: Rig, end: str, given_back: bool) -> None:
    """A start reads of the front's delivery, and not when it ended: that was before the ack, and undoes it no more."""
    send(stored, "a1", "a2", "a3")
    a1, a2, _ = take(stored, fifo=True)
    late = stored.change(a2.handle, 3 * INVISIBLE_MS)
    if given_back:
        stored.change(a1.handle, 0)
    else:
        stored.advance(INVISIBLE_MS)
    assert stored.ack(late) == [None]
    getattr(stored, end)(pause_ms=3 * INVISIBLE_MS)
    stored.advance(1)
    assert attempts(take(stored, fifo=True)) == [("a1", 2), ("a3", 2)]


def test_a_group_keeps_its_order_when_retention_carries_its_messages_forward(stored: Rig) -> None:
    """Leased, acked early and ready ones, with their handles, through a start without a checkpoint, too."""
    rig = stored
    rig.restart(log_bytes_max=1 << 20)
    send(rig, "a1", "a2", "a3", "b1", "b2", "c1")
    a1, a2, a3, b1, b2, _ = take(rig, fifo=True)
    ack(rig, a2, b2)
    rig.change(b1.handle, 0)
    for _ in range(3):
        rig.send(*(outgoing("x" * 100_000, topic="filler") for _ in range(10)))
    rig.clean()
    assert rig.broker.topics.find(TOPIC).queues[0].min_offset == 6  # type: ignore[union-attr]
    send(rig, "a4", "b3")
    assert attempts(take(rig, 1)) == [("b1", 2)]
    rig.crash()
    assert take(rig, fifo=True) == []
    ack(rig, a1, a3)
    assert bodies(take(rig)) == ["a4"]
    rig.advance(INVISIBLE_MS)
    again = take(rig, fifo=True)
    assert sorted(attempts(again)) == [("a4", 2), ("b1", 3), ("b2", 2), ("b3", 1), ("c1", 2)]
    assert [body for body, _ in attempts(again) if body[0] == "b"] == ["b1", "b2", "b3"]


def two_parked_in_a_segment_to_go(rig: Rig) -> Delivered:
    """What retention has not yet looked at; returns the message that they wait for."""
    rig.restart(log_bytes_max=1 << 20)
    send(rig, "a1", "a2", "a3")
    (a1,) = take(rig)
    assert (take(rig), parked(rig)) == ([], 2)
    for _ in range(3):
        rig.send(*(outgoing("x" * 100_000, topic="filler") for _ in range(10)))
    return a1


def test_what_was_parked_and_is_gone_with_its_segment_is_passed_over(stored: Rig) -> None:
    """As any message that retention took before it was delivered."""
    rig = stored
    a1 = two_parked_in_a_segment_to_go(rig)
    rig.clean()
    send(rig, "a4")
    ack(rig, a1)
    assert bodies(take(rig)) == ["a4"]
    assert parked(rig) == 0


def test_what_is_parked_in_a_segment_that_is_about_to_go_is_not_delivered_any_more(stored: Rig) -> None:
    """What is open has been carried forward by then: it would be delivered once, and lost if its time ends."""
    rig = stored
    a1 = two_parked_in_a_segment_to_go(rig)
    retention = rig.broker._retention
    retention.step(rig.clock.wall_ms())
    assert retention._saving is not None
    ack(rig, a1)
    assert (bodies(take(rig)), parked(rig)) == ([], 0)
    rig.clean()
    send(rig, "a4")
    assert bodies(take(rig)) == ["a4"]


# -- limits ------------------------------------------------------------------------------------------------------------


def test_a_cursor_stops_at_parked_max_and_goes_on(make_rig: MakeRig, caplog: pytest.LogCaptureFixture) -> None:
    """Other groups behind it wait, too; the log says so once; nothing is lost or turned round."""
    rig = make_rig(parked_max=2, **FIFO)
    send(rig, "a1", "a2", "a3", "a4", "b1")
    with caplog.at_level(logging.WARNING, "rmq.order"):
        (a1,) = take(rig)
        assert (take(rig), take(rig), parked(rig)) == ([], [], 2)
        assert bodies(rig.receive(request(group="other", batch=9))) == ["a1"]
        waiting = rig.poll(request(poll_ms=600_000, batch=9))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "group billing stops in queue 0 of orders" in caplog.text
    ack(rig, a1)
    (a2,) = rig.until(waiting)
    assert bodies(take(rig)) == ["b1"]
    ack(rig, a2)
    (a3,) = take(rig)
    ack(rig, a3)
    assert bodies(take(rig)) == ["a4"]


def test_at_leases_max_a_group_whose_next_message_is_new_is_refused(make_rig: MakeRig) -> None:
    """What was delivered before comes again all the same: it is counted in."""
    rig = make_rig(leases_max=3, **FIFO)
    send(rig, "a1", "b1", "a2")
    a1, b1 = take(rig)
    assert parked(rig) == 1
    rig.receive(request(group="third"))
    ack(rig, a1)
    elsewhere = rig.one(request(group="other"))
    with pytest.raises(ClientError, match="leases_max") as caught:
        take(rig)
    assert caught.value.code is Code.TOO_MANY_REQUESTS
    rig.change(b1.handle, 0)
    assert attempts(take(rig)) == [("b1", 2)]
    rig.ack(elsewhere.handle, group="other")
    assert bodies(take(rig)) == ["a2"]


def test_a_receive_costs_the_same_however_many_groups_are_blocked(fifo: Rig) -> None:
    """Each queue entry is looked at once, and a message that was parked once more when its turn has come."""
    for at in range(0, 400, 100):
        fifo.send(*(outgoing("first", **{m.SHARDING_KEY: f"g{n}"}) for n in range(at, at + 100)))
    held = [message for _ in range(13) for message in take(fifo)]
    assert len(held) == 400
    fifo.send(*(outgoing("second", **{m.SHARDING_KEY: f"g{n}"}) for n in range(400)))
    fifo.send(*(outgoing("free", **{m.SHARDING_KEY: f"f{n}"}) for n in range(64)))
    found = next(found for _ in range(9) if (found := take(fifo)))
    before, first = fifo.broker._pop.looked, len(found)
    found = [*found, *take(fifo)]
    assert (set(bodies(found)), fifo.broker._pop.looked - before) == ({"free"}, len(found) - first)
    before = fifo.broker._pop.looked
    ack(fifo, held[7])
    assert bodies(take(fifo)) == ["second"]
    assert fifo.broker._pop.looked - before == 1


# -- filters, resets, ends ---------------------------------------------------------------------------------------------


def test_what_a_filter_leaves_out_holds_up_nobody(fifo: Rig) -> None:
    """It is no part of the group's order, and neither is what a later filter leaves out."""
    fifo.send(*grouped("a1", tag="x"), *grouped("a2", tag="y"), *grouped("a3", tag="x"), *grouped("a4", tag="x"))
    (a1,) = fifo.receive(request(tag="x", batch=9))
    assert (fifo.receive(request(tag="x", batch=9)), parked(fifo)) == ([], 2)
    ack(fifo, a1)
    assert fifo.receive(request(tag="none", batch=9)) == []
    assert (fifo.receive(request(tag="x", batch=9)), parked(fifo)) == ([], 0)


def test_what_another_poll_wants_is_left_to_it(fifo: Rig) -> None:
    """A group with two filters has no order to keep between them, but loses nothing."""
    fifo.send(*grouped("a1", tag="x"), *grouped("a2", tag="y"))
    (a1,) = fifo.receive(request(batch=9))
    assert fifo.receive(request(batch=9)) == []
    waiting = fifo.poll(request(tag="y", poll_ms=600_000))
    subscription = ledger_of(fifo).subscription
    fifo.broker._settling.ack(GROUP, TOPIC, [a1.handle])
    assert fifo.broker._pop.take(subscription, request(tag="x"), [by_tag("y")]) == []
    fifo.broker._serving.go_on()
    assert bodies(fifo.until(waiting)) == ["a2"]


def test_a_reset_forgets_what_was_parked(stored: Rig) -> None:
    """Backwards it all comes anew, forwards nothing does."""
    rig = stored
    send(rig, "a1", "a2", "a3")
    take(rig, 2, fifo=True)
    take(rig)
    rig.wait(rig.broker.admin.reset_offset(GROUP, TOPIC, Start()))
    assert (parked(rig), ledger_of(rig).next) == (0, 0)
    assert attempts(take(rig)) == [("a1", 1)]
    assert take(rig) == []
    rig.wait(rig.broker.admin.reset_offset(GROUP, TOPIC, Start(end=True)))
    assert (take(rig), parked(rig)) == ([], 0)
    rig.crash()
    assert (take(rig), parked(rig)) == ([], 0)


def test_a_group_shows_what_waits(fifo: Rig) -> None:
    """Parked ones are lag: nobody was given them. Early acks are held by nobody; what waits in line again is ready."""
    send(fifo, "a1", "a2", "a3", "a4", "b1")
    a1, a2, _, b1 = [*take(fifo, 3, fifo=True), *take(fifo)]
    ack(fifo, a2)

    def shown() -> tuple[int, int, int]:
        (found,) = fifo.broker.admin.group_info(GROUP).topics
        return found.lag_messages, found.leased, found.ready

    assert (bodies([a1, b1]), shown()) == (["a1", "b1"], (1, 3, 0))
    fifo.advance(INVISIBLE_MS)
    assert shown() == (1, 0, 4)


def test_a_topic_takes_its_parked_messages_with_it(fifo: Rig) -> None:
    """And another of its name begins anew."""
    send(fifo, "a1", "a2")
    take(fifo)
    assert (take(fifo), parked(fifo)) == ([], 1)
    fifo.advance(INVISIBLE_MS)
    gone = ledger_of(fifo).subscription
    fifo.wait(fifo.broker.admin.delete_topic(TOPIC))
    assert parked(fifo) == 0
    assert fifo.broker._pop.take(gone, request()) == []
    send(fifo, "a3")
    assert bodies(take(fifo)) == ["a3"]


# -- types and queues --------------------------------------------------------------------------------------------------


def test_all_of_a_group_goes_to_one_queue(rig: Rig) -> None:
    """Alone or in a batch, whatever stands beside it; what has no group shares another queue."""
    single = [rig.send(*grouped(name))[0].queue_id for name in ("a1", "b1", "c1", "z1")]
    batch = rig.send(*grouped("z2", "-1", "c2", "b2", "-2", "a2"))
    assert [batch[at].queue_id for at in (5, 3, 2, 0)] == single
    assert batch[1].queue_id == batch[4].queue_id


def test_settings_are_fifo_where_every_topic_is(make_rig: MakeRig) -> None:
    """Not for none, and not for one whose type is not known yet."""
    rig = make_rig(**FIFO)
    rig.send("n", topic="normal")
    rig.receive(request("new"))
    told = {topics: rig.broker.group(GROUP, topics).fifo for topics in ((), (TOPIC,), (TOPIC, "normal"), ("new",))}
    assert told == {(): False, (TOPIC,): True, (TOPIC, "normal"): False, ("new",): False}


def test_a_topic_that_a_consumer_made_is_fifo_from_its_first_message_on(rig: Rig) -> None:
    """Profile dev; with a second kind of message it is MIXED, and groups keep their order."""
    assert rig.receive() == []
    send(rig, "a1", "a2")
    assert rig.broker.message_type(TOPIC) is MessageType.FIFO
    (a1,) = take(rig)
    send(rig, "-1", "a3")
    assert rig.broker.message_type(TOPIC) is MessageType.MIXED
    assert bodies(take(rig)) == ["-1"]
    ack(rig, a1)
    assert bodies(take(rig)) == ["a2"]


def test_profile_strict_refuses_fifo_on_a_normal_topic(make_rig: MakeRig) -> None:
    """As Apache does."""
    rig = make_rig(profile="strict", topics={TOPIC: TopicSetting(MessageType.NORMAL, 1)})
    with pytest.raises(ClientError, match="expected NORMAL, actual FIFO") as caught:
        send(rig, "a1")
    assert caught.value.code is Code.MESSAGE_PROPERTY_CONFLICT_WITH_TYPE
