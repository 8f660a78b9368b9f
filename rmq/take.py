"""One receive while it is being filled, and its messages as they are handed out. Decides only when it is full."""

from collections.abc import Sequence
from typing import TypeAlias

from rmq.filter import Filter
from rmq.message import Delivered
from rmq.scan import READ_AHEAD, Look
from rmq_store import record
from rmq_store.ledger import Ledger, Open
from rmq_store.record import Record

Taken: TypeAlias = tuple[Ledger, int, int, Record, dict[str, str]]  # queue, offset, attempt, message, its properties


class Take(Look):
    """One receive being filled: messages, and what the journal needs to know of each queue.

    `others`: filters of polls that wait, what they want is left to them. `free`: how many more may be open. `ordered`:
    the topic's messages may have a message group; `orderly`: all others of a queue are in order, too; `fifo`: those of
    one message group, or queue, may come together.
    """

    __slots__ = (
        "again", "again_bytes", "bytes_max", "fifo", "free", "grouped", "lines", "messages", "nexts", "offsets",
        "ordered", "orderly", "others", "parked", "places", "popped", "settled", "stalled",
    )  # fmt: skip

    def __init__(
        self,
        room: int,
        bytes_max: int,
        free: int,
        wanted: Filter,
        others: Sequence[Filter],
        *,
        ordered: bool,
        fifo: bool,
        orderly: bool = False,
    ) -> None:
        super().__init__(room, bytes_max, wanted)
        self.bytes_max = bytes_max
        self.again = self.again_bytes = 0  # of those that had been delivered before
        self.free = free
        self.ordered = ordered
        self.orderly = orderly
        self.fifo = fifo
        self.others = others
        self.popped: list[Open] = []  # out of `ready`, not leased yet
        self.messages: list[Taken] = []
        self.nexts: dict[Ledger, int] = {}
        self.offsets: dict[Ledger, list[tuple[int, int]]] = {}  # offset and attempt of what is leased
        self.settled: dict[Ledger, list[int]] = {}
        self.places: list[tuple[Ledger, int]] = []  # out of the subscription's `lines`
        self.lines: dict[tuple[Ledger, int], bool] = {}  # of each line met: whether its next message may come, too
        self.grouped: dict[Ledger, list[tuple[int, int]]] = {}  # offset and key of what joins a line
        self.parked = 0  # how many of these stay behind
        self.stalled = False  # there are too many parked ones for this queue to go on

    def add(
        self,
        ledger: Ledger,
        offset: int,
        attempt: int,
        found: Record,
        properties: dict[str, str],
        *,
        again: bool = False,
    ) -> None:
        """One message for the answer. `again`: it is open already."""
        self.messages.append((ledger, offset, attempt, found, properties))
        self.offsets.setdefault(ledger, []).append((offset, attempt))
        self.room -= 1
        self.bytes -= found.size
        if again:
            self.again += 1
            self.again_bytes += found.size
        else:
            self.free -= 1

    def settle(self, ledger: Ledger, offset: int) -> None:
        """One message that nobody is to get."""
        self.settled.setdefault(ledger, []).append(offset)

    def count(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Messages and their bytes; the same of those that had been delivered before."""
        return (len(self.messages), self.bytes_max - self.bytes), (self.again, self.again_bytes)

    def spares(self, properties: dict[str, str]) -> bool:
        """A message that is not wanted here is wanted by another."""
        return any(other.matches(properties) for other in self.others)

    @property
    def ahead(self) -> int:
        """Of an ordered topic not every message can be taken."""
        return READ_AHEAD if self.ordered or self.orderly else super().ahead


def delivered(
    topic: str, queue_id: int, offset: int, attempt: int, found: Record, properties: dict[str, str], handle: str
) -> Delivered:
    """As the client gets it."""
    return Delivered(
        topic, queue_id, offset, found.body, properties, found.sys_flag, found.born_ms,
        record.host_text(found.born_host), found.store_ms,
        f"{record.host_text(found.store_host)}:{found.store_port}", attempt, handle,
    )  # fmt: skip
