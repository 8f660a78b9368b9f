"""Half messages: tables that are small, and equal live, in a replay and in a checkpoint."""

import shutil
import tracemalloc
from pathlib import Path

import pytest

from rmq_store import outcomes
from rmq_store.consumequeue import FOLDER as QUEUES
from rmq_store.disk import RealDisk
from rmq_store.halves import PARKED_MS, TOPIC, Half, Halves, check_text, told_by
from rmq_store.journal import HalfChecked, HalfEnded, TopicDrop
from rmq_store.outcomes import CHUNK_BITS, CHUNKS_MAX, COMMITTED, ROLLED_BACK, UNKNOWN, Outcomes
from tests.store.support import Rig, WatchedDisk, view

DUE_MS = 1_800_000_000_000


def test_a_half_message_goes_by_its_first_number() -> None:
    """Wherever it was carried; it ends under that name, and how stays known."""
    halves = Halves()
    halves.put(3, Half("t", 3, DUE_MS, 0))
    halves.carried(3, 7)
    found = halves.get(3)
    assert found is not None
    assert (found.number, halves.get(7), list(halves.firsts())) == (7, None, [3])
    halves.committed(3)
    assert (len(halves), halves.due.next_due_ms(), halves.outcomes.get(3)) == (0, None, COMMITTED)
    halves.rolled_back(3)
    assert halves.outcomes.get(3) == COMMITTED


def test_a_check_moves_the_next_one_and_the_last_one_parks() -> None:
    """There is one due time of each; a parked one has none."""
    halves = Halves()
    halves.put(0, Half("t", 0, DUE_MS, 0))
    halves.checked(0, DUE_MS + 5, 1)
    assert halves.due.earliest(9) == [(DUE_MS + 5, 0)]
    halves.checked(0, PARKED_MS, 1)
    assert (halves.due.earliest(9), list(halves.parked)) == ([], [0])
    halves.checked(0, DUE_MS, 1)
    assert (halves.due.earliest(9), list(halves.parked)) == ([(DUE_MS, 0)], [])


def test_how_many_live_is_counted_by_topic() -> None:
    """Once each, also where a record tells of one again; a topic without any is not there."""
    halves = Halves()
    for first, topic in enumerate("aab"):
        halves.put(first, Half(topic, first, DUE_MS, 0))
    halves.put(0, Half("a", 9, DUE_MS, 1))
    assert halves.by_topic == {"a": 2, "b": 1}
    halves.committed(0)
    halves.rolled_back(2)
    assert halves.by_topic == {"a": 1}
    assert len(halves.due) == 1


def test_what_is_said_of_one_that_does_not_live_changes_nothing_but_its_end() -> None:
    """A replay may begin behind its record."""
    halves = Halves()
    halves.checked(5, DUE_MS, 1)
    halves.carried(5, 6)
    halves.rolled_back(5)
    assert (len(halves), halves.by_topic, halves.outcomes.get(5)) == (0, {}, ROLLED_BACK)


@pytest.mark.parametrize("text", ["", "5", "@", "5@", "@1", "x@1", "-5@1", "9999999999999999@1"])
def test_a_record_that_is_not_ours_is_no_half_message(text: str) -> None:
    """An Apache broker's: what became of it only its own tables say."""
    assert told_by(0, {"RMQ_CHECK": text, "REAL_TOPIC": "t"}) is None


def test_a_record_says_when_it_is_checked() -> None:
    """And for which topic it is."""
    assert told_by(7, {"RMQ_CHECK": check_text(DUE_MS, 3), "REAL_TOPIC": "t"}) == Half("t", 7, DUE_MS, 3)


def test_outcomes_are_forgotten_in_the_order_in_which_they_came() -> None:
    """By chunks: the one that was written to the longest ago goes first, however large its numbers are."""
    known = Outcomes()
    step = 1 << CHUNK_BITS
    known.put(0, COMMITTED)
    for n in range(1, CHUNKS_MAX):
        known.put(n * step, ROLLED_BACK)
    known.put(1, ROLLED_BACK)
    known.put(CHUNKS_MAX * step, COMMITTED)
    assert [known.get(n) for n in (0, 1, step, 2 * step)] == [COMMITTED, ROLLED_BACK, UNKNOWN, ROLLED_BACK]
    assert len(known.names()) == CHUNKS_MAX


