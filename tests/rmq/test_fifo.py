"""Order per message group: who waits for whom, what acks count, and what comes again."""

import pytest

from rmq.config import TopicSetting
from rmq.errors import ClientError, Code
from rmq.message import MessageType
from tests.rmq.conftest import MakeRig
from tests.rmq.fifo import FIFO, ack, attempts, ledger_of, parked, send, take
from tests.rmq.rig import GROUP, INVISIBLE_MS, TOPIC, Rig, bodies, request

# -- who waits ---------------------------------------------------------------------------------------------------------


def test_nothing_of_a_group_comes_while_one_of_it_is_leased_and_other_groups_flow_on(fifo: Rig) -> None:
    """Messages without a group wait for nobody."""
    send(fifo, "a1", "a2", "b1", "-1", "a3", "b2", "-2", "c1")
    first = take(fifo)
    assert bodies(first) == ["a1", "b1", "-1", "-2", "c1"]
    assert (take(fifo), parked(fifo)) == ([], 3)
    ack(fifo, first[1])
    assert bodies(take(fifo)) == ["b2"]
    ack(fifo, first[0])
    assert bodies(take(fifo)) == ["a2"]
    assert take(fifo) == []


def test_a_client_that_was_told_fifo_gets_a_groups_messages_together(fifo: Rig) -> None:
    """In order, new ones and parked ones alike, as many as there is room for."""
    send(fifo, "a1", "b1", "a2", "a3")
    first = take(fifo, 3, fifo=True)
    assert bodies(first) == ["a1", "b1", "a2"]
    assert take(fifo, fifo=True) == []
    send(fifo, "a4", "a5")
    assert (take(fifo, fifo=True), parked(fifo)) == ([], 3)
    ack(fifo, *first)
    assert bodies(take(fifo, 2, fifo=True)) == ["a3", "a4"]


def test_what_was_parked_is_followed_by_what_is_new_in_one_receive(fifo: Rig) -> None:
    """A line that is taken whole may go on behind the cursor; one that is not may not."""
    send(fifo, "a1", "b1")
    first = take(fifo)
    send(fifo, "a2", "b2")
    assert take(fifo) == []
    send(fifo, "a3", "b3")
    ack(fifo, *first)
    assert bodies(take(fifo, fifo=True)) == ["a2", "b2", "a3", "b3"]


def test_one_receive_holds_one_message_of_each_group_for_a_client_that_was_not_told(fifo: Rig) -> None:
    """New ones or parked ones: the rest of the group waits for its ack."""
    send(fifo, "a1", "a2", "a3", "b1")
    (a1, b1) = take(fifo)
    assert bodies([a1, b1]) == ["a1", "b1"]
    ack(fifo, a1)
    (a2,) = take(fifo)
    ack(fifo, a2, b1)
    assert bodies(take(fifo)) == ["a3"]


def test_a_waiting_poll_gets_the_next_of_the_group_when_the_one_before_is_settled(fifo: Rig) -> None:
    """By an ack, by the end of its lease, or as a dead letter."""
    send(fifo, "a1", "a2", "a3")
    (a1,) = take(fifo)
    waiting = fifo.poll(request(poll_ms=600_000))
    ack(fifo, a1)
    (a2,) = fifo.until(waiting)
    waiting = fifo.poll(request(poll_ms=600_000))
    fifo.advance(INVISIBLE_MS)
    (again,) = fifo.until(waiting)
    assert attempts([a2, again]) == [("a2", 1), ("a2", 2)]
    waiting = fifo.poll(request(poll_ms=600_000))
    fifo.bury(again.handle)
    assert bodies(fifo.until(waiting)) == ["a3"]


def test_each_consumer_group_has_an_order_of_its_own(fifo: Rig) -> None:
    """What one of them holds stops no other."""
    send(fifo, "a1", "a2")
    take(fifo)
    (other,) = fifo.receive(request(group="other"))
    fifo.ack(other.handle, group="other")
    assert bodies(fifo.receive(request(group="other"))) == ["a2"]


def test_message_groups_have_no_say_on_a_normal_topic(make_rig: MakeRig) -> None:
    """A 4.x client may have stored the property there."""
    rig = make_rig(topics={TOPIC: TopicSetting(MessageType.FIFO, 1)})
    send(rig, "a1", "a2")
    rig.wait(rig.broker.admin.put_topic(TOPIC, MessageType.NORMAL, 1))
    assert bodies(take(rig)) == ["a1", "a2"]


