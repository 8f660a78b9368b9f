"""Transactions for people: which have not ended, and how to end one. A list looks at a bounded number of them."""

from collections.abc import Iterator
from itertools import islice

from rmq.adminport import Kept, Transaction, TransactionState
from rmq.browse import as_kept
from rmq.errors import ClientError, Code
from rmq.port import Answer
from rmq.transaction import OWN, Transactions
from rmq_store.halves import PARKED_MS, Half
from rmq_store.store import Store
from rmq_store.timers import REAL_QUEUE

LOOKED_AT_MAX = 10_000  # half messages that a list of one topic's looks at


class TransactionViews:
    """Over the store's table of half messages."""

    def __init__(self, store: Store, transactions: Transactions) -> None:
        self._halves = store.state.halves
        self._transactions = transactions

    def all(self, topic: str, limit: int, *, parked: bool) -> Iterator[Transaction]:
        """See AdminPort."""
        firsts = iter(self._halves.parked) if parked else self._halves.firsts()
        for first in list(islice(firsts, LOOKED_AT_MAX if topic else limit)):
            half = self._halves.get(first)
            if half is not None and topic in ("", half.topic):
                yield self._transaction(first, half)
                limit -= 1
                if not limit:
                    return

    def one(self, number: int) -> Transaction:
        """See AdminPort."""
        return self._transaction(number, self._require(number))

    def _require(self, number: int) -> Half:
        half = self._halves.get(number)
        if half is None:
            raise ClientError(Code.NOT_FOUND, f"there is no transaction {number} that has not ended")
        return half

    def _transaction(self, first: int, half: Half) -> Transaction:
        """One whose record is lost can be rolled back still: it has no message."""
        state = TransactionState.CHECKED
        if half.due_ms == PARKED_MS:
            state = TransactionState.PARKED
        elif self._transactions.waits(first, half):
            state = TransactionState.WAITING
        due_ms = half.due_ms if state is TransactionState.CHECKED else 0
        return Transaction(first, half.topic, state, half.checks, due_ms, self._message(half))

    def _message(self, half: Half) -> Kept | None:
        kept = self._transactions.read(half.number)
        if kept is None:
            return None
        properties = kept.decode_properties()
        message = as_kept(kept, properties)
        message.topic, message.queue_id = half.topic, int(properties.get(REAL_QUEUE) or 0)
        for name in OWN:
            properties.pop(name, None)
        return message

    def end(self, number: int, *, commit: bool) -> Answer[None]:
        """See AdminPort."""
        self._require(number)
        return self._transactions.resolve(number, commit=commit)