def test_outcomes_come_back_in_their_order() -> None:
    """From a checkpoint, where the keys have another one; what was forgotten since the last one is told."""
    known, again = Outcomes(), Outcomes()
    for number in (5 << CHUNK_BITS, 1 << CHUNK_BITS, 3):
        known.put(number, COMMITTED)
    known.put(6 << CHUNK_BITS, ROLLED_BACK)
    rows = [(*told, name) for name, told in known.take_changes() if told is not None]
    again.restore([(stamp, name, chunk) for stamp, chunk, name in sorted(rows, key=lambda row: row[2])])
    assert again.names() == known.names() == [5, 1, 0, 6]
    assert [again.get(n << CHUNK_BITS) for n in (5, 6)] == [COMMITTED, ROLLED_BACK]
    known.clear()
    assert dict(known.take_changes()) == dict.fromkeys((5, 1, 0, 6))


def test_what_a_journal_repeats_is_known_from_it() -> None:
    """Whether it was known before or not; the order stays."""
    known, again = Outcomes(), Outcomes()
    for number in (300, 2):
        known.put(number, COMMITTED)
    again.put(301, ROLLED_BACK)
    for name in known.names():
        chunk = known.chunk(name)
        assert chunk is not None
        again.repeat(name, chunk, ())
    assert [again.get(number) for number in (300, 301, 2)] == [COMMITTED, UNKNOWN, COMMITTED]
    assert again.names() == [1, 0]
    assert again.chunk(9) is None


def test_an_end_whose_record_is_lost_is_none_though_the_journal_repeats_it() -> None:
    """A power cut took the one and left the other: it lives, and can end either way."""
    halves, before = Halves(), Outcomes()
    halves.put(3, Half("t", 3, DUE_MS, 0))
    for number in (2, 3):
        before.put(number, COMMITTED)
    chunk = before.chunk(0)
    assert chunk is not None
    halves.repeat(0, chunk)
    assert [halves.outcomes.get(number) for number in (2, 3)] == [COMMITTED, UNKNOWN]
    halves.rolled_back(3)
    assert halves.outcomes.get(3) == ROLLED_BACK


def make_some(rig: Rig) -> None:
    """One of each kind: it lives, is parked, was committed, was rolled back, was checked."""
    for n in range(5):
        rig.begin(DUE_MS + n)
    rig.store.apply(HalfChecked(1, PARKED_MS, 15))
    rig.commit(2, "t")
    rig.store.apply(HalfEnded(3))
    rig.store.apply(HalfChecked(4, DUE_MS + 99, 2))


@pytest.mark.parametrize("saved", [True, False])
def test_they_survive_a_crash(tmp_path: Path, saved: bool) -> None:
    """In a checkpoint or in a replay."""
    rig = Rig(tmp_path)
    make_some(rig)
    rig.turn()
    if saved:
        rig.save()
    expected = view(rig.store.state)
    rig.crash()
    again = Rig(tmp_path)
    assert (again.store.report.records == 0) is saved
    assert view(again.store.state) == expected
    halves = again.store.state.halves
    assert list(halves.firsts()) == [0, 1, 4]
    assert halves.due.earliest(9) == [(DUE_MS, 0), (DUE_MS + 99, 4)]
    assert [halves.outcomes.get(n) for n in range(4)] == [UNKNOWN, UNKNOWN, COMMITTED, ROLLED_BACK]
    again.close()


def test_a_checkpoint_of_everything_keeps_them(tmp_path: Path) -> None:
    """They are told as changes only, also where a dropped topic makes all else be written anew."""
    rig = Rig(tmp_path)
    rig.send("gone")
    make_some(rig)
    rig.save()
    rig.store.apply(TopicDrop("gone"))
    rig.commit(0, "t")
    rig.save()
    expected = view(rig.store.state)
    rig.crash()
    again = Rig(tmp_path)
    assert again.store.report.records == 0
    assert view(again.store.state) == expected
    again.close()


