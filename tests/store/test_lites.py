"""Lite topics: tables that are equal live, in a replay and in a checkpoint; what lost bytes leave in doubt."""

from pathlib import Path

import pytest

from rmq_store import halves, timers
from rmq_store.doubt import Doubt
from rmq_store.journal import GroupDrop, Grouped, Leased, LitePlaces, LitesDropped, LitesPut, LiteSubscribed, TopicDrop
from rmq_store.lines import key_of
from rmq_store.lites import CHUNK_BITS, Lites, name_in
from rmq_store.record import encode_properties
from tests.sim.disk import SimDisk
from tests.store.support import GROUP, Rig, view

TOPIC = "parent"
A, B, C = (key_of(TOPIC, name) for name in "abc")


def send(rig: Rig, name: str, queue_id: int = 0) -> int:
    """One message of a lite topic."""
    return rig.send(TOPIC, queue_id, properties=encode_properties({"__LITE_TOPIC": name}))


def fill(rig: Rig) -> None:
    """Some lite topics, a group with places in two of them, subscribed by two clients."""
    rig.store.apply(GROUP)
    for name in ("a", "b", "a", "b", "a"):
        send(rig, name)
    rig.store.apply(LitesPut(TOPIC, [("c", 1, 0, rig.now_ms)]))
    rig.store.apply(LitePlaces("g", TOPIC, [(A, 2), (C, 0)]))
    rig.store.apply(LiteSubscribed("g", TOPIC, "one", [A, C], []))
    rig.store.apply(LiteSubscribed("g", TOPIC, "two", [A], []))
    rig.store.apply(LitePlaces("other", TOPIC, []))


def again(rig: Rig, root: Path, expected: dict[str, object]) -> Rig:
    """The next life of a store that was killed; it knows the same."""
    rig.crash()
    found = Rig(root)
    assert view(found.store.state) == expected
    return found


def lose(rig: Rig, root: Path, start: int, end: int) -> Rig:
    """The next life, of whose log these bytes are lost, and the checkpoint with them."""
    rig.turn()
    rig.store.flusher.finish()
    rig.store.log.segments[0].write(start, bytes(end - start))
    rig.store.log.segments[0].sync()
    disk = rig.store.disk
    rig.crash()
    return Rig(root / "another", disk)


@pytest.mark.parametrize("is_known", [True, False])
def test_what_comes_after_a_loss_is_behind_every_place(tmp_path: Path, is_known: bool) -> None:
    """Messages are lost, and a group's place behind them is not; or the lite topic is, with all its messages."""
    rig = Rig(tmp_path / "one", SimDisk())
    rig.topic(TOPIC)
    if is_known:
        send(rig, "a")
    rig.turn()
    start = rig.store.log.end
    for _ in range(3):
        send(rig, "a")
    rig.turn()
    end = rig.store.log.end
    rig.store.apply(LitePlaces("g", TOPIC, [(A, 3 + is_known)], settles=True))
    rig = lose(rig, tmp_path, start, end)
    sent = send(rig, "a")
    known, lite = rig.store.state.lites.group("g", TOPIC), rig.store.state.lites.get(A)
    assert known is not None
    assert lite is not None
    assert lite.next(known.places[A].next) == sent
    assert sent == (4 if is_known else 0)
    rig.crash()


@pytest.mark.parametrize("saved", [False, True])
def test_the_tables_outlive_the_process(tmp_path: Path, saved: bool) -> None:
    """From the log, or from a checkpoint and what came behind it."""
    rig = Rig(tmp_path)
    fill(rig)
    for step in range(3):
        rig.store.flusher.end_turn()
        if saved:
            rig.save()
        rig = again(rig, tmp_path, view(rig.store.state))
        if step == 0:
            send(rig, "a")
            rig.store.apply(LiteSubscribed("g", TOPIC, "one", [B], [A]))
            rig.store.apply(LitePlaces("g", TOPIC, [(A, 6)]))
        elif step == 1:
            rig.store.apply(LitesDropped([A, 77]))
            send(rig, "d", 1)
    rig.close()


