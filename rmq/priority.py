"""Priority: which queue a message goes to, and which queue of a topic a receive looks at next. Pure but for counting.

A topic of type PRIORITY keeps every priority in a queue of its own, as Apache 5.5 does: queue 0 the lowest, and the
last one all that is as high or higher. So order outlives what queues outlive, and a backlog costs no memory. Messages
that come without a priority have the lowest.

Of what waits for a group the highest priority comes first, and of one priority the oldest, whether new or to be
delivered again. Of `lower_priority_nth` messages that come while lower ones wait the last is a lower one, these
priorities in turn: the k-th message of one priority, of m that wait below the highest, is among the next
k * m * lower_priority_nth.
"""

from collections.abc import Iterable

from rmq_store.bands import Bands


def queue_of(priority: int, queues: int) -> int:
    """The queue id, below `queues`, of a message with this priority; -1 for none."""
    return max(min(priority, queues - 1), 0)


class Turns:
    """One receive's way through the queues that hold something for its group."""

    def __init__(self, bands: Bands, queue_ids: Iterable[int], lower_nth: int) -> None:
        self._bands = bands
        self._left = sorted(queue_ids, reverse=True)
        self._lower_nth = lower_nth
        if len(self._left) < 2:
            bands.passed = 0  # nobody was passed over

    def next(self) -> tuple[int, int] | None:
        """A queue, and how many messages it may give at most, 0 for any number. None: all have been looked at."""
        if len(self._left) < 2:
            return (self._left[0], 0) if self._left else None
        before_next = self._lower_nth - 1 - self._bands.passed
        if before_next > 0:
            return self._left[0], before_next
        lower = self._left[1:]
        return next((queue_id for queue_id in lower if queue_id < self._bands.last), lower[0]), 1

    def took(self, queue_id: int, count: int, *, ended: bool) -> None:
        """So many messages came of it. `ended`: it has no more for this receive."""
        if queue_id != self._left[0]:
            if count:
                self._bands.passed, self._bands.last = 0, queue_id
        elif len(self._left) > 1:
            self._bands.passed += count
        if ended:
            self._left.remove(queue_id)
