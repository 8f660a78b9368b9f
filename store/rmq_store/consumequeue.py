"""A queue's index into the log: entry n says where the message with queue offset n is. RocketMQ's format.

    consumequeue/<topic>/<queue id>/<20 digits>, 300,000 entries a file, each 20 bytes, big-endian:
    0  8  position in the log      8  4  record size      12  8  tags code (Java hash of TAGS, sign-extended)
    A filler (position 0, size 7FFFFFFF) stands where the message is lost or never was here; readers pass it over.

New entries stay in memory (`tail`) until the checkpoint's worker has written and synced them: the index is derived from
the log, so a crash only costs reading the log again. Entries from `visible` on exist, but nobody may see them yet.
What a checkpoint's checksums (queuesums.py) show to be damaged, cut off or deleted is made anew from the log.
Retention works in two steps, since it has to read entries that it no longer lets anyone take:

    first_offset <= min_offset <= visible <= max_offset
    ^ readable      ^ deliverable  ^ safe    ^ the next message's
"""

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from rmq_store.disk import Disk, File
from rmq_store.queuesums import BLOCK, FILE_ENTRIES, QueueSums, Value

ENTRY = struct.Struct(">qiq")
ENTRY_BYTES = ENTRY.size
FILE_BYTES = FILE_ENTRIES * ENTRY_BYTES
FILLER_SIZE = 0x7FFFFFFF
FILLER = ENTRY.pack(0, FILLER_SIZE, 0)
FOLDER = "consumequeue"


class Entry(NamedTuple):
    """Where a message is. `size` FILLER_SIZE: there is none."""

    position: int
    size: int
    tags_code: int


Rebuild = Callable[["ConsumeQueue", int, int, int | None, int | None], bytes]
"""(queue, first offset, end offset, position of the entry before or None, position of the entry behind or None) -> the
entries, as the log has them."""


class QueueFiles:
    """A bounded number of open queue files, the least recently used is closed first."""

    def __init__(self, disk: Disk, open_max: int) -> None:
        self.disk = disk
        self._open_max = open_max
        self._files: dict[str, File] = {}
        self.rebuild: Rebuild | None = None  # whoever restores queues from a checkpoint has one

    def read(self, path: str, offset: int, size: int) -> bytes:
        """From a file that a checkpoint has written."""
        return self._open(path).read(offset, size)

    def write(self, path: str, offset: int, data: bytes) -> None:
        """Entries that were damaged. Raises OSError."""
        self._open(path).write(offset, data)

    def _open(self, path: str) -> File:
        file = self._files.pop(path, None)
        if file is None:
            while len(self._files) >= self._open_max:
                self._files.pop(next(iter(self._files))).close()
            file = self.disk.open(path, FILE_BYTES)
        self._files[path] = file
        return file

    def forget(self, path: str) -> None:
        """Before the file is deleted."""
        file = self._files.pop(path, None)
        if file is not None:
            file.close()

    def forget_under(self, folder: str) -> None:
        """Before the folder's files are deleted."""
        for path in [path for path in self._files if path.startswith(folder + "/")]:
            self.forget(path)

    def close(self) -> None:
        """Closes all."""
        for file in self._files.values():
            file.close()
        self._files.clear()


