"""The commit log: one append path for messages and journal, positions that only grow, reads that check every byte.

    segment k                                        segment k+1
    [record][record]...[record][blank: left, magic]  [record]...        [reserved, zero]      [sparse, zero]
    ^ begin                                                     ^ written ^ end               ^ reserved_end

An append goes to a buffer (`end` moves); `write` puts the turn's buffer into the file with one pwrite (`written`
moves). Space is reserved in steps of `reserve_bytes`: a message is refused once it would touch the last step, which
belongs to the journal and to recovery. Nothing here syncs (flush.py) or knows what a record means (recovery.py).
"""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn

from rmq_store import record
from rmq_store.disk import Disk, File
from rmq_store.errors import StoreError, StoreFull
from rmq_store.record import BLANK_BYTES, HEAD_BYTES_MAX, Damaged, Draft, Record
from rmq_store.segment import FOLDER, Segment, path_of
from rmq_store.storeformat import ANYWHERE

_WINDOW_BYTES = 1 << 20  # of a search or of zeroing, at a time
_SECTOR_BYTES = 512  # the least that a disk writes whole
_WRITE_AGAIN_BYTES = 64 << 20  # more than what is written between two syncs
_RESERVE_BYTES_MIN = 64 << 10  # what the journal makes do with on a disk that has no whole step left

_WAY_ON = "restore it from a copy, or run `rmq store repair`, which says what it gives up"


class Gap(NamedTuple):
    """Damaged bytes between whole records: positions [start, end)."""

    start: int
    end: int


