"""The commit log: where records go, when a segment ends, when there is no room, what is read back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmq_store import record
from rmq_store.commitlog import CommitLog, Gap
from rmq_store.disk import MemoryDisk
from rmq_store.errors import StoreError, StoreFull
from rmq_store.record import BLANK_BYTES, Damaged, Record
from rmq_store.segment import FOLDER, path_of
from tests.store.support import SEGMENT_BYTES, WatchedDisk, draft

STEP = SEGMENT_BYTES // 4
EMPTY_BYTES = draft("t", 0, b"").size


def _log(disk: WatchedDisk | MemoryDisk | None = None, free_min_bytes: int = 0) -> CommitLog:
    disk = disk or MemoryDisk()
    log = CommitLog(disk, segment_bytes=SEGMENT_BYTES, reserve_bytes=STEP, free_min_bytes=free_min_bytes)
    log.set_end(log.begin)
    return log


def _append(log: CommitLog, size: int, *, journal: bool = False) -> int:
    """One record of `size` bytes in all; its position."""
    made = draft("t", 0, bytes(size - EMPTY_BYTES))
    assert made.size == size
    return log.append(made, 0, 1, journal=journal)


def _fill(log: CommitLog, left: int) -> None:
    """Records until exactly `left` bytes of the first segment are left."""
    while SEGMENT_BYTES - log.end - left > 10_000:
        _append(log, 5_000)
    _append(log, SEGMENT_BYTES - log.end - left)
    log.write()


# -- segments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spare", "rolls"), [(8, False), (7, True), (0, True)])
def test_a_record_stays_in_the_segment_if_eight_bytes_are_left_behind_it(spare: int, rolls: bool) -> None:
    """Apache's rule: there is always room for the blank."""
    log = _log()
    _fill(log, 1_000)
    position = _append(log, 1_000 - spare)
    log.write()
    assert position == (SEGMENT_BYTES if rolls else SEGMENT_BYTES - 1_000)
    if rolls:
        assert log.segments[0].read(SEGMENT_BYTES - 1_000, 8) == record.blank(1_000)
    assert [found.size for found in log.scan(position) if isinstance(found, Record)] == [1_000 - spare]


