"""Receiving: what a poll waits for, who is woken, what bounds an answer, where a group begins."""

import tracemalloc
from itertools import pairwise

import pytest

from rmq.clock import SystemClock
from rmq.errors import ClientError, Code
from rmq.filter import ALL, by_tag, java_hash
from rmq.scan import SCAN_MAX
from rmq_store import record
from rmq_store.journal import TopicDrop, TopicPut
from tests.rmq.conftest import MakeRig
from tests.rmq.rig import GROUP, TOPIC, Rig, bodies, outgoing, request

POLL_MS = 5000


def refused(rig: Rig, poll_ms: int = 0) -> Code:
    """The code that a receive is refused with."""
    with pytest.raises(ClientError) as caught:
        rig.receive(request(poll_ms=poll_ms))
    return caught.value.code


# -- polls ---------------------------------------------------------------------------------------------------------


def test_without_a_poll_nothing_is_an_answer(rig: Rig) -> None:
    """poll_ms 0 answers at once, with no message."""
    assert rig.broker.receive(request()) == []


def test_a_poll_ends_with_no_message(rig: Rig) -> None:
    """Not before its time, and at most a little after it; real time, whatever the broker's clock does."""
    clock = SystemClock()

    def poll_s() -> float:
        started_s = clock.monotonic_s()
        assert rig.until(rig.poll(request(poll_ms=50))) == []
        return clock.monotonic_s() - started_s

    took_s = [poll_s() for _ in range(3)]  # another program may take the processor, but not each time
    assert 0.05 <= min(took_s) < 1.0


def test_a_message_ends_a_poll(rig: Rig) -> None:
    """The message is leased to who waited."""
    waiting = rig.poll(request(poll_ms=POLL_MS))
    rig.send("a")
    assert bodies(rig.until(waiting)) == ["a"]
    assert rig.receive() == []


@pytest.mark.parametrize("batch", [1, 32])
def test_one_message_wakes_one_poll(rig: Rig, batch: int) -> None:
    """The longest waiting one; the others wait on."""
    waiting = [rig.poll(request(poll_ms=POLL_MS, batch=batch)) for _ in range(3)]
    rig.send("a")
    assert [w.done() for w in waiting] == [True, False, False]
    rig.send("b")
    assert [w.done() for w in waiting] == [True, True, False]


def test_many_messages_wake_as_many_polls_as_they_fill(rig: Rig) -> None:
    """A batch of five for polls of two: three polls are answered, the fourth waits."""
    waiting = [rig.poll(request(poll_ms=POLL_MS, batch=2)) for _ in range(4)]
    rig.send(*"abcde")
    assert [bodies(w.result()) for w in waiting[:3]] == [["a", "b"], ["c", "d"], ["e"]]
    assert not waiting[3].done()


def test_more_polls_than_a_turn_answers_are_all_answered(rig: Rig) -> None:
    """A turn answers a bounded number of polls, the next turns the rest."""
    waiting = [rig.poll(request(poll_ms=POLL_MS)) for _ in range(200)]
    rig.send(*map(str, range(200)))
    rig.run_while(lambda: not all(w.done() for w in waiting))
    assert [bodies(w.result()) for w in waiting] == [[str(n)] for n in range(200)]


def test_a_busy_group_does_not_keep_others_waiting(rig: Rig) -> None:
    """Each group's polls are served, whoever has the longer line."""
    busy = [rig.poll(request(poll_ms=POLL_MS, group="busy")) for _ in range(100)]
    quiet = rig.poll(request(poll_ms=POLL_MS, group="quiet"))
    rig.send(*map(str, range(100)))
    rig.run_while(lambda: not quiet.done())
    rig.run_while(lambda: not all(w.done() for w in busy))
    assert bodies(quiet.result()) == ["0"]


def test_every_group_gets_every_message(rig: Rig) -> None:
    """Polls of two groups are both woken by one message."""
    waiting = [rig.poll(request(poll_ms=POLL_MS, group=group)) for group in ("one", "two")]
    rig.send("a")
    assert [bodies(w.result()) for w in waiting] == [["a"], ["a"]]


def test_who_cancels_leaves_the_poll_and_loses_nothing(rig: Rig) -> None:
    """The next message goes to the next one in line."""
    first, second = (rig.poll(request(poll_ms=POLL_MS)) for _ in range(2))
    first.cancel()
    rig.send("a")
    assert bodies(second.result()) == ["a"]