# -- what comes again --------------------------------------------------------------------------------------------------


def test_redelivery_is_in_place(fifo: Rig) -> None:
    """The message comes again with the next attempt before anything later of its group does."""
    send(fifo, "a1", "a2", "b1")
    take(fifo)
    fifo.advance(INVISIBLE_MS)
    assert attempts(take(fifo, fifo=True)) == [("a1", 2), ("a2", 1), ("b1", 2)]


def test_an_expiry_in_mid_batch_brings_the_rest_again_in_order(fifo: Rig) -> None:
    """What was acked at the front of the group stays acked."""
    send(fifo, "a1", "a2", "a3", "a4")
    batch = take(fifo, fifo=True)
    ack(fifo, *batch[:2])
    fifo.advance(INVISIBLE_MS)
    again = take(fifo, fifo=True)
    assert attempts(again) == [("a3", 2), ("a4", 2)]
    ack(fifo, *again)
    fifo.advance(INVISIBLE_MS)
    assert take(fifo, fifo=True) == []


def test_an_ack_behind_one_that_is_not_acked_counts_when_that_one_is(fifo: Rig) -> None:
    """Acking it twice is OK meanwhile, and nothing comes again."""
    send(fifo, "a1", "a2", "a3", "a4")
    a1, a2, a3 = take(fifo, 3, fifo=True)
    ack(fifo, a3, a2)
    ack(fifo, a2)
    assert take(fifo) == []
    ack(fifo, a1)
    assert bodies(take(fifo)) == ["a4"]
    fifo.advance(INVISIBLE_MS)
    assert attempts(take(fifo)) == [("a4", 2)]


def test_an_ack_behind_one_that_comes_again_is_undone(fifo: Rig) -> None:
    """The message comes again after it, in order, and what is parked after that."""
    send(fifo, "a1", "a2", "a3", "a4")
    _, a2, a3 = take(fifo, 3, fifo=True)
    ack(fifo, a3)
    fifo.change(a2.handle, 5 * INVISIBLE_MS)
    fifo.advance(INVISIBLE_MS)
    (a1,) = take(fifo, fifo=True)
    ack(fifo, a1)
    fifo.advance(5 * INVISIBLE_MS)
    assert attempts(take(fifo, fifo=True)) == [("a2", 2), ("a3", 2), ("a4", 1)]


@pytest.mark.parametrize("verb", ["change", "bury"])
def test_the_handle_of_an_early_ack_is_good_for_nothing_but_acks(fifo: Rig, verb: str) -> None:
    """It is acked, as far as its client knows."""
    send(fifo, "a1", "a2")
    _, a2 = take(fifo, fifo=True)
    ack(fifo, a2)
    with pytest.raises(ClientError) as caught:
        fifo.change(a2.handle, 0) if verb == "change" else fifo.bury(a2.handle)
    assert caught.value.code is Code.INVALID_RECEIPT_HANDLE


def test_a_message_made_invisible_holds_its_group_for_that_long(fifo: Rig) -> None:
    """Under its new handle, and at once when it is 0."""
    send(fifo, "a1", "a2")
    (a1,) = take(fifo)
    fifo.change(a1.handle, 2 * INVISIBLE_MS)
    fifo.advance(INVISIBLE_MS)
    assert take(fifo) == []
    fifo.advance(INVISIBLE_MS)
    (a1,) = take(fifo)
    fifo.change(a1.handle, 0)
    assert attempts(take(fifo)) == [("a1", 3)]


def test_what_no_client_received_is_given_back_in_order(fifo: Rig) -> None:
    """A receive whose answer found nobody suspends its messages one by one: the delivery does not count."""
    send(fifo, "a1", "a2", "a3")
    for message in take(fifo, 2, fifo=True):
        fifo.change(message.handle, 0, suspend=True)
    assert attempts(take(fifo, fifo=True)) == [("a1", 1), ("a2", 1), ("a3", 1)]


