"""Lite topics through restarts, kills and retention, with a checkpoint and without, and how they end."""

import shutil
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest

from rmq.port import LiteStart, LiteSync
from rmq_store.journal import TopicDrop
from rmq_store.lines import key_of
from tests.rmq.conftest import MakeRig
from tests.rmq.lite import WAYS, Told, again, drain, lite, of_lite, receive, send, sync, take
from tests.rmq.rig import GROUP, INVISIBLE_MS, SMALL, TOPIC, Rig, bodies, outgoing, request

TTL_MS = 3_600_000
MINUTE_MS = 60_000


# -- what lasts --------------------------------------------------------------------------------------------------------


@WAYS
def test_subscriptions_places_and_order_outlive_the_server(disk_rig: Rig, way: str) -> None:
    """Receives go on at once, and a client that was there counts as there."""
    rig = disk_rig
    sync(rig, "a", "b")
    sync(rig, "c", client="second")
    send(rig, "a1", "a2", "b1", "c1", "d1")
    (first, *_) = sorted(receive(rig), key=lambda found: found.body)
    again(rig, way)
    assert sorted(rig.broker.recovered_clients) == [(GROUP, "client"), (GROUP, "second")]
    assert take(rig) == []
    assert rig.ack(first.handle) == [None]
    assert take(rig) == ["a2"]
    assert take(rig, client="second") == ["c1"]
    sync(rig, "d", start=LiteStart("offset", 0))
    assert take(rig) == ["d1"]
    again(rig, way)
    rig.advance(INVISIBLE_MS)
    assert sorted(drain(rig)) == ["a2", "b1", "d1"]
    assert drain(rig, client="second") == ["c1"]


@WAYS
def test_what_was_subscribed_before_anything_was_sent(disk_rig: Rig, way: str) -> None:
    """And what nobody subscribes any more: the group's place is kept."""
    rig = disk_rig
    sync(rig, "a", "b")
    send(rig, "b1")
    assert drain(rig) == ["b1"]
    sync(rig, "b", action="remove")
    again(rig, way)
    send(rig, "a1", "b2")
    assert take(rig) == ["a1"]
    sync(rig, "b")
    assert take(rig) == ["b2"]


@WAYS
def test_a_long_lite_topic(disk_rig: Rig, way: str) -> None:
    """More than one part of a checkpoint holds, in several checkpoints."""
    rig = disk_rig
    rig.send(*(of_lite(f"a{number}") for number in range(700)))
    again(rig, way)
    rig.send(*(of_lite(f"a{number}") for number in range(700, 1400)))
    again(rig, way)
    assert (lite(rig, "a").first, lite(rig, "a").end) == (0, 1400)
    sync(rig, "a", start=LiteStart("offset", 1399))
    assert take(rig) == ["a1399"]


@pytest.fixture
def short_rig(make_rig: MakeRig, tmp_path: Path) -> Rig:
    """A broker that keeps two segments of 64 KiB, and cleans up when it is told to."""
    small = {**SMALL, "segment_bytes": 64 << 10, "reserve_bytes": 64 << 10}
    return make_rig(flush="fast", data=f"{tmp_path}/data", flush_interval_ms=1, log_bytes_max=128 << 10, **small)


def push_out(rig: Rig) -> None:
    """Other messages fill segments until those from before are deleted."""
    begin = rig.broker._store.log.end
    while rig.broker._store.log.begin <= begin:
        for _ in range(10):
            rig.send(outgoing("x" * 8_000, topic="filler"))
        rig.clean()


@WAYS
def test_retention_carries_what_is_open_and_repeats_the_rest(short_rig: Rig, way: str) -> None:
    """Numbers go on; what nobody had received is gone, as any message is."""
    rig = short_rig
    sync(rig, "a", "b")
    sync(rig, "c", "d", client="second")
    send(rig, "a1", "a2", "c1")
    assert take(rig) == ["a1"]
    (c1,) = receive(rig, client="second")
    rig.ack(c1.handle)
    push_out(rig)
    again(rig, way)
    send(rig, "a3", "b1", "c2", "d1")
    assert take(rig) == ["b1"]
    assert take(rig, client="second") == ["c2", "d1"]
    rig.advance(INVISIBLE_MS)
    assert drain(rig)[0] == "a1"
    assert take(rig) == []
    sync(rig, "a", start=LiteStart("offset", 2))
    assert take(rig) == ["a3"]


