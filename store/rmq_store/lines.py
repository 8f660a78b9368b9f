"""Order per message group: which messages of a queue are in line, for one consumer group. No policy, no log.

A message that has a message group joins its line when the cursor passes it and leaves it when it is settled:

    line of a message group     3    7    8    12 ...    queue offsets, rising
                                ^ front             those that were delivered come first, then the parked ones

Parked: passed by the cursor and never delivered, because others of its group come before it. An ack behind the front is
`early`: it counts once all before it is settled; whether it still does if one of those comes again is not decided here.

Message groups are known by a key of 55 bits, a hash of their name. Where two share a key they wait for each other: that
costs time, never order. For a group that is orderly what has no message group has the key of all its queue.

A message in line costs 16 bytes where its group and its 256 offsets have many, and about 300 where it is alone in both
(tests/store/test_lines.py).
"""

from array import array
from bisect import bisect_left, insort
from collections.abc import Iterator
from hashlib import blake2b

PROPERTY = "__SHARDINGKEY"  # a record's, RocketMQ's: its message group
KEY_BITS = 55
CHUNK_BITS = 8
_LOW = (1 << CHUNK_BITS) - 1
_GAP_MAX = 64  # offsets that left a line at its front and are still in its array, if they are the lesser part


class _Line:
    """The offsets of a message group that has several in line."""

    __slots__ = ("_gap", "_offsets")

    def __init__(self, *offsets: int) -> None:
        self._offsets = array("q", sorted(offsets))
        self._gap = 0

    def __len__(self) -> int:
        return len(self._offsets) - self._gap

    def __getitem__(self, index: int) -> int:
        return self._offsets[self._gap + index]

    def add(self, offset: int) -> None:
        if offset > self._offsets[-1]:
            self._offsets.append(offset)
        else:
            insort(self._offsets, offset, self._gap)

    def remove(self, offset: int) -> None:
        at = bisect_left(self._offsets, offset, self._gap)
        if at > self._gap:
            del self._offsets[at]
            return
        self._gap += 1
        if self._gap > _GAP_MAX and self._gap * 2 > len(self._offsets):
            del self._offsets[: self._gap]
            self._gap = 0


class Lines:
    """All lines of one consumer group in one queue. `early`: offset -> sequence of the delivery that was acked.

    `parked` is counted by who knows what is open (leases.py).
    """

    __slots__ = ("_chunks", "_end", "_lines", "early", "parked")

    def __init__(self) -> None:
        self._chunks: dict[int, array[int]] = {}  # offset >> 8 -> key << 8 | offset & 255, by offset
        self._lines: dict[int, int | _Line] = {}  # an offset that is alone is its line
        self._end = 0  # behind all offsets that ever were in line
        self.early: dict[int, int] = {}
        self.parked = 0

    def __iter__(self) -> Iterator[int]:
        """All offsets in line, not in order."""
        for chunk, entries in self._chunks.items():
            for entry in entries:
                yield chunk << CHUNK_BITS | entry & _LOW

    def groups(self) -> Iterator[int]:
        """Keys of the message groups that have a line."""
        return iter(self._lines)

    def key(self, offset: int) -> int | None:
        """The message group of an offset; None where it is not in line."""
        entries, at = self._find(offset)
        return entries[at] >> CHUNK_BITS if entries is not None and at >= 0 else None

    def add(self, offset: int, key: int) -> bool:
        """False where it is in line already."""
        entries, at = self._find(offset)
        if at >= 0:
            return False
        if entries is None:
            entries = self._chunks[offset >> CHUNK_BITS] = array("q")
        entries.insert(~at, key << CHUNK_BITS | offset & _LOW)
        self._end = max(self._end, offset + 1)
        line = self._lines.get(key)
        if line is None:
            self._lines[key] = offset
        elif isinstance(line, int):
            self._lines[key] = _Line(line, offset)
        else:
            line.add(offset)
        return True

    def remove(self, offset: int) -> None:
        """It is settled; nothing happens where it is not in line."""
        entries, at = self._find(offset)
        if entries is None or at < 0:
            return
        key = entries.pop(at) >> CHUNK_BITS
        if not entries:
            del self._chunks[offset >> CHUNK_BITS]
        self.early.pop(offset, None)
        line = self._lines[key]
        if isinstance(line, _Line):
            line.remove(offset)
        if isinstance(line, int) or not len(line):
            del self._lines[key]

    def _find(self, offset: int) -> "tuple[array[int] | None, int]":
        """The offset's chunk and place in it; where it is not there, the place to be, inverted."""
        entries = self._chunks.get(offset >> CHUNK_BITS)
        low = offset & _LOW
        if entries is None:
            return None, ~0
        at = bisect_left(entries, low, key=_low)
        return entries, at if at < len(entries) and _low(entries[at]) == low else ~at

    def length(self, key: int) -> int:
        """How many of a message group are in line."""
        line = self._lines.get(key, ())
        return 1 if isinstance(line, int) else len(line)

    def at(self, key: int, index: int) -> int:
        """The offset at a place of a line, 0 is the front. Raises IndexError."""
        line = self._lines[key]
        if isinstance(line, _Line):
            return line[index]
        return (line,)[index]

    def behind(self, offset: int) -> Iterator[int]:
        """The offsets of the same message group behind one that is in line, in order."""
        key = self.key(offset)
        line = self._lines.get(-1 if key is None else key, 0)
        if isinstance(line, _Line):
            for index in range(len(line)):
                if line[index] > offset:
                    yield line[index]

    def first(self) -> int | None:
        """The lowest offset of all."""
        chunk = min(self._chunks, default=None)
        return None if chunk is None else chunk << CHUNK_BITS | _low(self._chunks[chunk][0])

    def in_order(self) -> Iterator[int]:
        """All offsets in line, rising."""
        for chunk in sorted(self._chunks):
            for entry in self._chunks[chunk]:
                yield chunk << CHUNK_BITS | _low(entry)

    def since(self, offset: int) -> list[int]:
        """All from an offset on."""
        if offset >= self._end:
            return []
        chunks = [chunk for chunk in self._chunks if chunk >= offset >> CHUNK_BITS]
        found = (chunk << CHUNK_BITS | _low(entry) for chunk in chunks for entry in self._chunks[chunk])
        return [one for one in found if one >= offset]

    # -- checkpoint --------------------------------------------------------------------------------------------------

    def chunks(self) -> Iterator[int]:
        """Those that hold something."""
        return iter(self._chunks)

    def packed(self, chunk: int) -> tuple[list[int], list[tuple[int, int]]] | None:
        """What `unpack` takes: entries as they are kept, and (offset, sequence) of early acks; None for nothing."""
        entries = self._chunks.get(chunk)
        if entries is None:
            return None
        offsets = (chunk << CHUNK_BITS | _low(entry) for entry in entries)
        return entries.tolist(), [(offset, self.early[offset]) for offset in offsets if offset in self.early]

    def unpack(self, chunk: int, entries: list[int], early: list[tuple[int, int]]) -> None:
        """The reverse of `packed`."""
        for entry in entries:
            self.add(chunk << CHUNK_BITS | _low(entry), entry >> CHUNK_BITS)
        self.early.update(early)


def key_of(*names: str) -> int:
    """A hash of KEY_BITS bits, the same in every process; 0 for nothing."""
    digest = blake2b("\0".join(names).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - KEY_BITS) or 1


WHOLE_QUEUE = key_of("")
"""The key of what is in order with all of its queue; no message group has an empty name."""


def _low(entry: int) -> int:
    return entry & _LOW