def test_after_its_last_attempt_a_message_is_a_dead_letter_and_the_group_goes_on(make_rig: MakeRig) -> None:
    """Its acked followers are settled with it, the others come in order."""
    rig = make_rig(attempts_max=2, **FIFO)
    send(rig, "a1", "a2", "a3", "a4")
    rig.change(take(rig)[0].handle, 0)
    _, a2, _ = take(rig, 3, fifo=True)
    ack(rig, a2)
    rig.advance(INVISIBLE_MS)
    assert attempts(take(rig, fifo=True)) == [("a3", 2), ("a4", 1)]
    assert bodies(rig.receive(request(f"%DLQ%{GROUP}", "auditor", batch=9))) == ["a1"]


def test_an_early_ack_of_a_last_attempt_counts(make_rig: MakeRig) -> None:
    """It would have to be delivered more often than the group allows."""
    rig = make_rig(attempts_max=2, **FIFO)
    send(rig, "a1", "a2", "a3")
    a1, _ = take(rig, 2, fifo=True)
    rig.change(a1.handle, 0, suspend=True)
    rig.advance(INVISIBLE_MS)
    a1, a2 = take(rig, 2, fifo=True)
    assert attempts([a1, a2]) == [("a1", 1), ("a2", 2)]
    ack(rig, a2)
    rig.advance(INVISIBLE_MS)
    a1, a3 = take(rig, fifo=True)
    assert attempts([a1, a3]) == [("a1", 2), ("a3", 1)]
    ack(rig, a1, a3)
    assert ledger_of(rig).open == {}


def test_a_dead_letter_from_the_middle_of_a_group_does_not_come_back(fifo: Rig) -> None:
    """Whatever becomes of what is before it."""
    send(fifo, "a1", "a2", "a3")
    _, a2, _ = take(fifo, fifo=True)
    fifo.bury(a2.handle)
    fifo.advance(INVISIBLE_MS)
    assert attempts(take(fifo, fifo=True)) == [("a1", 2), ("a3", 2)]


# -- attempt ids -------------------------------------------------------------------------------------------------------


def test_the_same_attempt_id_gets_the_same_messages_again(fifo: Rig) -> None:
    """With the same attempt; the handles of either answer are valid, for as long as the later one says."""
    send(fifo, "a1", "a2", "b1", "a3")
    first = take(fifo, 3, fifo=True, attempt_id="x")
    fifo.advance(INVISIBLE_MS - 1)
    again = take(fifo, 3, fifo=True, attempt_id="x")
    assert attempts(again) == attempts(first) == [("a1", 1), ("a2", 1), ("b1", 1)]
    fifo.advance(INVISIBLE_MS - 1)
    ack(fifo, first[0], again[1], first[1], first[2])
    assert attempts(take(fifo, fifo=True, attempt_id="x")) == [("a3", 1)]


@pytest.mark.parametrize(
    ("client", "attempt_id", "group"),
    [("client", "y", GROUP), ("other", "x", GROUP), ("client", "x", "other"), ("client", "", GROUP)],
)
def test_another_attempt_client_or_group_gets_what_is_next(fifo: Rig, client: str, attempt_id: str, group: str) -> None:
    """And an empty attempt id says nothing."""
    send(fifo, "a1", "a2", "b1")
    take(fifo, 1, attempt_id="x")
    fifo.receive(request(group="other"))
    wanted = request(group=group, client_id=client, attempt_id=attempt_id, batch=9)
    assert bodies(fifo.receive(wanted)) == ["b1"]


@pytest.mark.parametrize("what", ["acked", "acked early", "changed", "expired", "unwanted"])
def test_a_batch_that_has_changed_is_not_given_again(fifo: Rig, what: str) -> None:
    """What is left of it waits for its client or comes again as a new delivery."""
    send(fifo, "a1", "a2")
    a1, a2 = take(fifo, fifo=True, attempt_id="x")
    match what:
        case "acked":
            ack(fifo, a1)
        case "acked early":
            ack(fifo, a2)
        case "changed":
            fifo.change(a2.handle, INVISIBLE_MS)
        case "expired":
            fifo.clock.advance(ms=INVISIBLE_MS)  # and the agenda has not come to it
    tag = "other" if what == "unwanted" else "*"
    assert fifo.receive(request(batch=9, fifo=True, attempt_id="x", tag=tag)) == []


def test_an_attempt_id_has_no_say_over_messages_without_a_group(fifo: Rig) -> None:
    """As in RocketMQ."""
    send(fifo, "-1", "-2")
    take(fifo, 1, attempt_id="x")
    assert bodies(take(fifo, 1, attempt_id="x")) == ["-2"]
