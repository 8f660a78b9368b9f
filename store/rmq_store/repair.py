"""What `rmq store repair` does to a stopped store that is damaged: it gives up what cannot be read, and says what.

    survey   reads all, changes nothing, and plans: one Step for each thing that is wrong
    carry    file lengths and missing segments first; then the damaged ranges; then what is made from the log

A damaged range of the log is copied to lost+found, then replaced by a record that says only that (rollback type, topic
`-`), so that Apache, too, reads past it, and a replay knows what is in doubt behind it (doubt.py). Positions and queue
offsets of all else stay. A checkpoint is kept where it is whole: it may know what the damaged records said. What is
derived and wrong is deleted; the next start makes it anew.

Crash in between: each step leaves a store that can be surveyed again. lost+found is written and synced before the log.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from rmq_store import checkpoint, keyfile, record, recovery, storeformat
from rmq_store.checkpoint import Kept
from rmq_store.commitlog import CommitLog, Gap
from rmq_store.consumequeue import FILE_BYTES, FILLER_SIZE, ConsumeQueue, QueueFiles
from rmq_store.consumequeue import FOLDER as FILES_FOLDER
from rmq_store.disk import DirectoryLock, File, RealDisk
from rmq_store.errors import StoreError
from rmq_store.lmdbfile import Unreadable
from rmq_store.queuesums import damaged_blocks
from rmq_store.readonly import ReadOnlyDisk, SharedLock
from rmq_store.record import SYS_FLAG_ROLLBACK, Draft
from rmq_store.segment import FOLDER, path_of
from rmq_store.state import State

CHECKPOINT_PATH = "rmq/checkpoint"


def _replacement(body: bytes) -> Draft:
    """What stands in the log for bytes that were cut out."""
    return Draft.make(recovery.GIVEN_UP_TOPIC.encode(), 0, body, b"", SYS_FLAG_ROLLBACK, 0, b"\x7f\0\0\1", 0)


_GIVEN_UP_BYTES = _replacement(b"").size


class Step(msgspec.Struct):
    """One thing that is wrong, and what becomes of it. `start`, `end`: bytes of the log, or of the file."""

    action: str  # lengthen, shorten, create, replace, delete, rewrite; mend: the server does it
    path: str
    start: int
    end: int
    why: str


class Lost(msgspec.Struct):
    """Queue entries without a message: offsets [start, end)."""

    topic: str
    queue_id: int
    start: int
    end: int


class Plan(msgspec.Struct):
    """What a survey found. `body_only`: records without a whole-record checksum, as Apache writes them."""

    root: Path
    segment_bytes: int
    foreign_end: int
    steps: list[Step]
    lost: list[Lost]
    body_only: int = 0
    kept: list[str] = []

    @property
    def given_up(self) -> int:
        """Bytes of the log that are replaced."""
        return sum(step.end - step.start for step in self.steps if step.action == "replace")

    def carry_out(self) -> None:
        """Does all of it; `kept` are then the files in lost+found. Raises StoreError where a server runs, OSError."""
        lock = DirectoryLock(self.root)
        try:
            disk = RealDisk(self.root)
            for step in self.steps:
                _ACTIONS[step.action](self, disk, step)
        finally:
            lock.release()

    def aside(self, disk: RealDisk, position: int, data: bytes) -> None:
        """Keeps what is cut out."""
        if data.count(0) != len(data):
            self.kept.append(recovery.set_aside(disk, position, data))


def _lengthen(plan: Plan, disk: RealDisk, step: Step) -> None:
    disk.open(step.path, plan.segment_bytes).close()  # gets its length, or is made


def _shorten(plan: Plan, disk: RealDisk, step: Step) -> None:
    with contextlib.closing(disk.open(step.path, 1)) as file:
        plan.aside(disk, int(step.path.rpartition("/")[2]) + step.start, file.read(step.start, step.end - step.start))
    os.truncate(plan.root / step.path, step.start)


def _replace(plan: Plan, disk: RealDisk, step: Step) -> None:
    """Segment by segment: no record crosses the end of one."""
    base = step.start - step.start % plan.segment_bytes
    with contextlib.closing(disk.open(path_of(base), plan.segment_bytes)) as file:
        plan.aside(disk, step.start, file.read(step.start - base, step.end - step.start))
        file.write(step.start - base, _given_up(step.start, step.end, base + plan.segment_bytes))
        file.sync()


def _delete(plan: Plan, disk: RealDisk, step: Step) -> None:
    names = disk.list(step.path)
    for path in [f"{step.path}/{name}" for name in names] if names else [step.path]:
        disk.remove(path)


def _rewrite(plan: Plan, disk: RealDisk, step: Step) -> None:
    storeformat.put(plan.root, plan.segment_bytes, plan.foreign_end)


def _leave(plan: Plan, disk: RealDisk, step: Step) -> None:
    """The next start's work."""


