"""One receive while it is being filled. Owns what it has found so far; decides nothing but when it is full."""

from collections.abc import Sequence

from rmq.filter import Filter
from rmq_store.leases import Ledger, Open
from rmq_store.record import Record


class Take:
    """One receive being filled: messages, and what the journal needs to know of each queue.

    `room` in messages, `bytes` in record bytes; the last message may be larger than what is left. `budget`: how many
    queue entries it may look at. `others`: filters of polls that wait, what they want is left to them.
    """

    __slots__ = (
        "again", "budget", "bytes", "bytes_max", "messages", "nexts", "offsets", "others", "popped", "room", "settled",
        "wanted",
    )  # fmt: skip

    def __init__(self, room: int, bytes_max: int, budget: int, wanted: Filter, others: Sequence[Filter]) -> None:
        self.room = room
        self.bytes = self.bytes_max = bytes_max
        self.again: tuple[int, int] = (0, 0)  # messages, and their bytes, that had been delivered before
        self.budget = budget
        self.wanted = wanted
        self.others = others
        self.popped: list[Open] = []  # out of `ready`, not leased yet
        self.messages: list[tuple[Ledger, int, int, Record, dict[str, str]]] = []  # ledger, offset, attempt, ...
        self.nexts: dict[Ledger, int] = {}
        self.offsets: dict[Ledger, list[tuple[int, int]]] = {}  # offset and attempt of what is leased
        self.settled: dict[Ledger, list[int]] = {}

    def add(self, ledger: Ledger, offset: int, attempt: int, found: Record, properties: dict[str, str]) -> None:
        """One message for the answer."""
        self.messages.append((ledger, offset, attempt, found, properties))
        self.offsets.setdefault(ledger, []).append((offset, attempt))
        self.room -= 1
        self.bytes -= found.size

    @property
    def so_far(self) -> tuple[int, int]:
        """Messages, and their bytes."""
        return len(self.messages), self.bytes_max - self.bytes

    @property
    def goes_on(self) -> bool:
        """There is room for one more message, and leave to look for it."""
        return self.room > 0 and self.bytes > 0 and self.budget > 0

    def spares(self, properties: dict[str, str]) -> bool:
        """A message that is not wanted here is wanted by another."""
        return any(other.matches(properties) for other in self.others)
