"""How ended half messages ended, for a producer that asks again: two bits each, by their first number.

    chunk    256 numbers that follow each other, 64 bytes; bits of number n: n % 256 * 2, least significant first
    bits     0 not known (lives, or forgotten)   1 committed   2 rolled back

Forgotten is the chunk that was written to the longest ago, when there are more than CHUNKS_MAX. So the last 4,096
outcomes are known whatever their order is, and about the last million where they end in about the order in which they
were sent. That is 1 MB at the most (tests/store/test_halves.py).
"""

from collections.abc import Container, Iterator

CHUNK_BITS = 8
CHUNKS_MAX = 4096
COMMITTED, ROLLED_BACK = 1, 2
UNKNOWN = 0
_CHUNK_BYTES = (1 << CHUNK_BITS) * 2 // 8
_IN_CHUNK = (1 << CHUNK_BITS) - 1


class Outcomes:
    """In the order in which chunks were last written to. `dirty`: those that changed since the last checkpoint."""

    def __init__(self) -> None:
        self._chunks: dict[int, bytearray] = {}
        self._stamps: dict[int, int] = {}
        self._stamp = 0
        self.dirty: set[int] = set()

    def get(self, number: int) -> int:
        """UNKNOWN, COMMITTED or ROLLED_BACK."""
        chunk = self._chunks.get(number >> CHUNK_BITS)
        at = number & _IN_CHUNK
        return chunk[at >> 2] >> (at & 3) * 2 & 3 if chunk is not None else UNKNOWN

    def put(self, number: int, outcome: int) -> None:
        """The first one stays: a transaction has one end."""
        if self.get(number) != UNKNOWN:
            return
        name = number >> CHUNK_BITS
        chunk = self._chunks.pop(name, None)
        if chunk is None:
            chunk = bytearray(_CHUNK_BYTES)
        at = number & _IN_CHUNK
        chunk[at >> 2] |= outcome << (at & 3) * 2
        self._stamp += 1
        self._set(name, chunk, self._stamp)

    def _set(self, name: int, chunk: bytearray, stamp: int) -> None:
        self._chunks[name] = chunk
        self._stamps[name] = stamp
        self.dirty.add(name)
        if len(self._chunks) > CHUNKS_MAX:
            oldest = next(iter(self._chunks))
            del self._chunks[oldest], self._stamps[oldest]
            self.dirty.add(oldest)

    def names(self) -> list[int]:
        """Of all chunks, the one written to the longest ago first."""
        return list(self._chunks)

    def chunk(self, name: int) -> bytes | None:
        """As it is repeated in the journal; None where it was forgotten."""
        found = self._chunks.get(name)
        return bytes(found) if found is not None else None

    def repeat(self, name: int, chunk: bytes, living: Container[int]) -> None:
        """The journal repeats what was known then; nothing that came before in the log is unknown to it.

        What lives has not ended: where the journal says so, the record that ended it was lost in a power cut.
        """
        chunk = self._without(name, chunk, living)
        if name in self._chunks:
            self._chunks[name][:] = chunk
        else:
            self._stamp += 1
            self._set(name, bytearray(chunk), self._stamp)

    def _without(self, name: int, chunk: bytes, living: Container[int]) -> bytes:
        left = bytearray(chunk)
        for at in range(1 << CHUNK_BITS):
            if left[at >> 2] >> (at & 3) * 2 & 3 and (name << CHUNK_BITS) + at in living:
                left[at >> 2] &= ~(3 << (at & 3) * 2)
        return bytes(left)

    def take_changes(self) -> Iterator[tuple[int, tuple[int, bytes] | None]]:
        """For a checkpoint: (chunk, (stamp, bytes)), None for one that was forgotten."""
        dirty, self.dirty = self.dirty, set()
        for name in dirty:
            found = self._chunks.get(name)
            yield name, (self._stamps[name], bytes(found)) if found is not None else None

    def restore(self, rows: list[tuple[int, int, bytes]]) -> None:
        """(stamp, chunk, bytes) of all, as `take_changes` told them."""
        for stamp, name, chunk in sorted(rows):
            self._stamp = stamp
            self._set(name, bytearray(chunk), stamp)

    def clear(self) -> None:
        """The half topic was dropped: its numbers begin again."""
        self.dirty.update(self._chunks)
        self._chunks.clear()
        self._stamps.clear()