@pytest.mark.parametrize("change", [TopicDrop(TOPIC), GroupDrop("g")])
@pytest.mark.parametrize("saved", [False, True])
def test_what_is_dropped_stays_dropped(tmp_path: Path, change: TopicDrop | GroupDrop, saved: bool) -> None:
    """A parent with its lite topics, a group with its places."""
    rig = Rig(tmp_path)
    fill(rig)
    rig.save()
    rig.store.apply(change)
    if saved:
        rig.save()
    rig.store.flusher.end_turn()
    rig = again(rig, tmp_path, view(rig.store.state))
    assert (len(rig.store.state.lites), rig.store.state.lites.group("g", TOPIC)) == (
        3 * isinstance(change, GroupDrop),
        None,
    )
    rig.close()


def test_each_part_of_a_checkpoint_is_written_once(tmp_path: Path) -> None:
    """Of a long lite topic only what came since the last one, and what is gone is deleted."""
    rig = Rig(tmp_path)
    count = 3 << CHUNK_BITS
    for _ in range(count):
        send(rig, "a")
    rig.save()
    lites = rig.store.state.lites
    lite = lites.get(A)
    assert lite is not None
    assert lite.saved == count
    send(rig, "a")
    lites.cut(lite, 2 << CHUNK_BITS)
    assert (lite.first, lite.next(0)) == (2 << CHUNK_BITS, 2 << CHUNK_BITS)
    rig.save()
    expected = (lite.first, list(lite.offsets))
    rig.crash()
    rig = Rig(tmp_path)
    found = rig.store.state.lites.get(A)
    assert found is not None
    assert (found.first, list(found.offsets)) == expected
    rig.close()


def test_a_checkpoint_that_failed_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one has it all."""
    rig = Rig(tmp_path)
    fill(rig)
    checkpoint = rig.store._saver._checkpoint  # type: ignore[union-attr]

    def fail(*_: object, **__: object) -> None:
        raise OSError("full")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "commit", fail)
        rig.save()
    rig.save()
    rig = again(rig, tmp_path, view(rig.store.state))
    rig.close()


def test_whose_messages_are_of_a_lite_topic() -> None:
    """Those of an ordinary topic: not what waits, comes again, or is dead."""
    named = {"__LITE_TOPIC": "a"}
    assert name_in(TOPIC, named) == "a"
    assert name_in(TOPIC, {}) == ""
    assert {name_in(topic, named) for topic in ("%RETRY%g", "%DLQ%g", timers.TOPIC, halves.TOPIC)} == {""}


def test_a_name_in_the_text_of_another_property_is_none(tmp_path: Path) -> None:
    """Only the property counts."""
    rig = Rig(tmp_path)
    rig.send(TOPIC, properties=encode_properties({"note": "__LITE_TOPIC"}))
    assert len(rig.store.state.lites) == 0
    rig.close()


def test_a_lite_topic_that_comes_from_another_queue_begins_anew() -> None:
    """Its end, and that the parent grew, were in lost bytes. Its numbers go on."""
    lites = Lites()
    lites.put(TOPIC, "a", 0, 5, 1)
    lites.put(TOPIC, "a", 1, 2, 2)
    lites.put(TOPIC, "a", 1, 2, 2)
    lite = lites.get(A)
    assert lite is not None
    assert (lite.queue_id, lite.first, list(lite.offsets), lite.touched_ms) == (1, 1, [2], 2)


def test_deliveries_in_lost_bytes_are_made_again(tmp_path: Path) -> None:
    """What the first entry behind the loss passes over in a lite topic, but for what it leases."""
    rig = Rig(tmp_path)
    rig.store.apply(GROUP)
    for name in ("a", "b", "a", "b", "a"):
        send(rig, name)
    rig.store.apply(LitePlaces("g", TOPIC, [(A, 0), (B, 0)]))
    state = rig.store.state
    doubt = Doubt(state, rig.store.log)
    doubt.begin(rig.store.log.end)
    for change in (
        Grouped("g", TOPIC, [(0, [4], [A])]),
        Leased("g", TOPIC, 7, 1, 2, "", [(0, 5, [4], [])]),
        LitePlaces("g", TOPIC, [(A, 5)]),
        LitePlaces("g", TOPIC, [(A, 5), (77, 1)]),
        LitePlaces("nobody", TOPIC, [(A, 1)]),
    ):
        assert doubt.before(change)
        state.apply(change)
    ledger = state.leases.subscription("g", TOPIC).ledger(0)
    assert sorted(ledger.open) == [0, 2, 4]
    assert [ledger.lines.at(A, place) for place in range(3)] == [0, 2, 4]  # type: ignore[union-attr]
    rig.close()