def test_a_poll_that_was_cancelled_in_the_same_turn_gets_nothing(rig: Rig) -> None:
    """The message becomes visible while the cancelled poll is still in line: it is not leased to it."""
    waiting = rig.poll(request(poll_ms=POLL_MS))
    rig.broker.send([outgoing("a")])
    waiting.cancel()
    rig.turn()
    assert bodies(rig.receive()) == ["a"]


def test_a_message_ready_again_wakes_a_poll(rig: Rig) -> None:
    """By the end of its lease, and by an invisible duration of 0."""
    rig.send("a", "b")
    expiring, returned = rig.receive(request(batch=2))
    waiting = [rig.poll(request(poll_ms=POLL_MS)) for _ in range(2)]
    rig.change(returned.handle, 0)
    assert [bodies(w.result()) for w in waiting if w.done()] == [["b"]]
    rig.advance(30_000)
    assert bodies(waiting[1].result()) == ["a"], expiring


def test_the_end_of_the_server_answers_polls(rig: Rig) -> None:
    """Waiting polls end with no message, later ones don't wait."""
    waiting = rig.poll(request(poll_ms=POLL_MS))
    rig.broker.end_polls()
    assert waiting.result() == []
    assert rig.broker.receive(request(poll_ms=POLL_MS)) == []


# -- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["polls_max", "polls_per_group_max"])
def test_more_polls_than_allowed_are_refused(make_rig: MakeRig, limit: str) -> None:
    """TOO_MANY_REQUESTS; a place that is left can be taken again."""
    rig = make_rig(**{limit: 2})
    first, _ = (rig.poll(request(poll_ms=POLL_MS)) for _ in range(2))
    assert refused(rig, poll_ms=POLL_MS) is Code.TOO_MANY_REQUESTS
    first.cancel()
    rig.turn()
    assert not rig.poll(request(poll_ms=POLL_MS)).done()


def test_polls_per_group_are_counted_per_topic_and_group(make_rig: MakeRig) -> None:
    """A full line keeps no other group and no other topic out."""
    rig = make_rig(polls_per_group_max=1)
    for topic, group in ((TOPIC, GROUP), (TOPIC, "other"), ("other", GROUP)):
        assert not rig.poll(request(topic, group, poll_ms=POLL_MS)).done()


def test_leases_max_bounds_what_is_open(make_rig: MakeRig) -> None:
    """A receive gets what is left of it, the next one is refused, until something is acknowledged."""
    rig = make_rig(leases_max=3)
    rig.send(*"abcde")
    first = rig.receive(request(batch=32))
    assert bodies(first) == ["a", "b", "c"]
    assert refused(rig) is Code.TOO_MANY_REQUESTS
    rig.ack(first[0].handle)
    assert bodies(rig.receive(request(batch=32))) == ["d"]


def test_at_leases_max_messages_are_still_delivered_again(make_rig: MakeRig) -> None:
    """What is ready is counted already: were it refused too, nothing could ever be acknowledged."""
    rig = make_rig(leases_max=2)
    rig.send(*"abc")
    rig.receive(request(batch=32))
    rig.advance(30_000)
    again = rig.receive(request(batch=32))
    assert bodies(again) == ["a", "b"]
    rig.ack(*(message.handle for message in again))
    assert bodies(rig.receive(request(batch=32))) == ["c"]


def test_a_poll_that_meets_leases_max_is_refused(make_rig: MakeRig) -> None:
    """It waited for a message that may not be leased; it fails alone, the broker goes on."""
    rig = make_rig(leases_max=1)
    rig.send("a")
    held = rig.one()
    waiting = rig.poll(request(poll_ms=POLL_MS, tag="t"))
    rig.send(outgoing("b", tag="t"))
    error = waiting.exception()
    assert isinstance(error, ClientError)
    assert error.code is Code.TOO_MANY_REQUESTS
    rig.ack(held.handle)
    assert bodies(rig.receive()) == ["b"]


@pytest.mark.parametrize(("asked", "got"), [(1, 1), (4, 4), (5, 4), (1000, 4)])
def test_receive_batch_max_lowers_the_batch(make_rig: MakeRig, asked: int, got: int) -> None:
    """Silently, as Apache does."""
    rig = make_rig(receive_batch_max=4)
    rig.send(*"abcdef")
    assert len(rig.receive(request(batch=asked))) == got


