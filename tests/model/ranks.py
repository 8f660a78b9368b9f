"""What priority promises, judged by the answers to receives of one topic. Knows what was available, and no broker."""

from collections import Counter
from collections.abc import Iterable

TOPIC = "ranks"
QUEUES = 3  # as many priorities
NTH = 3

Rank = tuple[int, int]  # queue id, which is the priority, and queue offset


class Ranks:
    """Per group: how many messages came since one came out of turn, and in a row while a lower one was available."""

    def __init__(self) -> None:
        self._since: Counter[str] = Counter()
        self._row: Counter[str] = Counter()

    def begin_anew(self) -> None:
        """A server was started: it counts from nothing."""
        self._since.clear()
        self._row.clear()

    def unseen(self, group: str, count: int) -> None:
        """So many came in an answer of which nobody knows what was available then."""
        self._since[group] += count
        self._row[group] = 0

    def judge(self, group: str, came: Iterable[Rank], available: set[Rank], *, filtered: bool) -> int:
        """How many came in a lower one's turn. Held: it is the oldest of its priority, which is the highest but for
        one of NTH; where nothing is filtered out, never NTH of the highest in a row.
        """
        turns = 0
        for queue_id, offset in came:
            assert offset == min(at for queue, at in available if queue == queue_id), "an older one is passed over"
            highest = max(available)[0]
            if queue_id < highest:
                assert self._since[group] >= NTH - 1, f"a higher one than {queue_id} is passed over, and it was no turn"
                self._since[group] = self._row[group] = 0
                turns += 1
            else:
                self._since[group] += 1
                self._row[group] = self._row[group] + 1 if min(available)[0] < highest else 0
                assert filtered or self._row[group] < NTH, "lower ones starve"
            available.remove((queue_id, offset))
        return turns
