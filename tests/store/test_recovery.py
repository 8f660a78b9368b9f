"""The state after a crash is the replay of the log: at every border, from every byte, with any checkpoint or none."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rmq_store import journal
from rmq_store.consumequeue import QueueFiles
from rmq_store.disk import MemoryDisk
from rmq_store.errors import StoreError
from rmq_store.halves import PARKED_MS
from rmq_store.journal import Extended, GroupDrop, HalfChecked, HalfEnded, TimerEnded, TopicDrop
from rmq_store.ledger import Open
from rmq_store.record import SYS_FLAG_ROLLBACK, Draft
from rmq_store.recovery import replay
from rmq_store.state import State
from tests.store.support import GROUP, SEGMENT_BYTES, Rig, log_bytes, records, recovered, view

# -- random histories ------------------------------------------------------------------------------------------------

TOPICS = ("a", "b")
GROUPS = ("g", "h")
Op = tuple[str, int, int]
OPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["send"] * 6 + ["big"] * 3 + ["batch", "take", "line", "line", "push", "ack", "ack", "extend", "suspend"]
            + ["release", "bury", "drop topic", "drop group", "put group", "retain", "save", "several"]
            + ["delay"] * 3 + ["fire", "recall"] + ["begin"] * 3 + ["commit", "roll back", "check"]
        ),
        st.integers(0, 1 << 16),
        st.integers(0, 1 << 16),
    ),
    min_size=20,
    max_size=100,
)  # fmt: skip


def _opened(rig: Rig, pick: int) -> Open | None:
    every = [found for ledger in rig.store.state.leases.ledgers() for found in ledger.open.values()]
    return every[pick % len(every)] if every else None


def _name(found: Open) -> tuple[str, str, int, int]:
    ledger, offset = found.ledger.origins.get(found.offset, (found.ledger, found.offset))
    return ledger.subscription.group, ledger.subscription.topic, ledger.queue_id, offset


def _extend(rig: Rig, found: Open, attempt: int) -> None:
    group, topic, queue_id, offset = _name(found)
    sequence = rig.store.next_sequence()
    rig.store.apply(Extended(group, topic, queue_id, offset, sequence, rig.now_ms, rig.now_ms + 5_000, attempt))


def _ack(rig: Rig, found: Open) -> None:
    group, topic, queue_id, offset = _name(found)
    rig.ack(group, topic, queue_id, offset)


def _release(rig: Rig, found: Open) -> None:
    """A lease ends in time only: its due passes first."""
    if found.lease is not None:
        rig.now_ms = max(rig.now_ms, found.lease.due_ms)
        for held in found.lease.held:
            if held.lease is found.lease:
                rig.store.state.leases.release(held)


OPENED: dict[str, Callable[[Rig, Open], None]] = {
    "ack": _ack,
    "extend": lambda rig, found: _extend(rig, found, found.attempt),
    "suspend": lambda rig, found: _extend(rig, found, max(found.attempt - 1, 0)),
    "release": _release,
    "bury": lambda rig, found: rig.bury(found),
}


def _end_timer(rig: Rig, pick: int, topic: str) -> None:
    timers = rig.store.state.timers
    every = timers.earliest(len(timers))
    if not every:
        return
    due_ms, first = every[pick % len(every)]
    if topic:
        rig.fire(first, due_ms, topic)
    else:
        rig.store.apply(TimerEnded(first, due_ms))


def _end_half(rig: Rig, pick: int, verb: str, topic: str) -> None:
    halves = rig.store.state.halves
    firsts = list(halves.firsts())
    if not firsts:
        return
    first = firsts[pick % len(firsts)]
    if verb == "commit":
        rig.commit(first, topic)
    elif verb == "roll back":
        rig.store.apply(HalfEnded(first))
    else:
        rig.store.apply(HalfChecked(first, PARKED_MS if pick % 3 == 0 else rig.now_ms + pick, pick % 16))


def act(rig: Rig, op: Op) -> None:
    """One step of a history, without the end of its turn."""
    name, x, y = op
    topic, group = TOPICS[x % 2], GROUPS[y % 2]
    if name in OPENED:
        found = _opened(rig, x)
        if found is not None:
            OPENED[name](rig, found)
    elif name in ("send", "big"):
        rig.send(topic, y % 3, bytes(x % 300 if name == "send" else 15_000 + x % 20_000))
    elif name == "batch":
        for n in range(4):
            rig.send(topic, 0, bytes(y % (5_000 * n + 1)))
    elif name in ("take", "push"):
        rig.topic(topic)
        due_ms = rig.now_ms + 1_000 + y % 100_000
        rig.take(group, topic, 1 + x % 4, due_ms, "client" if name == "push" else "")
    elif name == "line":
        rig.topic(topic)
        rig.take_in_line(group, topic, 1 + x % 6, rig.now_ms + 1_000 + y % 100_000)
    elif name == "delay":
        rig.delay(rig.now_ms + y % 5)
    elif name in ("fire", "recall"):
        _end_timer(rig, x, topic if name == "fire" else "")
    elif name == "begin":
        rig.begin(rig.now_ms + y % 5 + 1)
    elif name in ("commit", "roll back", "check"):
        _end_half(rig, x, name, topic)
    elif name == "drop topic":
        rig.store.apply(TopicDrop(topic))
    elif name == "drop group":
        rig.store.apply(GroupDrop(group))
    elif name == "put group":
        rig.store.apply(GROUP)
    elif name == "retain":
        rig.retain(bytes_max=SEGMENT_BYTES)
    elif name == "save" and rig.store._saver is not None:
        rig.store._saver.save()
    elif name == "several":  # in one turn: order within it must hold
        for step in ("send", "line", "drop topic", "send", "take", "line", "ack", "send", "bury")[x % 8 : x % 8 + 4]:
            act(rig, (step, x, y))


def run(rig: Rig, ops: list[Op]) -> list[tuple[int, dict[str, object], int]]:
    """Does it all; (written position, the live state, the time) at the end of each turn."""
    borders = []
    for op in ops:
        act(rig, op)
        rig.turn()
        while rig.store._state_left is not None:
            rig.turn()
        borders.append((rig.store.log.written, view(rig.store.state, rig.now_ms), rig.now_ms))
    return borders


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(OPS)
def test_replay_up_to_the_end_of_each_turn_is_the_live_state_of_that_turn(ops: list[Op]) -> None:
    """What was carried, dropped, made again, taken, extended or settled: one log tells it all."""
    rig = Rig(None)
    try:
        borders = run(rig, [op for op in ops if op[0] != "retain"])
        begin, data = log_bytes(rig.store)
        state = State(QueueFiles(MemoryDisk(), 16))
        found = iter(records(begin, data))
        position = begin
        for written, live, now_ms in borders:
            while position < written:
                record = next(found)
                replay(state, record)
                position = record.position + record.size
            assert view(state, now_ms) == live
    finally:
        rig.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(OPS, st.floats(0, 1))
def test_what_retention_left_of_the_log_tells_the_whole_live_state(ops: list[Op], where: float) -> None:
    """Segments go at any time; the rest alone gives the same messages, leases, names and places."""
    rig = Rig(None)
    try:
        run(rig, ops)
        rig.retain(bytes_max=int(where * 3 * SEGMENT_BYTES) + 1)
        rig.turn()
        while rig.store._state_left is not None:
            rig.turn()
        _, state, report = recovered(*log_bytes(rig.store))
        assert not report.damaged
        assert view(state, rig.now_ms) == view(rig.store.state, rig.now_ms)
    finally:
        rig.close()


@pytest.mark.crash
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(OPS, st.data())
def test_a_log_cut_at_any_byte_is_the_log_up_to_the_last_whole_record(ops: list[Op], data: st.DataObject) -> None:
    """A torn record leaves no trace, and no reading of what is before it fails."""
    rig = Rig(None)
    try:
        run(rig, ops)
        begin, whole = log_bytes(rig.store)
    finally:
        rig.close()
    cut = data.draw(st.integers(0, len(whole)))
    expected = State(QueueFiles(MemoryDisk(), 16))
    end = begin
    for found in records(begin, whole):
        if found.position + found.size <= begin + cut:
            replay(expected, found)
            end = found.position + found.size
    log, state, report = recovered(begin, whole[:cut])
    assert (log.end, report.damaged) == (end, [])
    assert view(state) == view(expected)


@pytest.mark.crash
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(OPS, min_size=2, max_size=4), st.lists(st.sampled_from(["close", "crash", "lose", "stale"])), st.booleans()
)
def test_a_store_goes_on_where_it_was_however_it_was_stopped(
    lives: list[list[Op]], ends: list[str], busy: bool
) -> None:
    """With the checkpoint of an orderly stop, an older one, an ancient one, or none at all."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        before: dict[str, object] | None = None
        now_ms = 0
        for life, end in zip(lives, ends + ["crash"] * len(lives), strict=False):
            rig = Rig(root, checkpoint_records=7 if busy else 1_000_000)
            rig.now_ms = max(rig.now_ms, now_ms)
            assert before in (None, view(rig.store.state, now_ms))
            if end == "stale":
                rig.save()
                shutil.copytree(root / "rmq" / "checkpoint", Path(folder) / "old")
            run(rig, life)
            before, now_ms = view(rig.store.state, rig.now_ms), rig.now_ms
            rig.close() if end == "close" else rig.crash()
            if end in ("lose", "stale"):
                shutil.rmtree(root / "rmq" / "checkpoint")
            if end == "stale":
                shutil.move(Path(folder) / "old", root / "rmq" / "checkpoint")
        rig = Rig(root)
        assert view(rig.store.state, now_ms) == before
        rig.close()


