"""Pop consumption, second half: what a client says of a delivery: acknowledged, invisible until another time, given up.

Answers are given when they are safe. Time here is lease time (rmq/clock.py).
"""

from collections.abc import Iterator, Mapping, Sequence

from rmq.burial import Burial
from rmq.clock import Clock
from rmq.errors import ClientError, Code
from rmq.expiry import Expiry
from rmq.handle import Handle, HandleMakers
from rmq.port import Answer
from rmq.traffic import Traffic
from rmq_store.journal import Acked, Extended
from rmq_store.ledger import Ledger, Open
from rmq_store.lines import Lines
from rmq_store.store import Store


class Settling:
    """The verbs that name a delivery by its receipt handle."""

    def __init__(
        self, store: Store, makers: HandleMakers, burial: Burial, expiry: Expiry, clock: Clock, traffic: Traffic
    ) -> None:
        self._store = store
        self._traffic = traffic
        self._leases = store.state.leases
        self._makers = makers
        self._burial = burial
        self._expiry = expiry
        self._clock = clock

    def ack(self, group: str, topic: str, handles: Sequence[str]) -> Answer[Sequence[ClientError | None]]:
        """One entry per handle. Acking the same delivery again is OK until its lease would have ended."""
        results: list[ClientError | None] = []
        answer: Sequence[ClientError | None] = results
        done: dict[int, dict[int, None]] = {}
        for text in handles:
            try:
                handle = self._makers.of(group, topic).parse(text)
                if self._find(group, topic, handle, settled_ok=True) is not None:
                    done.setdefault(handle.queue_id, {})[handle.offset] = None
                results.append(None)
            except ClientError as error:
                results.append(error)
        if done:
            for queue_id, offsets in done.items():
                self._tell_what_is_over(self._leases.subscriptions[(group, topic)].ledger(queue_id), offsets)
            self._store.apply(Acked(group, topic, [(queue_id, list(offsets)) for queue_id, offsets in done.items()]))
            self._traffic.of(self._leases.subscriptions[(group, topic)]).acked += sum(map(len, done.values()))
        return self._store.when_safe(answer) if None in results else answer

    def _tell_what_is_over(self, ledger: Ledger, offsets: Mapping[int, object]) -> None:
        """These are acked behind others of their message groups whose delivery is over. A start that reads the log must
        know that it was over by then: one that ends later undoes the acks behind it.
        """
        if ledger.lines is None:
            return
        subscription = ledger.subscription
        over = {at: found for offset in offsets for at, found in _over_before(ledger, ledger.lines, offset)}
        for at, found in over.items():
            if at not in offsets:
                name = subscription.group, subscription.topic, ledger.queue_id, at
                self._store.apply(Extended(*name, 0, 0, 0, found.attempt))

    def change_invisible(self, group: str, topic: str, text: str, invisible_ms: int, *, suspend: bool) -> Answer[str]:
        """See BrokerPort."""
        maker = self._makers.of(group, topic)
        handle = maker.parse(text)
        found = self._find(group, topic, handle)
        assert found is not None
        now_ms = self._clock.lease_ms()
        due_ms = now_ms + invisible_ms
        sequence = self._store.next_sequence()
        attempt = found.attempt - (suspend and not handle.suspended)
        self._store.apply(Extended(group, topic, handle.queue_id, handle.offset, sequence, now_ms, due_ms, attempt))
        if invisible_ms == 0 and found.lease is not None:
            self._expiry.end(found.lease)
        suspended = suspend or handle.suspended
        changed = handle._replace(sequence=sequence, until_ms=due_ms, suspended=suspended)
        return self._store.when_safe(maker.text(changed))

    def dead_letter(self, group: str, topic: str, text: str) -> Answer[None]:
        """See BrokerPort."""
        found = self._find(group, topic, self._makers.of(group, topic).parse(text))
        assert found is not None
        self._burial.bury(found)
        return self._store.when_safe(None)

    def _find(self, group: str, topic: str, handle: Handle, *, settled_ok: bool = False) -> Open | None:
        """The leased message of a handle; None for one that is settled already. Raises INVALID_RECEIPT_HANDLE."""
        subscription = self._leases.subscriptions.get((group, topic))
        ledger = subscription.ledgers.get(handle.queue_id) if subscription else None
        found = ledger.find(handle.offset) if ledger else None
        if found is not None and found.lease is not None and found.lease.sequence == handle.sequence:
            return found
        if settled_ok and ledger is not None and _is_acked(ledger, handle) and self._clock.lease_ms() < handle.until_ms:
            return None
        raise ClientError(
            Code.INVALID_RECEIPT_HANDLE, "receipt handle is expired: the message was delivered again, or is settled"
        )


def _over_before(ledger: Ledger, lines: Lines, offset: int) -> Iterator[tuple[int, Open]]:
    """Those of its message group before it that nobody has, and that are not acked: a few, as they were delivered."""
    key = ledger.key(offset)
    for index in range(lines.length(key) if key is not None else 0):
        assert key is not None
        at = lines.at(key, index)
        if at >= offset:
            return
        found = ledger.find(at)
        if found is not None and found.lease is None and at not in lines.early:
            yield at, found


def _is_acked(ledger: Ledger, handle: Handle) -> bool:
    """It may have been, as far as the table knows: for good, or behind others of its message group."""
    if ledger.find(handle.offset) is None:
        return handle.offset < ledger.next
    return ledger.lines is not None and ledger.lines.early.get(handle.offset) == handle.sequence