@given(st.lists(st.integers(EMPTY_BYTES, SEGMENT_BYTES - BLANK_BYTES), max_size=30), st.integers(1, 7))
def test_every_record_is_read_back_in_order_across_segments(sizes: list[int], turn: int) -> None:
    """However large, however many in one write: none crosses a border, none is lost, none is damaged."""
    log = _log()
    positions = []
    for count, size in enumerate(sizes):
        positions.append(_append(log, size))
        if count % turn == 0:
            log.write()
    log.write()
    assert [(r.position, r.size) for r in log.scan(0) if isinstance(r, Record)] == list(
        zip(positions, sizes, strict=True)
    )
    assert all(p // SEGMENT_BYTES == (p + size - 1) // SEGMENT_BYTES for p, size in zip(positions, sizes, strict=True))
    assert all(log.read(p, size).position == p for p, size in zip(positions, sizes, strict=True))


def test_a_roll_is_told_once_for_each_segment() -> None:
    """Its owner repeats the state there."""
    log = _log()
    rolled: list[int] = []
    log.on_roll = lambda segment: rolled.append(segment.base)
    for _ in range(5):
        _append(log, SEGMENT_BYTES // 2)
    assert rolled == [SEGMENT_BYTES * n for n in (1, 2, 3, 4)]


def test_the_size_of_the_files_that_are_there_counts() -> None:
    """An imported store keeps its own."""
    disk = MemoryDisk()
    disk.open(path_of(0), 4096)
    assert CommitLog(disk, segment_bytes=SEGMENT_BYTES, reserve_bytes=STEP).segment_bytes == 4096


@pytest.mark.parametrize(
    ("files", "text"),
    [([(0, 4096), (4096, 8192)], "different sizes"), ([(0, 4096), (8192, 4096)], "gap")],
)
def test_a_log_with_missing_or_odd_files_is_refused(files: list[tuple[int, int]], text: str) -> None:
    """One line that says what to do; nothing is touched."""
    disk = MemoryDisk()
    for base, size in files:
        disk.open(path_of(base), size)
    with pytest.raises(StoreError, match=text):
        CommitLog(disk, segment_bytes=4096, reserve_bytes=4096)


def test_an_empty_last_file_is_what_a_crash_left_and_is_removed() -> None:
    """It was made, but got no length yet."""
    disk = MemoryDisk()
    disk.open(path_of(0), 4096)
    disk.open(path_of(4096), 0)
    log = CommitLog(disk, segment_bytes=4096, reserve_bytes=4096)
    assert (len(log.segments), disk.list(FOLDER)) == (1, [f"{0:020d}"])


# -- room ------------------------------------------------------------------------------------------------------------


def test_the_last_reserved_step_belongs_to_the_journal() -> None:
    """Messages are refused on a full disk while acks still find room."""
    disk = WatchedDisk(MemoryDisk())
    disk.room = 2 * STEP
    log = _log(disk)
    for _ in range(STEP // 1_000):
        _append(log, 1_000)
    with pytest.raises(StoreFull, match="disk full"):
        _append(log, 1_000)
    assert STEP - 1_000 - BLANK_BYTES < log.end <= STEP
    while log.end + 1_000 + BLANK_BYTES <= 2 * STEP:
        _append(log, 1_000, journal=True)
    with pytest.raises(StoreFull):
        _append(log, 1_000, journal=True)
    assert len([r for r in log.scan(0) if isinstance(r, Record)]) == 0  # nothing was written by a refusal
    log.write()
    assert sum(1 for r in log.scan(0) if isinstance(r, Record)) == log.end // 1_000


def test_messages_leave_free_min_bytes_and_the_journal_need_not() -> None:
    """Sends are refused below disk_free_min_bytes; what consumers need goes on."""
    disk = WatchedDisk(MemoryDisk())
    disk.room = 1 << 20
    log = _log(disk, free_min_bytes=1 << 20)
    with pytest.raises(StoreFull, match="disk_free_min_bytes"):
        _append(log, 1_000)
    for _ in range(100):
        _append(log, 1_000, journal=True)


def test_the_journal_makes_do_with_less_than_a_step() -> None:
    """A start on a full disk still finds room for its first entry."""
    disk = WatchedDisk(MemoryDisk())
    disk.room = 70 << 10
    log = CommitLog(disk, segment_bytes=1 << 20, reserve_bytes=1 << 20)
    log.set_end(0)
    _append(log, 60 << 10, journal=True)
    with pytest.raises(StoreFull):
        _append(log, 60 << 10, journal=True)


@settings(max_examples=200)
@given(
    st.integers(0, 12),
    st.integers(0, SEGMENT_BYTES - BLANK_BYTES - EMPTY_BYTES),
    st.lists(st.integers(EMPTY_BYTES, SEGMENT_BYTES - BLANK_BYTES), min_size=1, max_size=6),
)
def test_room_for_a_batch_is_there_for_all_of_it_or_none(steps: int, used: int, sizes: list[int]) -> None:
    """After make_room no message of the batch is refused, rolls included; before, none was appended."""
    disk = WatchedDisk(MemoryDisk())
    log = _log(disk)
    if used >= EMPTY_BYTES:
        _append(log, used)
    disk.room = steps * STEP
    end = log.end
    try:
        log.make_room(sum(sizes))
    except StoreFull:
        assert log.end == end
    else:
        for size in sizes:
            _append(log, size)


def test_room_for_a_message_counts_what_a_roll_leaves_unused() -> None:
    """To the byte: one more than fits is left in the segment, and the reserve ends where the message would."""
    disk = WatchedDisk(MemoryDisk())
    disk.room = SEGMENT_BYTES + 2 * STEP
    log = _log(disk)
    size = STEP + 7
    _fill(log, size + 7)
    with pytest.raises(StoreFull):
        log.make_room(size)
    disk.room = STEP
    log.make_room(size)
    assert _append(log, size) == SEGMENT_BYTES


def test_a_record_larger_than_a_segment_is_refused() -> None:
    """It could be nowhere."""
    with pytest.raises(StoreFull, match="does not fit"):
        _append(_log(), SEGMENT_BYTES - BLANK_BYTES + 1)


def test_a_failed_write_is_the_end_of_the_log() -> None:
    """What comes later would land at the wrong place; in a roll as well as at a turn's end."""
    disk = WatchedDisk(MemoryDisk())
    log = _log(disk)
    _append(log, SEGMENT_BYTES // 2)
    disk.broken.add(("write", FOLDER))
    with pytest.raises(StoreError, match="cannot write"):
        _append(log, SEGMENT_BYTES // 2 + 1_000)
    disk.broken.clear()
    with pytest.raises(StoreError, match="cannot write"):
        _append(log, 1_000)
    with pytest.raises(StoreError, match="cannot write"):
        log.write()
    assert list(log.scan(0)) == []


# -- damage ----------------------------------------------------------------------------------------------------------


def _damaged(log: CommitLog, start: int, end: int) -> None:
    for at in range(start, end):
        segment = log.segment_at(at)
        segment.write(at, bytes((segment.read(at, 1)[0] ^ 0xFF,)))


@given(st.lists(st.integers(EMPTY_BYTES, 30_000), min_size=3, max_size=12), st.data())
def test_damaged_records_are_passed_over_and_all_others_are_read(sizes: list[int], data: st.DataObject) -> None:
    """One damaged byte costs one record, anywhere but in the last."""
    log = _log()
    placed = [(_append(log, size), size) for size in sizes]
    log.write()
    bad = data.draw(st.sets(st.integers(0, len(sizes) - 2), max_size=3))
    for index in bad:
        position, size = placed[index]
        at = position + data.draw(st.integers(0, size - 1))
        _damaged(log, at, at + 1)
    found = list(log.scan(0))
    assert [(r.position, r.size) for r in found if isinstance(r, Record)] == [
        place for index, place in enumerate(placed) if index not in bad
    ]
    for gap in (gap for gap in found if isinstance(gap, Gap)):
        assert any(gap.start <= placed[index][0] < gap.end for index in bad)


def test_damage_larger_than_any_search_window_hides_nothing_behind_it() -> None:
    """Two megabytes of it, across segments, and a magic number within."""
    log = CommitLog(MemoryDisk(), segment_bytes=1 << 20, reserve_bytes=1 << 18)
    log.set_end(0)
    positions = [log.append(draft("t", 0, bytes(300_000)), 0, 1) for _ in range(12)]
    log.write()
    for at in range(positions[1] + 50, positions[9], 4096):
        log.segment_at(at).write(at, b"\xda\xa3\x20\xa7")
    found = list(log.scan(0))
    assert [r.position for r in found if isinstance(r, Record)] == [positions[0], *positions[9:]]
    assert [r for r in found if isinstance(r, Gap)] == [Gap(positions[1], positions[9])]


def test_a_record_is_found_across_the_border_of_two_search_windows() -> None:
    """Wherever its size and magic fall."""
    for shift in range(12):
        log = CommitLog(MemoryDisk(), segment_bytes=4 << 20, reserve_bytes=1 << 20)
        log.set_end(0)
        log.append(draft("t", 0, b""), 0, 1)
        start = log.append(draft("t", 0, bytes((1 << 20) - EMPTY_BYTES - 8 + shift)), 0, 1)
        second = log.append(draft("t", 0, b"found"), 0, 1)
        log.write()
        _damaged(log, start, start + 8)
        assert [r.position for r in log.scan(start) if isinstance(r, Record)] == [second]


def test_stale_bytes_behind_the_end_never_come_back() -> None:
    """A torn record, then a shorter one in its place, then an old whole one that would fit behind it."""
    disk = MemoryDisk()
    log = _log(disk)
    positions = [_append(log, 1_000) for _ in range(100)]
    log.write()
    log.set_end(positions[3])
    _append(log, 1_000)
    log.write()
    again = CommitLog(disk, segment_bytes=SEGMENT_BYTES, reserve_bytes=STEP)
    assert [r.position for r in again.scan(0) if isinstance(r, Record)] == positions[:4]
    assert disk.list(FOLDER) == [f"{0:020d}"]


def test_a_scan_ends_before_an_empty_next_segment() -> None:
    """It was made ahead of its first record, or of the blank that leads to it."""
    for closed in (False, True):
        disk = MemoryDisk()
        log = _log(disk)
        _append(log, 1_000)
        if closed:
            log._buffer.append(record.blank(SEGMENT_BYTES - 1_000))
        log.write()
        disk.open(path_of(SEGMENT_BYTES), SEGMENT_BYTES)
        again = CommitLog(disk, segment_bytes=SEGMENT_BYTES, reserve_bytes=STEP)
        assert [r.size for r in again.scan(0) if isinstance(r, Record)] == [1_000]
        again.set_end(1_000)
        assert _append(again, 1_000) == 1_000
        again.write()
        assert [r.position for r in again.scan(0) if isinstance(r, Record)] == [0, 1_000]


@pytest.mark.parametrize("place", [(-1, 200), (SEGMENT_BYTES * 9, 200), (500, 200), (0, -5), (0, 1 << 40)])
def test_reading_what_is_not_there_is_damage(place: tuple[int, int]) -> None:
    """Whatever a queue entry says."""
    log = _log()
    _append(log, 1_000)
    log.write()
    with pytest.raises(Damaged):
        log.read(*place)
