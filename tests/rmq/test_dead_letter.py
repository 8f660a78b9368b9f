"""Dead letters: when a message becomes one, what is kept, what happens where it can't be written."""

import logging

import pytest

from rmq import message as m
from rmq.config import GroupSetting
from rmq.errors import ClientError, Code
from rmq_store.errors import StoreFull
from rmq_store.state import Origin
from tests.rmq.conftest import MakeRig
from tests.rmq.rig import GROUP, INVISIBLE_MS, TOPIC, Rig, bodies, outgoing, request

DLQ = f"%DLQ%{GROUP}"
TWICE = {GROUP: GroupSetting(2)}


def dead(rig: Rig, group: str = "auditor") -> list[str]:
    """The dead letters that this group has not seen yet."""
    letters = rig.receive(request(DLQ, group, batch=32))
    rig.ack(*(letter.handle for letter in letters), topic=DLQ, group=group)
    return bodies(letters)


def use_up(rig: Rig, attempts: int, batch: int = 1) -> None:
    """Deliveries that nobody acknowledges."""
    for _ in range(attempts):
        assert rig.receive(request(batch=batch))
        rig.advance(INVISIBLE_MS)


def test_a_message_becomes_a_dead_letter_after_its_last_attempt(rig: Rig) -> None:
    """attempts_max counts deliveries, 17 by default; the letter is there at the end of the last one."""
    rig.send("a")
    use_up(rig, 16)
    assert dead(rig) == []
    assert rig.one().attempt == 17
    rig.advance(INVISIBLE_MS)
    assert (dead(rig), rig.receive()) == (["a"], [])


def test_the_groups_own_attempts_count(make_rig: MakeRig) -> None:
    """As the configuration sets them."""
    rig = make_rig(groups=TWICE)
    rig.send("a")
    use_up(rig, 2)
    assert (dead(rig), rig.receive()) == (["a"], [])


def test_a_dead_letter_says_where_it_comes_from(rig: Rig) -> None:
    """Body, properties, tag and born data are the message's; origin topic, message id and position are added."""
    rig.send("first")
    rig.send(outgoing("a", tag="t", user="u"))
    rig.ack(rig.one(request(tag="t || x")).handle)
    rig.send(outgoing("b", tag="t", user="u"))
    came = rig.one(request(tag="t"))
    rig.bury(came.handle)
    (letter,) = rig.receive(request(DLQ, tag="t"))
    assert letter.body == came.body
    added = {m.DLQ_ORIGIN_TOPIC: TOPIC, m.DLQ_ORIGIN_MESSAGE_ID: "id-b", m.RMQ_ORIGIN: letter.properties[m.RMQ_ORIGIN]}
    assert letter.properties == came.properties | added
    assert (letter.born_ms, letter.born_host) == (came.born_ms, came.born_host)
    origin = Origin.parse(letter.properties[m.RMQ_ORIGIN])
    assert origin is not None
    assert (origin.topic, origin.queue_id, origin.offset, origin.group) == (
        TOPIC,
        came.queue_id,
        came.queue_offset,
        GROUP,
    )


def test_the_dead_letter_verb_needs_a_valid_handle(rig: Rig) -> None:
    """It moves the message at once; the same handle does it once only, and then acknowledges as after an ack."""
    rig.send("a")
    came = rig.one()
    rig.bury(came.handle)
    with pytest.raises(ClientError) as caught:
        rig.bury(came.handle)
    assert caught.value.code is Code.INVALID_RECEIPT_HANDLE
    assert dead(rig) == ["a"]
    rig.advance(INVISIBLE_MS)
    assert (rig.receive(), dead(rig)) == ([], [])


def test_a_change_to_0_at_the_last_attempt_is_a_dead_letter(make_rig: MakeRig) -> None:
    """At once."""
    rig = make_rig(groups={GROUP: GroupSetting(1)})
    rig.send("a")
    rig.change(rig.one().handle, 0)
    assert (dead(rig), rig.receive()) == (["a"], [])