class CommitLog:
    """Segments [begin, end). `free_min_bytes`: room that new messages leave on the file system; `foreign_end`: records
    before this position may be Apache's.
    """

    def __init__(
        self,
        disk: Disk,
        *,
        segment_bytes: int,
        reserve_bytes: int,
        free_min_bytes: int = 0,
        store_host: bytes = b"\x7f\x00\x00\x01",
        store_port: int = 10911,
        foreign_end: int = ANYWHERE,
    ) -> None:
        self._disk = disk
        self._free_min_bytes = free_min_bytes
        self.foreign_end = foreign_end
        self._store_host, self._store_port = store_host, store_port
        self.segments = self._open_segments(segment_bytes)
        self.segment_bytes = self.segments[0].end - self.segments[0].base if self.segments else segment_bytes
        self._step = min(reserve_bytes, max(self.segment_bytes // 4, 1))
        self.end = self.written = self.segments[0].base if self.segments else 0
        self._reserved_end = self.end
        self.last: tuple[int, int] = (0, 0)  # position and size of the last record
        self._current: Segment | None = None
        self._easy_end = 0  # a record that ends here at the latest finds room, without another look
        self._buffer: list[bytes] = []
        self._unsynced: list[Segment] = []
        self._failure: StoreError | None = None
        self.on_roll: Callable[[Segment], None] = lambda segment: None

    def _open_segments(self, segment_bytes: int) -> list[Segment]:
        bases = [int(name) for name in self._disk.list(FOLDER) if name.isdigit() and len(name) == 20]
        while bases and self._disk.size(path_of(bases[-1])) == 0:  # a crash fell between its making and its length
            self._disk.remove(path_of(bases.pop()))
        sizes = {self._disk.size(path_of(base)) or 0 for base in bases}
        if len(sizes) > 1:
            self.refuse_lengths(sizes)
        size = sizes.pop() if sizes else segment_bytes
        if not size or any(later - base != size for base, later in itertools.pairwise(bases)):
            raise StoreError(f"{FOLDER}/ has a gap between its files; {_WAY_ON}")
        return [Segment(self._disk, base, size) for base in bases]

    def refuse_lengths(self, sizes: set[int]) -> NoReturn:
        """Raises StoreError: all files have to be of one size."""
        raise StoreError(f"{FOLDER}/ holds files of different sizes {sorted(sizes)}; {_WAY_ON}")

    @property
    def begin(self) -> int:
        """The oldest position that is kept."""
        return self.segments[0].base if self.segments else self.end

    def segment_at(self, position: int) -> Segment:
        """The segment that holds a position. Raises Damaged where retention took it or it was never written."""
        index = (position - self.begin) // self.segment_bytes
        if position < self.begin or index >= len(self.segments):
            raise Damaged("no such position in the log")
        return self.segments[index]

    # -- append ------------------------------------------------------------------------------------------------------

    def append(self, draft: Draft, queue_offset: int, store_ms: int, *, journal: bool = False) -> int:
        """Buffers one record; returns its position. Raises StoreFull: nothing was appended then."""
        size = draft.size
        if self.end + size > self._easy_end:
            self._make_room(size, journal=journal)
        position = self.end
        self._buffer.append(record.encode(draft, position, queue_offset, store_ms, self._store_host, self._store_port))
        self.end = position + size
        self.last = (position, size)
        return position

    def make_room(self, size: int) -> None:
        """Raises StoreFull unless messages of `size` bytes in all can be appended now, one after the other.

        A roll leaves less room unused than the record took that did not fit, and its blank.
        """
        rolls = 2 * size // self.segment_bytes + 2
        while self.end + 2 * size + rolls * BLANK_BYTES + self._step > self._reserved_end:
            self._reserve_step(journal=False)

    def _make_room(self, size: int, *, journal: bool) -> None:
        if self._failure is not None:
            raise self._failure
        if size + BLANK_BYTES > self.segment_bytes:
            raise StoreFull(f"a record of {size} bytes does not fit a segment of {self.segment_bytes}")
        current = self._current = self._current or self.segment_at(self.end)
        fits = self.end + size + BLANK_BYTES <= current.end
        needed_end = (self.end if fits else current.end) + size + BLANK_BYTES + (0 if journal else self._step)
        while needed_end > self._reserved_end:
            self._reserve_step(journal=journal)
        if not fits:
            self._roll(current)
            current = self._current
        self._easy_end = min(current.end, self._reserved_end - self._step) - BLANK_BYTES

    def _reserve_step(self, *, journal: bool) -> None:
        start = self._reserved_end
        try:
            if not journal and self._disk.free_bytes() < self._free_min_bytes + self._step:
                raise OSError("below disk_free_min_bytes")
            if start == self.segments[-1].end:
                self.segments.append(Segment(self._disk, start, self.segment_bytes))
            last = self.segments[-1]
            size = min(self._step, last.end - start)
            self._reserved_end += _reserve(
                last.file, start - last.base, size, least=_RESERVE_BYTES_MIN if journal else size
            )
        except OSError as error:
            raise StoreFull(f"disk full: no room for another {self._step} bytes ({error.strerror or error})") from None

    def _roll(self, current: Segment) -> None:
        """Crash before the blank is written: the log goes on in this segment. After: the scan goes on in the next."""
        self._buffer.append(record.blank(current.end - self.end))
        self.write()
        self.end = self.written = current.end
        self._current = self.segment_at(self.end)
        self.on_roll(self._current)

    def write(self) -> None:
        """One pwrite of all that was appended since the last one. Raises StoreError: the log can't go on, ever."""
        if self._failure is not None:
            raise self._failure
        if not self._buffer:
            return
        data = b"".join(self._buffer)
        self._buffer.clear()
        segment = self._current or self.segment_at(self.written)
        if not self._unsynced or self._unsynced[-1] is not segment:
            self._unsynced.append(segment)
        try:
            segment.write(self.written, data)
        except OSError as error:
            self._easy_end = 0
            self._failure = StoreError(f"cannot write the commit log at {self.written}: {error.strerror}; stopping")
            raise self._failure from error
        self.written += len(data)

    def take_unsynced(self) -> list[Segment]:
        """The segments that a sync has to cover so that all up to `written` is safe."""
        taken, self._unsynced = self._unsynced, []
        return taken

    # -- read --------------------------------------------------------------------------------------------------------

    def read(self, position: int, size: int) -> Record:
        """The record at a position, checked whole. Raises Damaged."""
        return self._decode(self.segment_at(position).read(position, max(size, 0)), position)

    def _decode(self, data: bytes, position: int) -> Record:
        return record.decode(data, position, foreign=position < self.foreign_end)

    def has_checksum(self, found: Record) -> bool:
        """Of the whole record, as ours have; one from Apache has one of its body only."""
        return record.has_checksum(self.segment_at(found.position).read(found.position, found.size))

    def scan(self, position: int) -> Iterator[Record | Gap]:
        """Every record from a position on; a Gap for damaged bytes between whole records.

        Ends at the first byte behind which no whole record is found.
        """
        while position < (self.segments[-1].end if self.segments else 0):
            segment = self.segment_at(position)
            size = record.peek_size(segment.read(position, BLANK_BYTES))
            if size == 0 and self._is_last(segment, position):
                position = segment.end
                continue
            try:
                found = self._decode(segment.read(position, size or 0), position)
            except Damaged:
                after = self._find_next(position + 1)
                if after is None:
                    return
                yield Gap(position, after)
                position = after
                continue
            yield found
            position += found.size

    def _is_last(self, segment: Segment, position: int) -> bool:
        """A blank that belongs where it is: it says how much is left."""
        left, _ = record.BLANK.unpack(segment.read(position, BLANK_BYTES))
        return bool(left == segment.end - position)

    def _find_next(self, position: int) -> int | None:
        """The next position at which a whole record starts: nothing that can be read is given up."""
        for segment in self.segments:
            if segment.end > position:
                found = self._find_in(segment, max(position, segment.base))
                if found is not None:
                    return found
        return None

    def _find_in(self, segment: Segment, position: int) -> int | None:
        magic = record.MAGIC.to_bytes(4, "big")
        overlap = BLANK_BYTES - 1  # a size and a magic may lie across the border of two windows
        for start, end in segment.file.data(position - segment.base):
            for base in range(segment.base + start, segment.base + end, _WINDOW_BYTES):
                window = segment.read(base, min(_WINDOW_BYTES + overlap, segment.base + end - base))
                at = window.find(magic, 4)
                while at >= 0:
                    if self._whole_at(base + at - 4):
                        return base + at - 4
                    at = window.find(magic, at + 1)
        return None

    def _whole_at(self, position: int) -> bool:
        segment = self.segment_at(position)
        size = record.peek_size(segment.read(position, BLANK_BYTES))
        try:
            return bool(size) and bool(self._decode(segment.read(position, size or 0), position))
        except Damaged:
            return False

    def damaged_behind(self, end: int) -> Gap | None:
        """A record right behind the last whole one, all of whose bytes were written, and yet it is not whole.

        What was never written reads as zeros, a sector at least: such a record was not finished.
        """
        segment = self._segment_behind(end)
        found = record.outline(segment.read(end, HEAD_BYTES_MAX), end) if segment is not None else None
        if segment is None or found is None or end + found.size + BLANK_BYTES > segment.end:
            return None
        data = segment.read(end, found.size)
        cuts = [0, *range(_SECTOR_BYTES - end % _SECTOR_BYTES, found.size, _SECTOR_BYTES), found.size]
        pieces = (data[start:stop] for start, stop in itertools.pairwise(cuts))
        written = data[-1] != 0 and all(piece.count(0) != len(piece) for piece in pieces)
        return Gap(end, end + found.size) if written else None

    def written_behind(self, end: int) -> bytes:
        """What the segment holds behind the log's end, up to the last byte that is not zero."""
        segment = self._segment_behind(end)
        if segment is None:
            return b""
        tail = b""
        for start, stop in segment.file.data(end - segment.base):
            for at in range(start, stop, _WINDOW_BYTES):
                window = segment.file.read(at, min(_WINDOW_BYTES, stop - at))
                if window != bytes(len(window)):
                    tail += bytes(segment.base + at - end - len(tail)) + window.rstrip(b"\0")
        return tail

    def _segment_behind(self, end: int) -> Segment | None:
        return next((segment for segment in self.segments if segment.base <= end < segment.end), None)

    # -- ends --------------------------------------------------------------------------------------------------------

    def set_end(self, end: int) -> None:
        """After recovery: appends go on here. What lies behind is zeroed: stale bytes must never look like records."""
        while self.segments and self.segments[-1].base > end:
            self.discard(self.segments.pop())
        if self.segments and end < self.segments[-1].end:
            self._zero(self.segments[-1], end)
        self.end = self.written = self._reserved_end = end
        self._current = None
        self._easy_end = 0
        if not self.segments:
            self.segments.append(Segment(self._disk, end, self.segment_bytes))

    def make_safe(self, start: int) -> None:
        """After recovery: all from a position on is on stable storage on return. Raises OSError.

        A process before this one may have left what no later sync writes: bytes whose sync failed, so the tail is
        written again as it is; and files whose entries it had not made durable.
        """
        tail = max(start, self.end - _WRITE_AGAIN_BYTES)
        for segment in self.segments:
            for at in range(max(tail, segment.base), min(self.end, segment.end), _WINDOW_BYTES):
                segment.write(at, segment.read(at, min(_WINDOW_BYTES, self.end - at)))
            if segment.end > start:
                segment.sync()
        for folder in (FOLDER, ""):
            self._disk.sync_folder(folder)

    def _zero(self, segment: Segment, start: int) -> None:
        dirty = False
        for first, end in segment.file.data(start - segment.base):
            for at in range(first, end, _WINDOW_BYTES):
                size = min(_WINDOW_BYTES, end - at)
                if segment.file.read(at, size) != bytes(size):
                    segment.file.write(at, bytes(size))
                    dirty = True
        if dirty:
            segment.sync()

    def take_first(self) -> Segment:
        """Takes the oldest segment out; the caller has carried forward what still lives in it, and discards it."""
        assert len(self.segments) > 1
        segment = self.segments.pop(0)
        self._unsynced = [other for other in self._unsynced if other is not segment]
        return segment

    def discard(self, segment: Segment) -> None:
        """Closes and deletes a segment that was taken out, in order, once no sync can be using it. Raises OSError."""
        segment.file.close()
        self.delete(segment)

    def delete(self, segment: Segment) -> None:
        """The file of a segment that is closed; where it has gone already, that is made durable. Raises OSError."""
        self._disk.remove(path_of(segment.base))
        self._disk.sync_folder(FOLDER)

    def close(self) -> None:
        """Gives all files back."""
        for segment in self.segments:
            segment.file.close()


def _reserve(file: File, offset: int, size: int, *, least: int) -> int:
    """Reserves `size` bytes, or as much as there is down to `least`; returns how many. Raises OSError."""
    while True:
        try:
            file.reserve(offset, size)
        except OSError:
            if size <= least:
                raise
            size = max(size // 4, min(size, least))
        else:
            return size
