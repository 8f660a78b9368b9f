"""What waits to be delivered again, where receives ask for it by queue: there the oldest comes first.

Offsets only, under the queue that each message was first delivered from: 40 bytes a message. Which queue comes next is
not decided here (rmq/priority.py), nor which topics are read like this. An offset may be named that is settled by now.
"""

from collections.abc import Iterator
from heapq import heappop, heappush


class Bands:
    """`passed` and `last` are whoever's who chooses queues; they begin anew with every start."""

    __slots__ = ("_heaps", "last", "passed")

    def __init__(self) -> None:
        self._heaps: dict[int, list[int]] = {}  # queue id -> offsets
        self.passed = 0
        self.last = 0

    def __len__(self) -> int:
        return sum(map(len, self._heaps.values()))

    def __contains__(self, queue_id: int) -> bool:
        return queue_id in self._heaps

    def __iter__(self) -> Iterator[int]:
        """Queues that hold something."""
        return iter(self._heaps)

    def add(self, queue_id: int, offset: int) -> None:
        """It may be delivered again."""
        heappush(self._heaps.setdefault(queue_id, []), offset)

    def pop(self, queue_id: int) -> int | None:
        """The lowest offset of a queue, once however often it was added; None where there is none."""
        heap = self._heaps.get(queue_id)
        if heap is None:
            return None
        offset = heappop(heap)
        while heap and heap[0] == offset:
            heappop(heap)
        if not heap:
            del self._heaps[queue_id]
        return offset

    def clear(self) -> None:
        """None of them comes any more."""
        self._heaps.clear()