_ACTIONS = {
    "lengthen": _lengthen,
    "create": _lengthen,
    "shorten": _shorten,
    "replace": _replace,
    "delete": _delete,
    "rewrite": _rewrite,
    "mend": _leave,
}


def _given_up(start: int, end: int, segment_end: int) -> bytes:
    """What takes the place of [start, end): a record that says no more than that, and the segment's closing mark."""
    closing = record.blank(record.BLANK_BYTES) if end == segment_end else b""
    size = end - start - len(closing) - _GIVEN_UP_BYTES
    if size < 0:
        return record.blank(end - start)
    return record.encode(_replacement(bytes(size)), start, 0, 1, b"\x7f\0\0\1", 0) + closing


# -- survey ------------------------------------------------------------------------------------------------------------


class _Padded:
    """A file as it will be: as long as a segment, zeros where it is short or missing."""

    def __init__(self, file: File | None, size: int) -> None:
        self._file, self._size = file, size

    def read(self, offset: int, size: int) -> bytes:
        wanted = max(0, min(size, self._size - offset))
        return (self._file.read(offset, wanted) if self._file else b"").ljust(wanted, b"\0")

    def data(self, offset: int) -> list[tuple[int, int]]:
        ranges = self._file.data(offset) if self._file else []
        return [(start, min(end, self._size)) for start, end in ranges if start < self._size]

    def write(self, offset: int, data: bytes) -> None:
        """A survey changes nothing."""

    def sync(self) -> None:
        """See write."""

    def reserve(self, offset: int, size: int) -> None:
        """See write."""

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class _AsRepaired(ReadOnlyDisk):
    """The directory with its segments as a repair leaves them."""

    def __init__(self, root: Path, bases: list[int], segment_bytes: int) -> None:
        super().__init__(root)
        self._names = [f"{base:020d}" for base in bases]
        self._segment_bytes = segment_bytes

    def list(self, folder: str) -> list[str]:
        return self._names if folder == FOLDER else super().list(folder)

    def size(self, path: str) -> int | None:
        return self._segment_bytes if path.startswith(FOLDER) else super().size(path)

    def open(self, path: str, size: int, *, mapped: bool = False) -> File:
        if not path.startswith(FOLDER):
            return super().open(path, size, mapped=mapped)
        there = super().size(path)
        return _Padded(super().open(path, size) if there else None, self._segment_bytes)


def survey(root: Path) -> Plan:
    """Reads a stopped store. Raises StoreError: no store, in use, or a newer version's; OSError."""
    if not (root / FOLDER).is_dir():
        raise StoreError(f"{root} is no store: it has no {FOLDER} directory; name the --data of a server")
    lock = SharedLock(root)
    try:
        return _survey(root)
    finally:
        lock.release()


def _survey(root: Path) -> Plan:
    steps: list[Step] = []
    form = storeformat.check(root)
    disk = ReadOnlyDisk(root)
    sizes = {int(name): disk.size(f"{FOLDER}/{name}") or 0 for name in disk.list(FOLDER) if _is_segment(name)}
    while sizes and not sizes[max(sizes)]:  # a crash fell between its making and its length: the start deletes it
        del sizes[max(sizes)]
    segment_bytes = form.segment_bytes or _segment_bytes(sizes)
    bases = list(range(min(sizes), max(sizes) + 1, segment_bytes)) if sizes else []
    if any(base not in bases for base in sizes):
        raise StoreError(
            f"{root}/{FOLDER} holds files whose names do not fit {segment_bytes} bytes each: sort them out"
        )
    steps += _lengths(bases, sizes, segment_bytes)
    as_repaired = _AsRepaired(root, bases, segment_bytes)
    log = CommitLog(as_repaired, segment_bytes=segment_bytes, reserve_bytes=1, foreign_end=form.foreign_end)
    plan = Plan(root, segment_bytes, min(form.foreign_end, bases[-1] + segment_bytes if bases else 0), steps, [])
    try:
        _read_log(plan, log)
    finally:
        log.close()
    return plan


def _is_segment(name: str) -> bool:
    return name.isdigit() and len(name) == 20


def _form(root: Path, steps: list[Step]) -> None:
    text = storeformat.text_of(root)
    try:
        storeformat.parse(text or str(storeformat.VERSION))
    except storeformat.Damaged as error:
        steps.append(Step("rewrite", storeformat.PATH, 0, len(text), str(error)))


def _segment_bytes(sizes: dict[int, int]) -> int:
    """Where nothing says: the greatest length, unless the names say otherwise."""
    steps = [later - base for base, later in itertools.pairwise(sorted(sizes))]
    longest = max(sizes.values(), default=1)
    return longest if all(step % longest == 0 for step in steps) else min(steps)