# -- single cases ----------------------------------------------------------------------------------------------------


def _flip(rig: Rig, position: int) -> None:
    segment = rig.store.log.segment_at(position)
    segment.write(position, bytes((segment.read(position, 1)[0] ^ 0x40,)))


def test_a_damaged_message_is_reported_and_passed_over_and_keeps_its_offset(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The rest stays readable, by a replay as with the checkpoint."""
    rig = Rig(tmp_path)
    for n in range(5):
        rig.send("t", 0, b"%d" % n)
    rig.turn()
    entry = rig.store.state.topics["t"].queues[0].read(2, 1)[0]
    _flip(rig, entry.position + entry.size // 2)
    assert rig.bodies("t") == [b"0", b"1", None, b"3", b"4"]
    assert "t queue 0 offset 2 is damaged" in caplog.text
    rig.crash()
    rig = Rig(tmp_path)
    assert rig.store.report.damaged == [(entry.position, entry.position + entry.size)]
    assert f"bytes {entry.position} to {entry.position + entry.size} of the commit log are damaged" in caplog.text
    assert rig.bodies("t") == [b"0", b"1", None, b"3", b"4"]
    assert rig.send("t") == 5
    rig.close()
    rig = Rig(tmp_path)
    assert rig.store.report.records == 0
    assert rig.bodies("t") == [b"0", b"1", None, b"3", b"4", b"body"]
    rig.close()


def test_a_torn_tail_is_gone_for_good(tmp_path: Path) -> None:
    """What comes next takes its place and its offset."""
    rig = Rig(tmp_path)
    for n in range(6):
        rig.send("t", 0, b"%d" % n)
    rig.turn()
    entries = rig.store.state.topics["t"].queues[0].read(0, 6)
    rig.crash()
    path = tmp_path / "commitlog" / f"{0:020d}"
    data = bytearray(path.read_bytes())
    data[entries[3].position + 50 :] = bytes(len(data) - entries[3].position - 50)
    path.write_bytes(data)
    rig = Rig(tmp_path)
    assert rig.bodies("t") == [b"0", b"1", b"2"]
    assert rig.send("t", 0, b"x") == 3
    rig.turn()
    rig.crash()
    rig = Rig(tmp_path)
    assert rig.bodies("t") == [b"0", b"1", b"2", b"x"]
    rig.close()


def test_a_journal_of_a_newer_version_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    """One line that says what to do; twice, since the first try must not cut the log off there."""
    rig = Rig(tmp_path)
    rig.send("t")
    rig.store.log.append(
        Draft.make(journal.TOPIC, 0, b"\x63", b"", SYS_FLAG_ROLLBACK, 1, bytes(4), 0), 0, 1, journal=True
    )
    rig.send("t")
    rig.turn()
    rig.crash()
    before = (tmp_path / "commitlog" / f"{0:020d}").read_bytes()
    for _ in range(2):
        with pytest.raises(
            StoreError, match=r"written by a newer rmq \(journal version 99.*use that version, or another"
        ):
            Rig(tmp_path)
    assert (tmp_path / "commitlog" / f"{0:020d}").read_bytes() == before


def test_a_topic_that_only_the_log_knows_comes_back_without_a_type(tmp_path: Path) -> None:
    """An import, or a log whose journal was damaged."""
    rig = Rig(tmp_path)
    rig.send("t", 2)
    rig.turn()
    first = next(record for record in records(*log_bytes(rig.store)) if b"t" in record.body)
    position = [r for r in records(*log_bytes(rig.store)) if r.topic == journal.TOPIC_TEXT][1].position
    assert first.topic == journal.TOPIC_TEXT
    _flip(rig, position + 100)
    rig.crash()
    rig = Rig(tmp_path)
    topic = rig.store.state.topics["t"]
    assert (topic.type, len(topic.queues), rig.bodies("t", 2)) == (-1, 3, [b"body"])
    rig.close()


def test_the_checkpoint_fits_when_the_last_thing_written_was_the_end_of_a_segment(tmp_path: Path) -> None:
    """Nothing is read twice, nothing is missed."""
    rig = Rig(tmp_path)
    rig.topic("t")
    rig.turn()
    rig.send("t", body=bytes(40_000))
    rig.turn()
    rig.send("t", body=bytes(40_000))
    rig.save()
    rig.crash()
    rig = Rig(tmp_path)
    assert [len(body or b"") for body in rig.bodies("t")] == [40_000, 40_000]
    end = rig.store.log.end
    rig.close()
    rig = Rig(tmp_path)
    assert (rig.store.report.records, rig.store.report.replayed_from) == (0, end)
    rig.close()


def test_a_crash_between_a_blank_and_the_next_record_goes_on_in_the_old_segment(tmp_path: Path) -> None:
    """The blank is undone: a shorter record may still fit."""
    rig = Rig(tmp_path)
    rig.send("t", body=bytes(40_000))
    rig.turn()
    end = rig.store.log.end
    rig.send("t", body=bytes(40_000))
    rig.turn()
    rig.crash()
    (tmp_path / "commitlog" / f"{SEGMENT_BYTES:020d}").write_bytes(bytes(SEGMENT_BYTES))
    rig = Rig(tmp_path)
    assert rig.store.report.end == end
    rig.send("t", body=b"short")
    rig.turn()
    rig.crash()
    rig = Rig(tmp_path)
    assert [len(body or b"") for body in rig.bodies("t")] == [40_000, 5]
    rig.close()


def test_each_start_gives_handles_a_number_of_its_own(tmp_path: Path) -> None:
    """Even where the journal of the last start was lost."""
    sequences = []
    for how in ("close", "crash", "lose", "close"):
        rig = Rig(tmp_path)
        sequences.append(rig.store.next_sequence())
        rig.close() if how == "close" else rig.crash()
        if how == "lose":
            shutil.rmtree(tmp_path / "rmq" / "checkpoint")
    assert [sequence >> 40 for sequence in sequences] == [1, 2, 3, 4]