def test_an_answer_is_bounded_in_bytes_for_new_and_for_returned_messages(make_rig: MakeRig) -> None:
    """It ends with the message that reaches receive_bytes_max: one at least, of whatever size."""
    rig = make_rig(receive_bytes_max=2500)
    rig.send(*(str(n) + "x" * 1000 for n in range(4)))
    assert len(rig.receive(request(batch=9))) == 3
    rig.advance(30_000)
    assert len(rig.receive(request(batch=9))) == 3
    rig.send("y" * 9000)
    assert [len(rig.receive(request(batch=9))) for _ in range(3)] == [1, 1, 0]


def test_an_answer_takes_from_all_queues(rig: Rig) -> None:
    """One receive collects what lies in several queues; none is left out."""
    for body in "abcdef":
        rig.send(body)
    assert sorted(bodies(rig.receive(request(batch=32)))) == list("abcdef")


def test_queues_take_turns(rig: Rig) -> None:
    """A queue with a long backlog does not keep the others waiting."""
    rig.send(*map(str, range(50)))
    rig.send("other")
    assert bodies([rig.one(), rig.one()]) == ["0", "other"]


def test_a_waiting_poll_costs_at_most_4_kb(make_rig: MakeRig) -> None:
    """Measured over 10,000 of them, request and all."""
    rig = make_rig(polls_per_group_max=10_000)
    rig.receive()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    waiting = [rig.broker.receive(request(poll_ms=POLL_MS, client_id=f"client-{n}")) for n in range(10_000)]
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (after - before) / len(waiting) <= 4096


# -- filters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("expression", ["", "*", "  * "])
def test_all_messages_match_a_star(expression: str) -> None:
    """So does an empty expression."""
    assert by_tag(expression) is ALL


@pytest.mark.parametrize("expression", ["||", " || ||"])
def test_only_separators_are_refused(expression: str) -> None:
    """ILLEGAL_FILTER_EXPRESSION, and what to write instead."""
    with pytest.raises(ClientError, match="tagA") as caught:
        by_tag(expression)
    assert caught.value.code is Code.ILLEGAL_FILTER_EXPRESSION


@pytest.mark.parametrize("text", ["", "a", "TagA", "Aa", "BB", "ünï", "\U0001f600", "x" * 99])
def test_tags_hash_as_in_java(text: str) -> None:
    """The filter's hash is the queue entry's, on both sides of the store."""
    expected = 0
    for unit in memoryview(text.encode("utf-16-le")).cast("H"):
        expected = (expected * 31 + unit + 2**31) % 2**32 - 2**31
    assert java_hash(text) == record.tags_code(text) == expected


def test_a_filter_takes_its_tags_only(rig: Rig) -> None:
    """`a || b`: what carries another tag or none is passed over for good."""
    rig.send(*(outgoing(f"{tag}{n}", tag=tag) for n in range(2) for tag in ("a", "b", "c", "")))
    assert bodies(rig.receive(request(tag="a || b", batch=9))) == ["a0", "b0", "a1", "b1"]
    assert rig.receive(request(batch=9)) == []


def test_tags_of_one_hash_are_told_apart(rig: Rig) -> None:
    """Aa and BB hash alike in Java."""
    assert java_hash("Aa") == java_hash("BB")
    rig.send(outgoing("1", tag="Aa"), outgoing("2", tag="BB"))
    assert bodies(rig.receive(request(tag="BB", batch=9))) == ["2"]


def test_a_message_that_nobody_wants_wakes_nobody(rig: Rig) -> None:
    """The poll goes on, and gets the next one."""
    waiting = rig.poll(request(tag="a", poll_ms=POLL_MS))
    rig.send(outgoing("1", tag="b"))
    assert not waiting.done()
    rig.send(outgoing("2", tag="a"))
    assert bodies(waiting.result()) == ["2"]


@pytest.mark.parametrize("tags", [("a", "b"), ("Aa", "BB")])
def test_a_poll_that_does_not_want_a_message_leaves_it_to_one_that_does(rig: Rig, tags: tuple[str, str]) -> None:
    """Two polls of a group with different filters, whichever came first; also where the hashes are alike."""
    for message, order in ((tags[1], tags), (tags[0], tags)):
        polls = {tag: rig.poll(request(tag=tag, poll_ms=POLL_MS)) for tag in order}
        rig.send(outgoing(message, tag=message))
        assert [tag for tag, poll in polls.items() if poll.done()] == [message]
        for poll in polls.values():
            poll.cancel()


