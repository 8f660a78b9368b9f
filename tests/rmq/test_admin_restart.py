"""The admin port over a real broker: what it changed is there after a restart, after a crash and after retention."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import pytest

from rmq.adminport import Start
from rmq.message import Delivered
from tests.rmq.admin_rig import (
    RETRY,
    admin,
    bury_all,
    find,
    letters,
    make,
    of_topic,
    replay,
)
from tests.rmq.conftest import MakeRig
from tests.rmq.rig import GROUP, TOPIC, Rig, bodies, request

Again = Callable[[Rig], None]
RESTARTS: Mapping[str, Again] = {"restart": lambda rig: rig.restart(), "crash": lambda rig: rig.crash()}


@pytest.fixture(params=RESTARTS)
def again(request: pytest.FixtureRequest) -> Again:
    """Stops and starts the broker, in good order or not."""
    return RESTARTS[request.param]


def test_reset_offsets_last(disk_rig: Rig, again: Again) -> None:
    """What was held stays settled."""
    make(disk_rig)
    disk_rig.send(*"abc")
    disk_rig.receive(request(batch=3))
    disk_rig.wait(admin(disk_rig).reset_offset(GROUP, TOPIC, Start(offsets={0: 1})))
    again(disk_rig)
    assert (of_topic(disk_rig).lag_messages, of_topic(disk_rig).leased) == (2, 0)
    assert bodies(disk_rig.receive(request(batch=9))) == ["b", "c"]


def test_replays_last(disk_rig: Rig, again: Again) -> None:
    """What was replayed is with the group and not listed; what was not is."""
    make(disk_rig)
    bury_all(disk_rig, *"abcd")
    replay(disk_rig, "id-c")
    replay(disk_rig, "id-a")
    again(disk_rig)
    assert letters(disk_rig) == ["b", "d"]
    found = disk_rig.receive(request(batch=9))
    assert sorted((one.body, one.attempt) for one in found) == [(b"a", 1), (b"c", 1)]
    assert [disk_rig.ack(one.handle) for one in found] == [[None], [None]]
    again(disk_rig)
    assert replay(disk_rig) == 2
    assert sorted(bodies(disk_rig.receive(request(batch=9)))) == ["b", "d"]


def test_deletions_last(disk_rig: Rig, again: Again) -> None:
    """Of topics and groups, and of what they had."""
    make(disk_rig)
    make(disk_rig, topic="kept", group="stays")
    disk_rig.send("a")
    disk_rig.send("k", topic="kept")
    disk_rig.receive()
    disk_rig.wait(admin(disk_rig).delete_topic(TOPIC))
    disk_rig.wait(admin(disk_rig).delete_group(GROUP))
    again(disk_rig)
    assert [one.name for one in admin(disk_rig).topics()] == ["kept"]
    assert [one.name for one in admin(disk_rig).groups()] == ["stays"]
    assert find(disk_rig, "kept", message_id="id-k") == [("kept", "k")]
    assert admin(disk_rig).describe().open_messages == 0


def test_a_crash_between_a_replay_and_its_mark_makes_no_second_copy(disk_rig: Rig) -> None:
    """The letter is listed again, but the group holds the copy."""
    make(disk_rig)
    bury_all(disk_rig, "a")
    admin(disk_rig)._letters._mark = lambda queue, offset: None  # type: ignore[method-assign]  # the crash
    replay(disk_rig)
    disk_rig.crash()
    assert letters(disk_rig) == ["a"]
    assert replay(disk_rig) == 1
    assert letters(disk_rig) == []
    found = disk_rig.receive(request(batch=9))
    assert bodies(found) == ["a"]


def test_a_replay_is_there_for_a_receive_in_the_same_turn(disk_rig: Rig) -> None:
    """Its record can be read before the turn ends."""
    make(disk_rig)
    bury_all(disk_rig, "a")
    answer = admin(disk_rig).replay(GROUP, ())
    received = disk_rig.broker.receive(request())
    assert not isinstance(received, asyncio.Future)
    assert bodies(received) == ["a"]
    assert disk_rig.wait(answer) == 1


def delivered(found: Sequence[Delivered]) -> list[tuple[bytes, int]]:
    """Bodies and attempts."""
    return [(one.body, one.attempt) for one in found]


def test_a_carried_message_is_told_under_its_topic(make_rig: MakeRig) -> None:
    """Retention moved it to the retry topic: it counts where it came from, and a reset settles it there."""
    rig = make_rig(topic_queues=1, memory_bytes_max=8 << 20)
    make(rig)
    rig.send("held")
    rig.one(request(invisible_ms=3_600_000))
    while not of_topic(rig).places[0].open or admin(rig).describe().log_begin == 0:
        rig.send("x" * 500_000)
        rig.clean()
    (held,) = of_topic(rig, open_max=5).open
    assert (held.offset, held.message_id, of_topic(rig).leased) == (0, "id-held", 1)
    assert find(rig, message_id="id-held") == [(RETRY, "held")]
    rig.wait(admin(rig).reset_offset(GROUP, TOPIC, Start(end=True)))
    assert admin(rig).describe().open_messages == 0
    rig.advance(3_600_001)
    assert delivered(rig.receive(request(batch=9))) == []