class ConsumeQueue:
    """Entries [min_offset, max_offset) of one queue; readers see those below `visible`."""

    __slots__ = (
        "_files",
        "_sums",
        "_tail",
        "_tail_start",
        "first_offset",
        "folder",
        "max_offset",
        "min_offset",
        "queue_id",
        "topic",
        "visible",
    )

    def __init__(self, files: QueueFiles, topic: str, queue_id: int, min_offset: int = 0, max_offset: int = 0) -> None:
        self._files = files
        self.folder = f"{FOLDER}/{topic}/{queue_id}"
        self.topic = topic
        self.queue_id = queue_id
        self.first_offset = self.min_offset = min_offset
        self.max_offset = self.visible = self._tail_start = max_offset
        self._tail = bytearray()
        self._sums = QueueSums()

    def append(self, offset: int, position: int, size: int, tags_code: int) -> None:
        """The entry of queue offset `offset`; a hole before it is filled up, an entry that is there is left alone."""
        if offset != self.max_offset:
            if offset < self.max_offset:
                return
            self.skip_to(offset)
        self._tail += ENTRY.pack(position, size, tags_code)
        self.max_offset = offset + 1

    def skip_to(self, offset: int) -> None:
        """The next entry is for `offset`: an empty queue begins there, in another the hole is filled up."""
        if offset <= self.max_offset:
            return
        if self.first_offset == self.max_offset:  # older entries went with their segment
            self.written_to(self.max_offset)
            self.first_offset = self.min_offset = self.max_offset = self._tail_start = offset
        self._tail += FILLER * (offset - self.max_offset)
        self.max_offset = offset

    def read(self, offset: int, count: int) -> list[Entry]:
        """Up to `count` entries from an offset on, within one file, or within what is still in memory."""
        end = min(offset + count, self.max_offset)
        if offset < self.first_offset or offset >= end:
            return []
        if offset >= self._tail_start:
            start = (offset - self._tail_start) * ENTRY_BYTES
            data = bytes(self._tail[start : start + (end - offset) * ENTRY_BYTES])
        else:
            data = self._read_file(offset, min(end, self._tail_start) - offset)
        return [Entry(*fields) for fields in ENTRY.iter_unpack(data)]

    def _read_file(self, offset: int, count: int) -> bytes:
        end = min(offset + count, offset - offset % FILE_ENTRIES + FILE_ENTRIES)
        for block in range(offset // BLOCK, (end - 1) // BLOCK + 1):
            if self._sums.is_unchecked(block) and not self._is_right(block):
                self._mend(block)
        data = self._read_plain(offset, end)
        return data[: len(data) - len(data) % ENTRY_BYTES]

    def _read_plain(self, offset: int, end: int) -> bytes:
        start = offset * ENTRY_BYTES
        return self._files.read(self._path(start), start % FILE_BYTES, (end - offset) * ENTRY_BYTES)

    def _is_right(self, block: int) -> bool:
        return self._sums.check(block, self._read_plain(*self._sums.range(block)))

    def _mend(self, last: int) -> None:
        """With all damaged blocks right before it: the entry before them says where in the log to look from."""
        first = last
        while self._sums.is_unchecked(first - 1) and not self._is_right(first - 1):
            first -= 1
        start, end = self._sums.range(first)[0], self._sums.range(last)[1]
        assert self._files.rebuild is not None
        data = self._files.rebuild(self, start, end, self._position(start - 1), self._position(end))
        for block in range(first, last + 1):
            block_start, block_end = self._sums.range(block)
            piece = data[(block_start - start) * ENTRY_BYTES : (block_end - start) * ENTRY_BYTES]
            self._files.write(self._path(block_start * ENTRY_BYTES), block_start * ENTRY_BYTES % FILE_BYTES, piece)
            self._sums.mended(block, piece + self._written_since(block_end, self._sums.covered_end(block)))

    def _position(self, offset: int) -> int | None:
        """Of a message next to damaged entries; None where its own entry may be damaged, too, or is a filler."""
        if not self.first_offset <= offset < self.max_offset or self._sums.is_unchecked(offset // BLOCK):
            return None
        entry = self.read(offset, 1)[0]
        return None if entry.size == FILLER_SIZE else entry.position

    def _written_since(self, offset: int, end: int) -> bytes:
        """Entries that this run has handed to a checkpoint: on disk, or still in memory, too."""
        on_disk = self._read_plain(offset, min(end, self._tail_start)) if offset < min(end, self._tail_start) else b""
        start = max(offset - self._tail_start, 0) * ENTRY_BYTES
        return on_disk + bytes(self._tail[start : max(end - self._tail_start, 0) * ENTRY_BYTES])

    def _path(self, start: int) -> str:
        return f"{self.folder}/{start - start % FILE_BYTES:020d}"

    def first_offset_at(self, position: int) -> int:
        """The first offset whose record lies at or behind a log position (max_offset when all lie before it)."""
        low, high = self.first_offset, self.max_offset
        while low < high:
            middle = (low + high) // 2
            offset, entry = self._first_real(middle, high)
            if entry is None or entry.position >= position:
                high = middle
            else:
                low = offset + 1
        return low

    def _first_real(self, offset: int, end: int) -> tuple[int, Entry | None]:
        """The first entry in [offset, end) that is no filler."""
        while offset < end:
            entries = self.read(offset, 1)
            if entries and entries[0].size != FILLER_SIZE:
                return offset, entries[0]
            offset += 1
        return offset, None

    # -- checkpoint --------------------------------------------------------------------------------------------------

    def unwritten(self) -> Iterator[tuple[str, int, bytes]]:
        """What the checkpoint's worker has to write: (path, offset in the file, bytes)."""
        start = self._tail_start * ENTRY_BYTES
        end = start + len(self._tail)
        while start < end:
            at = start % FILE_BYTES
            size = min(end - start, FILE_BYTES - at)
            from_tail = start - self._tail_start * ENTRY_BYTES
            yield self._path(start), at, bytes(self._tail[from_tail : from_tail + size])
            start += size

    def take_sums(self, *, everything: bool) -> list[tuple[int, Value | None]]:
        """What the checkpoint has to keep of checksums, `unwritten` included: by file, None for one that went."""
        start = self._sums.end if self._tail_start <= self._sums.end <= self.max_offset else self._tail_start
        if start < self.max_offset:
            self._sums.extend(start, bytes(self._tail[(start - self._tail_start) * ENTRY_BYTES :]))
        return self._sums.take_changed(everything=everything)

    def restore_sums(self, number: int, value: Value) -> None:
        """The file's, as a checkpoint kept them."""
        self._sums.restore(number, value)

    def written_to(self, offset: int) -> None:
        """Entries below `offset` are on disk: memory lets go of them."""
        done = min(offset, self.max_offset) - self._tail_start
        if done > 0:
            del self._tail[: done * ENTRY_BYTES]
            self._tail_start += done

    def cut(self, offset: int) -> None:
        """Retention has begun: offsets below are delivered to nobody any more, but can be read."""
        self.min_offset = max(self.min_offset, min(offset, self.max_offset))

    def drop_before(self, offset: int) -> list[str]:
        """Retention is done: offsets below are gone. Returns the files that hold nothing else, never the last one."""
        self.cut(offset)
        self.first_offset = self.min_offset
        self.written_to(self.min_offset)
        keep = self._path(max(min(self.min_offset, self._tail_start - 1), 0) * ENTRY_BYTES)
        paths = [f"{self.folder}/{name}" for name in self._files.disk.list(self.folder)]
        stale = [path for path in paths if path < keep]
        self._sums.drop_before(int(keep.rpartition("/")[2]) // ENTRY_BYTES)
        for path in stale:
            self._files.forget(path)
        return stale

    def forget(self) -> None:
        """The topic is gone: its files are closed; whoever owns the checkpoint deletes `folder`."""
        self._files.forget_under(self.folder)
