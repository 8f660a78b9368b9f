"""Pairs of numbers in order, packed: what a wheel of timers is made of, for there may be a million of them.

    chunk 0           chunk 1           ...     each: two arrays of up to 512 signed 64-bit numbers, lefts and rights
    floor             floor                     no left of a chunk is lower; none of those before it is higher

Pairs are in the order of their lefts; those that share one, in the order in which they were added, over several chunks
where they are many. A pair takes 16 bytes, about 25 with what arrays keep in hand, whether lefts are alike or not: a
dict of Python's numbers takes 100 and more. Where one goes is found by halving, twice; a chunk's front can be taken
as cheaply as its end.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

_PAIRS_MAX = 512  # a chunk: to move that many in memory takes about as long as to find the place
_PAIRS_MIN = 128  # with fewer one joins the chunk before it: else one that lost most would keep its memory


class _Chunk:
    __slots__ = ("lefts", "rights")

    def __init__(self, lefts: "array[int]", rights: "array[int]") -> None:
        self.lefts = lefts
        self.rights = rights


class PackedPairs:
    """Signed 64-bit numbers, (left, right)."""

    __slots__ = ("_chunks", "_count", "_floors")

    def __init__(self) -> None:
        self._chunks: list[_Chunk] = []
        self._floors: list[int] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """In order. Nobody may add or take any meanwhile."""
        for chunk in self._chunks:
            yield from zip(chunk.lefts, chunk.rights, strict=True)

    def add(self, left: int, right: int) -> None:
        """Behind all with the same left. A pair that is there already is there twice then."""
        self._count += 1
        last = self._chunks[-1] if self._chunks else None
        if last is not None and left < last.lefts[-1]:
            self._insert(left, right)
        elif last is not None and len(last.lefts) < _PAIRS_MAX:
            last.lefts.append(left)
            last.rights.append(right)
        else:  # rising ones, as most are, fill chunks to their end
            self._chunks.append(_Chunk(array("q", (left,)), array("q", (right,))))
            self._floors.append(left)

    def _insert(self, left: int, right: int) -> None:
        index = bisect_right(self._floors, left) - 1
        if index < 0:
            index, self._floors[0] = 0, left
        chunk = self._chunks[index]
        at = bisect_right(chunk.lefts, left)
        chunk.lefts.insert(at, left)
        chunk.rights.insert(at, right)
        if len(chunk.lefts) > _PAIRS_MAX:
            self._halve(index)

    def _halve(self, index: int) -> None:
        chunk = self._chunks[index]
        middle = len(chunk.lefts) // 2
        self._chunks.insert(index + 1, _Chunk(chunk.lefts[middle:], chunk.rights[middle:]))
        self._floors.insert(index + 1, chunk.lefts[middle])
        del chunk.lefts[middle:], chunk.rights[middle:]

    def fill(self, lefts: "array[int]", rights: "array[int]") -> None:
        """All at once, into an empty one; `lefts` rise."""
        assert not self._chunks
        for at in range(0, len(lefts), _PAIRS_MAX):
            end = at + _PAIRS_MAX
            self._chunks.append(_Chunk(lefts[at:end], rights[at:end]))
            self._floors.append(lefts[at])
        self._count = len(lefts)

    def first(self) -> int | None:
        """The lowest left."""
        return self._chunks[0].lefts[0] if self._chunks else None

    def front(self, limit: int) -> "array[int]":
        """A copy of rights of the lowest left, in order: one at least where there are any, `limit` at most."""
        if not self._chunks:
            return array("q")
        chunk = self._chunks[0]
        lefts = chunk.lefts
        if len(lefts) == 1 or lefts[1] != lefts[0]:
            return chunk.rights[: min(limit, 1)]
        return chunk.rights[: bisect_right(lefts, lefts[0], 0, min(limit, len(lefts)))]

    def after(self, left: int) -> int | None:
        """The next higher left."""
        for index in range(max(bisect_right(self._floors, left) - 1, 0), len(self._chunks)):
            lefts = self._chunks[index].lefts
            if lefts[-1] > left:
                return lefts[bisect_right(lefts, left)]
        return None

    def _runs(self, left: int) -> Iterator[tuple[int, int, int]]:
        """Where pairs with that left are: chunk, from, to."""
        for index in range(max(bisect_left(self._floors, left) - 1, 0), bisect_right(self._floors, left)):
            lefts = self._chunks[index].lefts
            begin = bisect_left(lefts, left)
            if begin < len(lefts):
                end = bisect_right(lefts, left, begin)
                if begin < end:
                    yield index, begin, end

    def rights(self, left: int, limit: int) -> "array[int]":
        """A copy of up to `limit` of those with that left, in the order in which they were added."""
        found: array[int] = array("q")
        for index, begin, end in self._runs(left):
            found += self._chunks[index].rights[begin : min(end, begin + limit - len(found))]
            if len(found) >= limit:
                break
        return found

    def _find(self, left: int, right: int) -> tuple[int, int] | None:
        if self._chunks and self._chunks[0].lefts[0] == left and self._chunks[0].rights[0] == right:
            return 0, 0
        for index, begin, end in self._runs(left):
            try:
                return index, self._chunks[index].rights.index(right, begin, end)
            except ValueError:
                continue
        return None

    def has(self, left: int, right: int) -> bool:
        """Whether that pair is there."""
        return self._find(left, right) is not None

    def remove(self, left: int, right: int) -> bool:
        """Takes one out; False where there is none. The first of a left costs little, however many have it."""
        found = self._find(left, right)
        if found is None:
            return False
        self._cut(found[0], found[1], found[1] + 1)
        return True

    def drop_first(self, count: int) -> None:
        """Takes as many out at the front as `front` has told of."""
        self._cut(0, 0, count)

    def _cut(self, index: int, begin: int, end: int) -> None:
        chunk = self._chunks[index]
        del chunk.lefts[begin:end], chunk.rights[begin:end]
        self._count -= end - begin
        if not chunk.lefts:
            del self._chunks[index], self._floors[index]
        elif len(chunk.lefts) < _PAIRS_MIN and index:
            self._join(index)

    def _join(self, index: int) -> None:
        before, chunk = self._chunks[index - 1], self._chunks[index]
        before.lefts += chunk.lefts
        before.rights += chunk.rights
        del self._chunks[index], self._floors[index]
        if len(before.lefts) > _PAIRS_MAX:
            self._halve(index - 1)

    def sort(self, left: int) -> None:
        """The rights of that left rise from now on."""
        rights = sorted(self.rights(left, self._count))
        done = 0
        for index, begin, end in self._runs(left):
            self._chunks[index].rights[begin:end] = array("q", rights[done : done + end - begin])
            done += end - begin

    def clear(self) -> None:
        """None is left."""
        self._chunks.clear()
        self._floors.clear()
        self._count = 0
