"""What a replay does about damaged records: a lease that was in one must not settle its messages by its absence.

    journal    leased 5 to 7, next 8    [damaged: leased 8 and 9, next 10]    leased 10, next 11

A cursor that jumps says: what lies between was taken by someone. Behind damage that is not known, so each place is in
doubt until its next jump, and what that passes over is open again: delivered twice at most, never lost. Acks that come
before it are remembered. (A filter passes over messages in the same way: those come once more, and are passed again.)
"""

from rmq_store.consumequeue import FILLER_SIZE
from rmq_store.journal import Acked, Change, Cursors, Leased
from rmq_store.leases import Ledger
from rmq_store.state import State


class Doubt:
    """Sees each change before `state` applies it."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._active = False
        self._clear: set[Ledger] = set()
        self._acked: dict[Ledger, set[int]] = {}

    def begin(self) -> None:
        """Records were damaged here: every place is in doubt."""
        self._active = True
        self._clear.clear()

    def before(self, change: Change) -> None:
        """A change that the log has behind damage, or before any."""
        if not self._active or not isinstance(change, Acked | Cursors | Leased):
            return
        subscription = self._state.leases.subscription(change.group, change.topic)
        if isinstance(change, Acked):
            for queue_id, offsets in change.parts:
                ledger = subscription.ledger(queue_id)
                self._acked.setdefault(ledger, set()).update(offset for offset in offsets if offset >= ledger.next)
        elif isinstance(change, Cursors):
            for queue_id, next_offset in change.nexts:
                self._jump(subscription.ledger(queue_id), next_offset)
        else:
            for queue_id, next_offset, steps, _ in change.parts:
                ledger = subscription.ledger(queue_id)
                self._jump(ledger, _first_new(ledger.next, next_offset, steps))

    def _jump(self, ledger: Ledger, to: int) -> None:
        if ledger in self._clear:
            return
        self._clear.add(ledger)
        acked = self._acked.pop(ledger, set())
        queue = self._state.queue(ledger.subscription.topic, ledger.queue_id)
        if queue is None:
            return
        for offset in range(max(ledger.next, queue.first_offset), min(to, queue.max_offset)):
            if offset not in acked and ledger.find(offset) is None and queue.read(offset, 1)[0].size != FILLER_SIZE:
                self._state.leases.reopen(ledger, offset)


def _first_new(known: int, next_offset: int, steps: list[int]) -> int:
    """The first offset of a lease that lies at or behind a cursor; where it goes on, if none does."""
    offset = 0
    for step in steps:
        offset += step
        if offset >= known:
            return offset
    return next_offset