@WAYS
def test_a_topic_or_group_that_was_deleted_leaves_nothing(disk_rig: Rig, way: str) -> None:
    """Another of that name begins anew, and a client of before may subscribe it."""
    rig = disk_rig
    sync(rig, "a")
    sync(rig, "a", group="audit")
    send(rig, "a1")
    rig.wait(rig.broker.admin.delete_group("audit"))
    again(rig, way)
    assert take(rig, group="audit") == []
    rig.wait(rig.broker.admin.delete_topic(TOPIC))
    assert take(rig) == []
    again(rig, way)
    assert len(rig.broker._store.state.lites) == 0
    send(rig, "a2")
    assert take(rig) == []
    sync(rig, "a")
    send(rig, "a3")
    assert take(rig) == ["a3"]


def test_a_poll_outlives_the_topic(rig: Rig) -> None:
    """It ends in vain, and the next one is of the new topic."""
    sync(rig, "a")
    polling = rig.poll(request(lite=True, poll_ms=20_000))
    rig.wait(rig.broker.admin.delete_topic(TOPIC))
    sync(rig, "a")
    send(rig, "a1")
    assert take(rig) == ["a1"]
    rig.broker.end_polls()
    assert rig.until(polling) == []


def test_a_poll_that_is_served_when_its_topic_is_gone(rig: Rig) -> None:
    """It gets nothing of it, and ends in its time without a spin."""
    sync(rig, "a")
    send(rig, "a1")
    assert drain(rig) == ["a1"]
    polling = rig.poll(request(lite=True, poll_ms=100))
    rig.broker.sync_lite(LiteSync(GROUP, TOPIC, "client", "add", ["a"], LiteStart("min")))
    rig.broker._store.apply(TopicDrop(TOPIC))
    rig.turn()
    assert not rig.broker._serving._lines
    assert rig.until(polling) == []


# -- the end -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def short_lived(make_rig: MakeRig, tmp_path: Path) -> Rig:
    """Lite topics end after an hour."""
    return make_rig(flush="durable", data=str(tmp_path / "data"), lite_ttl_ms=TTL_MS, **SMALL)