def _lengths(bases: list[int], sizes: dict[int, int], segment_bytes: int) -> Iterator[Step]:
    for base in bases:
        size = sizes.get(base, 0)
        if base not in sizes:
            yield Step("create", path_of(base), 0, segment_bytes, "the file is missing")
        elif size < segment_bytes:
            yield Step("lengthen", path_of(base), size, segment_bytes, "the file is cut off")
        elif size > segment_bytes:
            yield Step("shorten", path_of(base), segment_bytes, size, "the file is too long")


def _read_log(plan: Plan, log: CommitLog) -> None:
    state = State(QueueFiles(ReadOnlyDisk(plan.root), open_max=1))
    report = recovery.Report(log.begin, log.begin, 0, [])
    for found in log.scan(log.begin):
        if isinstance(found, Gap):
            report.damaged.append(found)
            continue
        recovery.replay(state, found)
        report.end = found.position + found.size
        plan.body_only += not log.has_checksum(found)
    if (behind := log.damaged_behind(report.end)) is not None:
        report.damaged.append(behind)
    plan.steps += [step for gap in report.damaged for step in _replacements(gap, plan.segment_bytes)]
    plan.steps += derived(plan.root)
    firsts = _offsets_of_checkpoint(plan, state)
    for queue in [queue for topic in state.topics.values() for queue in topic.queues]:
        known = firsts.get((queue.topic, queue.queue_id), 0 if log.begin == 0 else queue.first_offset)
        plan.lost += _holes(queue, known)


def _replacements(gap: Gap, segment_bytes: int) -> Iterator[Step]:
    """One for each segment, where a record of nothing has room; a smaller one is passed over for ever."""
    start = gap.start
    while start < gap.end:
        border = start - start % segment_bytes + segment_bytes
        end = min(gap.end, border)
        least = record.BLANK_BYTES if end == border else _GIVEN_UP_BYTES
        if end - start >= least:
            yield Step("replace", path_of(border - segment_bytes), start, end, "no whole record")
        start = end


def derived(root: Path) -> list[Step]:
    """What is wrong besides the log. Raises OSError, and StoreError for another version's store."""
    steps: list[Step] = []
    _form(root, steps)
    try:
        kept = checkpoint.read(root / CHECKPOINT_PATH)
        steps += _queue_files(root, kept) if kept else ()
    except Unreadable as error:
        size = (root / CHECKPOINT_PATH / "data.mdb").stat().st_size
        steps.append(Step("delete", CHECKPOINT_PATH, 0, size, f"the checkpoint is damaged: {error}"))
    disk = ReadOnlyDisk(root)
    for start in keyfile.starts(disk):
        if keyfile.known(disk, start) is None:
            path = keyfile.path_of(start)
            steps.append(Step("delete", path, 0, disk.size(path) or 0, "the key index is damaged"))
    return steps


def _queue_files(root: Path, kept: Kept) -> Iterator[Step]:
    for key, value in kept.decoded():
        if key[:1] == b"q":
            topic, queue_id, number = key[1:].decode().split("\0")
            start = int(number) * FILE_BYTES
            path = root / FILES_FOLDER / topic / queue_id / f"{start:020d}"
            data = path.read_bytes() if path.exists() else b""
            for at, end in damaged_blocks(value, data):
                yield Step("mend", str(path.relative_to(root)), at, end, "entries are damaged: the server mends them")


def _offsets_of_checkpoint(plan: Plan, state: State) -> dict[tuple[str, int], int]:
    """Lost are also offsets that the checkpoint knows of and the log does not; returns where its queues begin."""
    firsts: dict[tuple[str, int], int] = {}
    with contextlib.suppress(Unreadable):
        kept = checkpoint.read(plan.root / CHECKPOINT_PATH)
        for key, value in kept.decoded() if kept else ():
            topic = state.topics.get(key[1:].decode()) if key[:1] == b"t" else None
            for queue, (first, end) in zip(topic.queues, value[1], strict=False) if topic else ():
                queue.skip_to(end)
                firsts[queue.topic, queue.queue_id] = first
    return firsts


def _holes(queue: ConsumeQueue, known_first: int) -> Iterator[Lost]:
    """Offsets that have no message, from the first one that had."""
    start = known_first if known_first < queue.first_offset else None
    for offset in range(queue.first_offset, queue.max_offset + 1):
        entries = queue.read(offset, 1)
        if entries and entries[0].size == FILLER_SIZE:
            start = offset if start is None else start
        elif start is not None:
            yield Lost(queue.topic, queue.queue_id, start, offset)
            start = None
