"""A queue's index: entries in files and in memory read alike, holes are fillers, retention moves its begin."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmq_store.consumequeue import ENTRY, ENTRY_BYTES, FILE_BYTES, FILLER_SIZE, ConsumeQueue, Entry, QueueFiles
from rmq_store.disk import Disk, MemoryDisk

FILE_ENTRIES = FILE_BYTES // ENTRY_BYTES
FILLER = Entry(0, FILLER_SIZE, 0)


def _save(disk: Disk, queue: ConsumeQueue) -> None:
    """What the checkpoint's worker does."""
    for path, offset, data in queue.unwritten():
        disk.open(path, FILE_BYTES).write(offset, data)
    queue.written_to(queue.max_offset)


def _queue(disk: Disk | None = None) -> ConsumeQueue:
    return ConsumeQueue(QueueFiles(disk or MemoryDisk(), 2), "t", 0)


def test_an_entry_is_rocketmqs_twenty_bytes() -> None:
    """Facts: store.md 11; the tags code is sign-extended."""
    disk = MemoryDisk()
    queue = _queue(disk)
    queue.append(0, 1024, 0x89, 2598919)
    queue.append(1, 1161, 0x89, -2143158446)
    [(path, offset, data)] = queue.unwritten()
    assert (path, offset) == ("consumequeue/t/0/00000000000000000000", 0)
    assert data[:20].hex() == "000000000000040000000089000000000027a807"
    assert data[32:].hex() == "ffffffff8041ff52"
    assert ENTRY.pack(*FILLER).hex() == "00000000000000007fffffff0000000000000000"


@given(st.lists(st.one_of(st.integers(1, 5), st.just(0)), max_size=40), st.integers(0, 45), st.integers(1, 45))
def test_entries_read_alike_from_memory_and_from_files(steps: list[int], offset: int, count: int) -> None:
    """A step of 0 saves; a step above 1 leaves a hole, which reads as fillers."""
    disk = MemoryDisk()
    queue = _queue(disk)
    expected: list[Entry] = []
    for step in steps:
        if not step:
            _save(disk, queue)
            continue
        if expected:
            expected += [FILLER] * (step - 1)
        else:
            first = step - 1
            expected = [FILLER] * first
        queue.append(len(expected), len(expected) * 100, 100, step)
        expected.append(Entry(len(expected) * 100, 100, step))
    assert queue.max_offset == len(expected)
    found: list[Entry] = []
    while more := queue.read(offset + len(found), count - len(found)):
        found += more
    begin = queue.first_offset
    assert found == (expected[offset : offset + count] if offset >= begin else [])


def test_an_entry_that_is_there_already_is_left_alone() -> None:
    """A replay meets entries that the checkpoint has."""
    queue = _queue()
    queue.append(0, 100, 10, 1)
    queue.append(0, 999, 99, 9)
    assert queue.read(0, 9) == [Entry(100, 10, 1)]


def test_an_empty_queue_begins_where_its_first_entry_is() -> None:
    """Older entries went with their segment: no filler stands for them."""
    disk = MemoryDisk()
    queue = _queue(disk)
    queue.append(5_000_000, 100, 10, 1)
    assert (queue.first_offset, queue.min_offset, queue.max_offset) == (5_000_000, 5_000_000, 5_000_001)
    _save(disk, queue)
    assert queue.read(5_000_000, 1) == [Entry(100, 10, 1)]
    assert disk.list("consumequeue/t/0") == [f"{5_000_000 // FILE_ENTRIES * FILE_BYTES:020d}"]


def test_a_queue_longer_than_a_file_goes_on_in_the_next() -> None:
    """300,000 entries a file; one read stays within a file, the next goes on."""
    disk = MemoryDisk()
    queue = _queue(disk)
    for offset in range(FILE_ENTRIES + 10):
        queue.append(offset, offset, 1, 0)
    writes = [(path, at, len(data)) for path, at, data in queue.unwritten()]
    assert writes == [
        (f"consumequeue/t/0/{0:020d}", 0, FILE_BYTES),
        (f"consumequeue/t/0/{FILE_BYTES:020d}", 0, 10 * ENTRY_BYTES),
    ]
    _save(disk, queue)
    assert [entry.position for entry in queue.read(FILE_ENTRIES - 2, 9)] == [FILE_ENTRIES - 2, FILE_ENTRIES - 1]
    assert [entry.position for entry in queue.read(FILE_ENTRIES, 3)] == [FILE_ENTRIES + n for n in range(3)]
    assert queue.first_offset_at(FILE_ENTRIES + 5) == FILE_ENTRIES + 5


