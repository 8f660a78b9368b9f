"""The admin port over a real broker: dead letters, listed and replayed."""

import asyncio

import pytest

from rmq import message as m
from rmq.deadletters import LETTERS_A_TURN
from rmq.errors import ClientError, Code
from tests.rmq.admin_rig import (
    DLQ,
    OTHER,
    RETRY,
    admin,
    bury_all,
    letters,
    make,
    refused,
    replay,
)
from tests.rmq.rig import GROUP, INVISIBLE_MS, TOPIC, Rig, bodies, outgoing, request


def test_a_replay_delivers_to_its_group_alone_as_new(rig: Rig) -> None:
    """Same id and properties, attempt 1, and all attempts before it dies again."""
    make(rig, attempts_max=2)
    make(rig, group=OTHER)
    rig.send(outgoing("a", tag="red", KEYS="k", own="mine"))
    first = rig.one()
    rig.bury(first.handle)
    rig.ack(rig.one(request(group=OTHER)).handle, group=OTHER)
    assert replay(rig) == 1
    again = rig.one(request(tag="red", invisible_ms=1000))
    assert (again.topic, again.body, again.attempt) == (TOPIC, b"a", 1)
    ours = {m.RMQ_ORIGIN, m.RETRY_TOPIC}
    assert {k: v for k, v in again.properties.items() if k not in ours} == first.properties
    assert rig.receive(request(group=OTHER)) == []
    rig.advance(2000)
    assert rig.one(request(invisible_ms=1000)).attempt == 2
    rig.advance(2000)
    assert letters(rig) == ["a"]
    assert replay(rig) == 1
    assert rig.ack(rig.one().handle) == [None]
    assert replay(rig) == 0


def test_a_replay_wakes_waiting_polls(rig: Rig) -> None:
    """At once."""
    make(rig)
    bury_all(rig, "a")
    poll = rig.poll(request(poll_ms=20_000))
    replay(rig)
    assert bodies(rig.until(poll)) == ["a"]


def test_what_was_replayed_is_not_listed(rig: Rig) -> None:
    """Whichever it was, in whichever order; all that is left is the rest."""
    make(rig)
    bury_all(rig, *"abcdef")
    assert letters(rig) == list("abcdef")
    assert letters(rig, 2) == ["a", "b"]
    assert replay(rig, "id-c", "id-e") == 2
    assert letters(rig) == list("abdf")
    assert replay(rig, "id-a") == 1
    assert replay(rig, "id-b") == 1
    assert letters(rig) == ["d", "f"]
    assert replay(rig) == 2
    assert letters(rig) == []
    assert sorted(bodies(rig.receive(request(batch=32)))) == list("abcdef")


def test_a_letter_that_the_group_holds_already_makes_no_second_copy(rig: Rig) -> None:
    """A name that is asked for again, or a replay that a crash left unmarked."""
    make(rig)
    bury_all(rig, "a")
    assert [replay(rig, "id-a") for _ in range(3)] == [1, 1, 1]
    assert len(rig.receive(request(batch=32))) == 1
    assert replay(rig, "id-a") == 1
    assert rig.receive(request(batch=32)) == []
    assert replay(rig, "id-unknown") == 0
    assert [queue.max_offset for queue in admin(rig).topic(RETRY).queues] == [1]


def test_a_letter_that_was_acknowledged_can_be_asked_for_again(rig: Rig) -> None:
    """By its name only."""
    make(rig)
    bury_all(rig, "a")
    for _ in range(2):
        assert replay(rig, "id-a") == 1
        assert rig.ack(rig.one().handle) == [None]
    assert replay(rig) == 0


@pytest.mark.parametrize("made_again", [None, 0, 1, 3])
def test_a_letter_of_a_deleted_topic_stays_one(rig: Rig, made_again: int | None) -> None:
    """Also where another topic has the name now, with so many messages: their places are not its own."""
    make(rig)
    bury_all(rig, "a", "b")
    rig.wait(admin(rig).delete_topic(TOPIC))
    if made_again is not None:
        make(rig)
        for number in range(made_again):
            rig.send(f"new{number}")
        assert len(rig.receive(request(batch=32))) == made_again
    for ids in ((), ("id-b",)):
        code, text = refused(lambda ids=ids: replay(rig, *ids))  # type: ignore[misc]  # bound now
        assert (code, TOPIC in text) == (Code.TOPIC_NOT_FOUND, True)
    assert letters(rig) == ["a", "b"]
    if made_again:
        rig.advance(INVISIBLE_MS + 1)
        assert len(rig.receive(request(batch=32))) == made_again


def test_letters_that_cannot_be_replayed_do_not_hold_up_the_others(rig: Rig) -> None:
    """They stay listed."""
    make(rig, topic="gone")
    rig.send("lost", topic="gone")
    rig.wait(rig.broker.dead_letter(GROUP, "gone", rig.one(request(topic="gone")).handle))
    make(rig)
    bury_all(rig, "a", "b")
    rig.wait(admin(rig).delete_topic("gone"))
    assert replay(rig) == 2
    assert letters(rig) == ["lost"]


def test_a_group_that_was_made_again_gets_its_letters(rig: Rig) -> None:
    """And has the place of a new group in the topic."""
    make(rig)
    bury_all(rig, "a")
    rig.wait(admin(rig).delete_group(GROUP))
    rig.wait(admin(rig).put_group(GROUP, 0, None))
    assert replay(rig) == 1
    assert set(bodies(rig.receive(request(batch=32)))) == {"a"}


def test_what_is_no_dead_letter_of_ours_is_passed_over(rig: Rig) -> None:
    """Someone sent to the topic himself."""
    make(rig)
    rig.send("stray", topic=DLQ)
    assert replay(rig) == 0
    assert letters(rig) == ["stray"]


def test_very_many_letters_are_replayed_in_slices(rig: Rig) -> None:
    """Each turn does a bounded number, and others get theirs between."""
    make(rig)
    count = 3 * LETTERS_A_TURN + 1
    rig.send(*(str(number) for number in range(count)))
    for _ in range(count):
        rig.bury(rig.one().handle)
    answer = admin(rig).replay(GROUP, ())
    assert isinstance(answer, asyncio.Future)
    assert rig.broker._store.state.leases.open_count <= LETTERS_A_TURN
    assert rig.until(answer) == count
    assert rig.broker._store.state.leases.open_count == count


def test_a_replay_ends_where_its_group_goes(rig: Rig) -> None:
    """What was done stays done."""
    make(rig)
    bury_all(rig, *(str(number) for number in range(LETTERS_A_TURN + 5)))
    answer = admin(rig).replay(GROUP, ())
    admin(rig).delete_group(GROUP)
    assert rig.wait(answer) == LETTERS_A_TURN


def test_a_full_disk_ends_a_replay_with_its_number(disk_rig: Rig) -> None:
    """The letters are still there."""
    make(disk_rig)
    bury_all(disk_rig, "a" * 50_000, "b" * 50_000)
    disk_rig.fill_disk()
    while True:
        try:
            disk_rig.send("x" * 10_000)
        except ClientError:
            break
    code, text = refused(lambda: replay(disk_rig))
    assert (code, "0 dead letters were replayed" in text) == (Code.INTERNAL_SERVER_ERROR, True)
    assert len(letters(disk_rig)) == 2
