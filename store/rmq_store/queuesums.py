"""Checksums of a queue's files: an entry has none of its own, and a wrong tags code would hide its message silently.

CRC-32 of each block of 250 entries (5,000 bytes; a file is 1,200 blocks), kept in the checkpoint, a value a file:

    [first, end, sums]     queue offsets [first, end) are covered; 4 bytes big-endian for each block, the first and the
                           last one of what they hold of these

What this run has written is believed. A block from before is checked once, when it is first read: so a start reads
none of them. Knows no file; the consume queue reads and mends.
"""

import struct
import sys
import zlib
from array import array
from collections.abc import Iterator

BLOCK = 250
FILE_BLOCKS = 1200
FILE_ENTRIES = BLOCK * FILE_BLOCKS
ENTRY_BYTES = 20
Value = tuple[int, int, bytes]


class _FileSums:
    """One file's: offsets [first, end); those below `loaded_end` come from a checkpoint."""

    __slots__ = ("end", "first", "loaded_end", "loaded_last", "sums", "unchecked")

    def __init__(self, first: int, end: int, sums: bytes) -> None:
        self.first, self.end = first, end
        self.sums = array("I", struct.unpack(f">{len(sums) // 4}I", sums))
        self.loaded_end = end
        self.loaded_last = self.sums[-1] if self.sums else 0
        self.unchecked = bytearray(b"\1" * len(self.sums))

    def index(self, block: int) -> int:
        return block - self.first // BLOCK

    def value(self) -> Value:
        swapped = array("I", self.sums)
        if sys.byteorder == "little":
            swapped.byteswap()
        return self.first, self.end, swapped.tobytes()


class QueueSums:
    """Of one queue. Blocks are numbered through all its files."""

    __slots__ = ("_dropped", "_files", "dirty")

    def __init__(self) -> None:
        self._files: dict[int, _FileSums] = {}  # by the file's number
        self.dirty: set[int] = set()  # numbers of files whose value is to be saved
        self._dropped: set[int] = set()

    @property
    def end(self) -> int:
        """Behind the last offset that is covered; 0 where none is."""
        return max((file.end for file in self._files.values()), default=0)

    def extend(self, offset: int, data: bytes) -> None:
        """Entries from an offset on are on their way to the disk; what was covered ends there, or is given up."""
        if self._files and self.end != offset:
            self.drop_before(sys.maxsize)
        for start in range(0, len(data), ENTRY_BYTES * BLOCK):
            self._extend(offset + start // ENTRY_BYTES, memoryview(data)[start : start + ENTRY_BYTES * BLOCK])

    def _extend(self, offset: int, data: memoryview) -> None:
        while data:
            number = offset // FILE_ENTRIES
            file = self._files.get(number)
            if file is None:
                file = self._files[number] = _FileSums(offset, offset, b"")
                self._dropped.discard(number)
            room = (BLOCK - offset % BLOCK) * ENTRY_BYTES
            piece, data = data[:room], data[room:]
            if file.index(offset // BLOCK) == len(file.sums):
                file.sums.append(zlib.crc32(piece))
                file.unchecked.append(0)
            else:
                file.sums[-1] = zlib.crc32(piece, file.sums[-1])
            offset += len(piece) // ENTRY_BYTES
            file.end = offset
            self.dirty.add(number)

    def is_unchecked(self, block: int) -> bool:
        """It comes from a checkpoint, and nobody has looked at it since."""
        file = self._files.get(block // FILE_BLOCKS)
        index = file.index(block) if file else -1
        return file is not None and 0 <= index < len(file.unchecked) and bool(file.unchecked[index])

    def range(self, block: int) -> tuple[int, int]:
        """Which offsets the checkpoint's sum of an unchecked block covers."""
        file = self._files[block // FILE_BLOCKS]
        return max(file.first, block * BLOCK), min(file.loaded_end, (block + 1) * BLOCK)

    def check(self, block: int, data: bytes) -> bool:
        """Whether this is what an unchecked block has to hold; then it is checked."""
        file = self._files[block // FILE_BLOCKS]
        index = file.index(block)
        last = block == (file.loaded_end - 1) // BLOCK
        if zlib.crc32(data) != (file.loaded_last if last else file.sums[index]):
            return False
        file.unchecked[index] = 0
        return True

    def mended(self, block: int, data: bytes) -> None:
        """A block holds this now, all that is covered of it."""
        file = self._files[block // FILE_BLOCKS]
        index = file.index(block)
        file.sums[index] = zlib.crc32(data)
        file.unchecked[index] = 0
        self.dirty.add(block // FILE_BLOCKS)

    def covered_end(self, block: int) -> int:
        """Behind the last offset of a block that is covered now."""
        return min(self._files[block // FILE_BLOCKS].end, (block + 1) * BLOCK)

    def drop_before(self, offset: int) -> None:
        """Files that hold only offsets below are gone."""
        for number in [number for number, file in self._files.items() if file.end <= offset]:
            del self._files[number]
            self.dirty.discard(number)
            self._dropped.add(number)

    # -- checkpoint --------------------------------------------------------------------------------------------------

    def take_changed(self, *, everything: bool) -> list[tuple[int, Value | None]]:
        """By the file's number, None for one that went; nothing is changed afterwards."""
        numbers = set(self._files) if everything else self.dirty
        changed: list[tuple[int, Value | None]] = [(number, self._files[number].value()) for number in sorted(numbers)]
        changed += [(number, None) for number in self._dropped if not everything]
        self.forget_changes()
        return changed

    def forget_changes(self) -> None:
        """All that there is is saved."""
        self.dirty.clear()
        self._dropped.clear()

    def restore(self, number: int, value: Value) -> None:
        """As a checkpoint kept it: to be checked."""
        self._files[number] = _FileSums(*value)


def damaged_blocks(value: Value, data: bytes) -> Iterator[tuple[int, int]]:
    """Of a whole file, by what a checkpoint keeps: bytes from and to that do not match."""
    file = _FileSums(*value)
    base = file.first - file.first % FILE_ENTRIES
    block = file.first // BLOCK
    for sum_ in file.sums:
        start, end = max(file.first, block * BLOCK) - base, min(file.end, (block + 1) * BLOCK) - base
        if zlib.crc32(data[start * ENTRY_BYTES : end * ENTRY_BYTES]) != sum_:
            yield start * ENTRY_BYTES, end * ENTRY_BYTES
        block += 1