def test_polls_of_unlike_filters_all_end_up_with_theirs(rig: Rig) -> None:
    """Mixed in one backlog, in one queue: nobody starves, nothing is passed over that someone waits for."""
    tags = ("a", "b", "c", "Aa", "BB")
    polls = {tag: rig.poll(request(tag=tag, poll_ms=POLL_MS, batch=4)) for tag in tags}
    rig.send(*(outgoing(tag, tag=tag) for tag in reversed(tags)), outgoing("x", tag="x"))
    rig.run_while(lambda: not all(poll.done() for poll in polls.values()))
    assert {tag: bodies(poll.result()) for tag, poll in polls.items()} == {tag: [tag] for tag in tags}


def test_a_returned_message_is_left_to_the_poll_that_wants_it(rig: Rig) -> None:
    """Ready again while polls of two filters wait: the first in line does not settle what the second wants."""
    rig.send(outgoing("1", tag="b"))
    held = rig.one()
    first, second = (rig.poll(request(tag=tag, poll_ms=POLL_MS)) for tag in ("a", "b"))
    rig.change(held.handle, 0)
    assert (first.done(), bodies(second.result())) == (False, ["1"])


def test_a_selective_filter_gets_through_a_long_backlog_in_bounded_turns(rig: Rig) -> None:
    """One turn looks at SCAN_MAX entries; a poll goes on in the next turns and finds the message at the end."""
    rig.broker.topics.make(TOPIC, rig.broker.message_type(TOPIC), 1)
    count = 5 * SCAN_MAX
    rig.send(*(outgoing(str(n), tag="other") for n in range(count)))
    rig.send(outgoing("wanted", tag="rare"))
    assert rig.receive(request(tag="rare")) == []
    ledger = rig.broker._store.state.leases.subscription(GROUP, TOPIC).ledgers[0]
    assert ledger.next == SCAN_MAX
    waiting = rig.poll(request(tag="rare", poll_ms=POLL_MS))
    assert bodies(rig.until(waiting)) == ["wanted"]


def test_many_polls_with_one_selective_filter_look_once(rig: Rig) -> None:
    """A turn is bounded although a hundred polls wait for the same rare tag."""
    waiting = [rig.poll(request(tag="rare", poll_ms=POLL_MS)) for _ in range(100)]
    rig.broker.send([*(outgoing(str(n), tag="other") for n in range(3 * SCAN_MAX)), outgoing("wanted", tag="rare")])
    ledger = rig.broker._store.state.leases.subscription(GROUP, TOPIC).ledgers[0]
    seen = [ledger.next]
    while not waiting[0].done():
        rig.loop.call_soon(rig.loop.stop)
        rig.loop.run_forever()  # one turn
        seen.append(ledger.next)
    assert max(later - earlier for earlier, later in pairwise(seen)) <= SCAN_MAX
    assert bodies(waiting[0].result()) == ["wanted"]


# -- start position, topics that change ----------------------------------------------------------------------------


def test_a_new_group_starts_at_the_first_message(rig: Rig) -> None:
    """Where nothing was deleted from the queue."""
    rig.send("a")
    assert bodies(rig.receive(request(group="late"))) == ["a"]


def test_a_new_group_starts_at_the_end_where_messages_were_deleted(make_rig: MakeRig) -> None:
    """It sees what comes after its first receive."""
    rig = make_rig(memory_bytes_max=8 << 20, topic_queues=1)
    for n in range(10):
        rig.send(str(n) + "x" * 1_000_000)
    rig.clean()
    assert rig.receive(request(group="late", batch=9)) == []
    rig.send("new")
    assert bodies(rig.receive(request(group="late", batch=9))) == ["new"]


def test_queues_that_a_topic_gets_later_are_read_from_their_start(rig: Rig) -> None:
    """Also by a poll that waits meanwhile."""
    rig.receive()
    waiting = rig.poll(request(poll_ms=POLL_MS))
    rig.broker.topics.make(TOPIC, rig.broker.message_type(TOPIC), 6)
    queue_ids = []
    for n in range(6):
        queue_ids += [result.queue_id for result in rig.send(str(n))]
    assert sorted(queue_ids) == list(range(6))
    assert len(waiting.result()) + len(rig.receive(request(batch=9))) == 6


def test_a_poll_on_a_dropped_topic_waits_for_nothing_more(rig: Rig) -> None:
    """It ends in its time without a spin, and the topic's next life has nothing of the old one."""
    waiting = rig.poll(request(poll_ms=100))
    rig.broker.send([outgoing("old")])
    rig.broker._store.apply(TopicDrop(TOPIC))
    rig.turn()
    assert not rig.broker._serving._lines
    rig.broker._store.apply(TopicPut(TOPIC, 1, 1))
    rig.send("new")
    assert rig.until(waiting) == []
    assert bodies(rig.receive(request(batch=9))) == ["new"]