def test_a_read_that_begins_in_a_file_ends_where_memory_begins() -> None:
    """And the next one begins there."""
    disk = MemoryDisk()
    queue = _queue(disk)
    for offset in range(4):
        queue.append(offset, offset, 1, 0)
        if offset == 1:
            _save(disk, queue)
    assert [entry.position for entry in queue.read(0, 9)] == [0, 1]
    assert [entry.position for entry in queue.read(2, 9)] == [2, 3]


def test_what_comes_while_the_worker_writes_stays_in_memory() -> None:
    """Only what it was given is on disk."""
    queue = _queue()
    queue.append(0, 0, 1, 0)
    given_to_worker = list(queue.unwritten())
    queue.append(1, 1, 1, 0)
    queue.written_to(1)
    assert (len(given_to_worker[0][2]), queue.read(1, 1)) == (ENTRY_BYTES, [Entry(1, 1, 0)])
    assert [(at, len(data)) for _, at, data in queue.unwritten()] == [(ENTRY_BYTES, ENTRY_BYTES)]


@settings(max_examples=200)
@given(st.lists(st.booleans(), max_size=60), st.integers(0, 61), st.integers(0, 60))
def test_the_first_offset_at_a_position_is_found_among_fillers(real: list[bool], index: int, saved: int) -> None:
    """Only fillers, or entries that lie before it, are in front of it."""
    disk = MemoryDisk()
    queue = _queue(disk)
    queue.append(0, 0, 1, 0)
    for offset, is_real in enumerate(real, 1):
        if is_real:
            queue.append(offset, offset * 10, 1, 0)
        if offset == saved:
            _save(disk, queue)
    found = queue.first_offset_at(index * 10)
    reals = [0] + [offset for offset, is_real in enumerate(real, 1) if is_real]
    behind = [offset for offset in reals if offset >= index]
    before = [offset for offset in reals if offset < index]
    assert (before[-1] + 1 if before else 0) <= found <= (behind[0] if behind else queue.max_offset)


def test_retention_cuts_first_and_drops_later() -> None:
    """What is cut is given to nobody, but can be read until it is dropped."""
    queue = _queue()
    for offset in range(4):
        queue.append(offset, offset, 1, 0)
    queue.cut(2)
    assert (queue.first_offset, queue.min_offset, len(queue.read(0, 1))) == (0, 2, 1)
    queue.drop_before(2)
    assert (queue.first_offset, queue.min_offset, queue.read(0, 1), len(queue.read(2, 9))) == (2, 2, [], 2)
    queue.drop_before(99)
    assert (queue.first_offset, queue.max_offset, queue.read(0, 9)) == (4, 4, [])
    queue.append(4, 4, 1, 0)
    assert len(queue.read(4, 1)) == 1


def test_a_file_goes_when_all_its_entries_went_but_never_the_last() -> None:
    """The number of the next offset must outlive all messages."""
    disk = MemoryDisk()
    queue = _queue(disk)
    queue.append(FILE_ENTRIES - 1, 1, 1, 0)
    queue.append(FILE_ENTRIES, 2, 1, 0)
    queue.append(FILE_ENTRIES + 1, 3, 1, 0)
    _save(disk, queue)
    assert queue.drop_before(FILE_ENTRIES - 1) == []
    assert queue.drop_before(FILE_ENTRIES) == [f"consumequeue/t/0/{0:020d}"]
    assert queue.drop_before(FILE_ENTRIES + 2) == [f"consumequeue/t/0/{0:020d}"]
    assert queue.read(FILE_ENTRIES + 1, 1) == []


def test_no_more_files_are_open_than_allowed() -> None:
    """The least recently used is closed first, and opened again when it is read."""
    disk = MemoryDisk()
    files = QueueFiles(disk, 2)
    queues = [ConsumeQueue(files, "t", n) for n in range(4)]
    for queue in queues:
        queue.append(0, queue.queue_id, 1, 0)
        _save(disk, queue)
    for queue in [*queues, queues[0]]:
        assert queue.read(0, 1) == [Entry(queue.queue_id, 1, 0)]
        assert len(files._files) <= 2
    queues[0].forget()
    assert list(files._files) == ["consumequeue/t/3/00000000000000000000"]


@pytest.mark.parametrize("offset", [-1, 3, 1 << 60])
def test_reading_where_nothing_is_gives_nothing(offset: int) -> None:
    """Neither before the first nor behind the last entry."""
    queue = _queue()
    for n in range(3):
        queue.append(n, n, 1, 0)
    assert queue.read(offset, 5) == []