def test_a_batch_with_mixed_attempts_is_told_apart(make_rig: MakeRig) -> None:
    """One lease, one end: what has attempts left comes again, the rest are dead letters."""
    rig = make_rig(groups=TWICE, topic_queues=1)
    rig.send("old")
    use_up(rig, 1)
    rig.send("new")
    use_up(rig, 1, batch=2)
    assert (dead(rig), bodies(rig.receive(request(batch=2)))) == (["old"], ["new"])


def test_dead_letters_are_messages_like_others(make_rig: MakeRig) -> None:
    """They can become dead letters of the group that reads them, and then name the dead-letter topic."""
    rig = make_rig(groups={GROUP: GroupSetting(1), "auditor": GroupSetting(1)})
    rig.send("a")
    use_up(rig, 1)
    rig.one(request(DLQ, "auditor"))
    rig.advance(INVISIBLE_MS)
    letter = rig.one(request("%DLQ%auditor", "reader"))
    assert letter.properties[m.DLQ_ORIGIN_TOPIC] == DLQ
    assert letter.properties[m.DLQ_ORIGIN_MESSAGE_ID] == "id-a"


def test_a_replay_makes_no_second_letter(disk_rig: Rig) -> None:
    """The letter names the message that it ends: after a crash that message is settled, once."""
    disk_rig.send(*"ab")
    first, _ = disk_rig.receive(request(batch=2))
    disk_rig.bury(first.handle)
    disk_rig.crash(pause_ms=INVISIBLE_MS)
    assert (dead(disk_rig), bodies(disk_rig.receive(request(batch=9)))) == (["a"], ["b"])
    disk_rig.crash(pause_ms=INVISIBLE_MS)
    assert (dead(disk_rig, "second"), bodies(disk_rig.receive(request(batch=9)))) == (["a"], ["b"])


def test_where_the_disk_is_full_the_letter_waits(
    disk_rig: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message stays with its last handle, one warning tells of it, and it is tried again every 10 s."""
    disk_rig.restart(groups={GROUP: GroupSetting(1)})
    disk_rig.send(*"abcd")
    held = disk_rig.receive(request(batch=4))

    def full(*_: object) -> int:
        raise StoreFull("disk full")

    monkeypatch.setattr(disk_rig.broker._store, "append", full)
    with pytest.raises(ClientError) as caught:
        disk_rig.bury(held[0].handle)
    assert caught.value.code is Code.INTERNAL_SERVER_ERROR
    with caplog.at_level(logging.WARNING, "rmq.expiry"):
        disk_rig.advance(INVISIBLE_MS)
    assert [record.name for record in caplog.records] == ["rmq.expiry"]
    assert disk_rig.ack(held[1].handle) == [None]
    monkeypatch.undo()  # there is space again
    disk_rig.advance(9_999)
    assert dead(disk_rig) == []
    disk_rig.advance(1)
    disk_rig.settle()
    assert dead(disk_rig) == ["a", "c", "d"]


def test_where_the_topic_cannot_be_made_the_letter_waits(make_rig: MakeRig) -> None:
    """topics_max is reached: the message is neither lost nor delivered once more, and the others of its lease go on."""
    rig = make_rig(topics_max=1, groups=TWICE, topic_queues=1)
    rig.send("old")
    use_up(rig, 1)
    rig.send("new")
    old, _ = rig.receive(request(batch=2))
    with pytest.raises(ClientError) as caught:
        rig.bury(old.handle)
    assert caught.value.code is Code.FORBIDDEN
    rig.advance(INVISIBLE_MS)
    assert bodies(rig.receive(request(batch=2))) == ["new"]
    rig.advance(60_000)
    assert bodies(rig.receive(request(batch=2))) == []
    assert len(rig.broker._store.state.leases.leases) == 2
    assert rig.ack(old.handle) == [None]


def test_a_message_that_cannot_be_read_any_more_is_given_up(
    rig: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged record cannot be moved: an error names its place, and the delivery is over."""
    rig.send("a")
    came = rig.one()
    with monkeypatch.context() as patch:
        patch.setattr(rig.broker._store, "read", lambda *_: None)  # as for a damaged record
        rig.bury(came.handle)
    assert [(record.levelname, TOPIC in record.getMessage()) for record in caplog.records] == [("ERROR", True)]
    rig.advance(INVISIBLE_MS)
    assert (rig.receive(), dead(rig)) == ([], [])