def test_a_checkpoint_that_one_itself_sets_off_has_it(tmp_path: Path) -> None:
    """The log is not read again before its position, so whoever is killed behind it relies on it."""
    rig = Rig(tmp_path, checkpoint_records=1)
    for n in range(3):
        rig.begin(DUE_MS + n)
        rig.until(lambda: rig.store._saver is not None and rig.store._saver._running is None)
    rig.begin(DUE_MS + 3)
    rig.crash()
    again = Rig(tmp_path)
    assert again.store.state.halves.due.earliest(9) == [(DUE_MS + n, n) for n in range(4)]
    again.close()


def test_a_dropped_half_topic_takes_all_along(tmp_path: Path) -> None:
    """As a reset of a server for tests does: numbers begin again, and nothing is known of the old ones."""
    rig = Rig(tmp_path)
    make_some(rig)
    rig.save()
    rig.store.apply(TopicDrop(TOPIC))
    rig.begin(DUE_MS + 7)
    rig.save()
    rig.crash()
    again = Rig(tmp_path)
    halves = again.store.state.halves
    assert halves.due.earliest(9) == [(DUE_MS + 7, 0)]
    assert [halves.outcomes.get(n) for n in range(5)] == [UNKNOWN] * 5
    again.close()


def test_outcomes_outlive_the_records_that_told_of_them(tmp_path: Path) -> None:
    """Each segment repeats them: the log alone, without its first segments and a checkpoint, is enough."""
    rig = Rig(tmp_path)
    rig.begin(DUE_MS)
    rig.begin(DUE_MS)
    rig.commit(0, "t")
    rig.store.apply(HalfEnded(1))
    begin = rig.store.log.begin
    rig.roll()
    rig.roll()
    rig.retain()
    assert rig.store.log.begin > begin
    rig.crash()
    shutil.rmtree(tmp_path / "rmq" / "checkpoint")
    again = Rig(tmp_path)
    assert [again.store.state.halves.outcomes.get(n) for n in (0, 1)] == [COMMITTED, ROLLED_BACK]
    again.close()


def test_a_half_message_takes_little_memory() -> None:
    """Numbers, due times and the topic's name included, what is to be saved aside."""
    halves = Halves()
    tracemalloc.start()
    try:
        for n in range(20_000):
            halves.put(n + 1000, Half("t", n + 1000, DUE_MS + n, 0))
        list(halves.take_changes())
        assert tracemalloc.get_traced_memory()[0] < 20_000 * 380
    finally:
        tracemalloc.stop()


def test_all_outcomes_take_a_megabyte() -> None:
    """A million of them, and not more with more."""
    known = Outcomes()
    tracemalloc.start()
    try:
        for n in range(CHUNKS_MAX + 100):
            known.put(n << CHUNK_BITS, outcomes.COMMITTED)
        list(known.take_changes())
        assert tracemalloc.get_traced_memory()[0] < 1_300_000
    finally:
        tracemalloc.stop()


def test_a_checkpoint_that_failed_is_made_up_for(tmp_path: Path) -> None:
    """The next one tells again what came, went and was checked, and how others ended."""
    disk = WatchedDisk(RealDisk(tmp_path))
    rig = Rig(tmp_path, disk)
    make_some(rig)
    disk.broken.add(("write", QUEUES))
    rig.save()
    disk.broken.clear()
    rig.begin(DUE_MS + 50)
    rig.save()
    expected = view(rig.store.state)
    rig.crash()
    again = Rig(tmp_path)
    assert again.store.report.records == 0
    assert view(again.store.state) == expected
    again.close()


def test_one_that_cannot_be_read_is_not_carried_forward(tmp_path: Path) -> None:
    """Its segment goes all the same; whoever asks for it is told that it is lost."""
    rig = Rig(tmp_path)
    for _ in range(2):
        rig.begin(DUE_MS)
    rig.turn()
    queue = rig.store.state.topics[TOPIC].queues[0]
    position = queue.read(0, 1)[0].position
    rig.roll()
    rig.roll()
    rig.store.log.segment_at(position).write(position + 100, b"\xff" * 8)
    rig.retain()
    lost, kept = rig.store.state.halves.get(0), rig.store.state.halves.get(1)
    assert lost is not None
    assert kept is not None
    assert (lost.number, kept.number) == (0, 2)
    rig.close()