def test_a_lite_topic_ends_after_its_last_message(short_lived: Rig) -> None:
    """Who subscribes it is told; a group that comes back begins anew."""
    rig, told = short_lived, Told()
    rig.broker.asks(told)
    sync(rig, "a")
    sync(rig, "a", group="audit", client="auditor")
    rig.advance(TTL_MS // 2)
    send(rig, "a1")
    assert (drain(rig), drain(rig, group="audit", client="auditor")) == (["a1"], ["a1"])
    rig.advance(TTL_MS - 1)
    assert (len(rig.broker._store.state.lites), told.ended) == (1, [])
    rig.advance(MINUTE_MS)
    assert (len(rig.broker._store.state.lites), sorted(told.ended)) == (0, [("auditor", "a"), ("client", "a")])
    assert rig.broker.recovered_clients == []
    send(rig, "a2")
    assert take(rig) == []
    sync(rig, "a", start=LiteStart("offset", 0))
    assert take(rig) == ["a2"]


@WAYS
def test_an_ended_lite_topic_stays_ended(short_lived: Rig, way: str) -> None:
    """And one that lives ends in its time, by the clock that went on."""
    rig = short_lived
    sync(rig, "a")
    rig.send(*(of_lite(f"a{number}") for number in range(600)))
    sync(rig, "a", action="remove")
    again(rig, way)
    rig.advance(TTL_MS)
    send(rig, "b1")
    rig.advance(MINUTE_MS)
    again(rig, way)
    assert [found.name for found in rig.broker._store.state.lites] == ["b"]
    rig.advance(TTL_MS)
    assert len(rig.broker._store.state.lites) == 0
    sync(rig, "a", start=LiteStart("min"))
    assert take(rig) == []


@WAYS
def test_a_message_in_the_turn_in_which_its_lite_topic_ended(short_lived: Rig, way: str) -> None:
    """Is the first of the next lite topic of that name."""
    send(short_lived, "a1")
    short_lived.settle()
    short_lived.clock.advance(ms=TTL_MS + MINUTE_MS)
    short_lived.broker.tick()
    short_lived.broker.send([of_lite("a2")])
    again(short_lived, way)
    sync(short_lived, "a", start=LiteStart("min"))
    assert drain(short_lived) == ["a2"]


def test_a_lite_topic_does_not_end_while_it_is_read(short_lived: Rig) -> None:
    """While a message is open, or while a client that subscribes it has something to read."""
    rig = short_lived
    sync(rig, "a", "b")
    send(rig, "a1", "a2", "b1")
    assert take(rig) == ["a1", "b1"]
    sync(rig, "b", action="remove")
    for _ in range(3):
        rig.advance(TTL_MS)
        assert len(rig.broker._store.state.lites) == 2
        assert take(rig) == ["a1"]
    rig.advance(INVISIBLE_MS)
    assert drain(rig) == ["a1", "a2"]
    rig.advance(2 * MINUTE_MS)
    assert [found.name for found in rig.broker._store.state.lites] == ["b"]


def test_without_a_time_to_live_none_ends(make_rig: MakeRig) -> None:
    """The setting is 0."""
    rig = make_rig(lite_ttl_ms=0)
    send(rig, "a1")
    rig.advance(3660 * 24 * 3_600_000)
    assert len(rig.broker._store.state.lites) == 1


def test_a_clock_that_is_moved_ends_what_is_over(short_lived: Rig) -> None:
    """However many: nothing is left of them when it has moved."""
    rig = short_lived
    rig.send(*(of_lite(f"n{number}x1") for number in range(1200)))
    rig.clock.advance(ms=TTL_MS + MINUTE_MS)
    rig.broker.catch_up()
    assert len(rig.broker._store.state.lites) == 0


# -- memory ------------------------------------------------------------------------------------------------------------


def sends(names: Sequence[str], rig: Rig) -> None:
    """In calls of 100."""
    for start in range(0, len(names), 100):
        rig.send(*(of_lite(f"{name}1") for name in names[start : start + 100]))


def test_memory_of_lite_topics(make_rig: MakeRig) -> None:
    """A lite topic with a message and a subscriber takes less than 1,500 bytes: 100,000 at most 150 MB."""
    rig = make_rig(memory_bytes_max=64 << 20)
    count = 4000
    names = [f"device-{number:06d}-x" for number in range(count)]
    for start in range(0, 400, 100):
        sync(rig, f"warm{start}")
    sends(["warm"], rig)
    tracemalloc.start()
    try:
        for start in range(0, count, 200):
            client = f"client-{start}"
            rig.wait(rig.broker.sync_lite(LiteSync(GROUP, TOPIC, client, "add", names[start : start + 200])))
        sends(names, rig)
        lites = rig.broker._store.state.lites
        size = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, "*commitlog.py")])
    finally:
        tracemalloc.stop()
    assert len(lites) >= count
    per_lite = sum(found.size for found in size.statistics("filename")) / count
    assert per_lite < 1500
    assert key_of(TOPIC, names[0]) in set(lites.keys())
    assert bodies(receive(rig, 1, client="client-0")) == [f"{names[0]}1"]


def replay_behind_a_loss(rig: Rig) -> None:
    """The record of the one message of topic `others` is damaged, and the log is all that is left."""
    rig.settle()
    queues = rig.broker._store.state.topics["others"].queues
    (position,) = [queue.read(0, 1)[0].position for queue in queues if queue.max_offset]
    rig.crash()
    rig.broker.close()
    shutil.rmtree(Path(rig.config.data) / "rmq" / "checkpoint")
    with next(Path(rig.config.data).glob("commitlog/*0")).open("r+b") as log:
        log.seek(position + 100)
        log.write(b"damaged")
    rig._start(0, {})
    rig.advance(INVISIBLE_MS)


@pytest.mark.parametrize(("start", "left"), [(LiteStart("max"), []), (LiteStart("tail", 1), ["a3"])])
def test_where_a_client_moved_its_group_there_is_no_doubt(disk_rig: Rig, start: LiteStart, left: list[str]) -> None:
    """A record before that is damaged, and what the group passed over by it does not come."""
    sync(disk_rig, "a")
    send(disk_rig, "a1", "a2", "a3")
    assert take(disk_rig) == ["a1"]
    disk_rig.send(outgoing("lost", topic="others"))
    sync(disk_rig, "a", start=start)
    replay_behind_a_loss(disk_rig)
    assert drain(disk_rig) == left


def test_what_was_there_before_a_group_began_with_lite_topics_does_not_come(disk_rig: Rig) -> None:
    """Not behind lost bytes either: it is no delivery that nobody knows of."""
    assert take(disk_rig) == []
    send(disk_rig, "a1", "b1")
    disk_rig.send(outgoing("lost", topic="others"))
    sync(disk_rig, "a")
    send(disk_rig, "a2")
    replay_behind_a_loss(disk_rig)
    assert drain(disk_rig) == ["a2"]
