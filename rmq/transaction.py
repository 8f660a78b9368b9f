"""Transactional messages: stored under the half topic until their producer says how the transaction ended.

    send --> half record --commit: the real message, RMQ_ORIGIN names the half message--> visible to every group
             |   ^ |------rollback: journal entry HalfEnded--> never visible
             |---| unknown, or nobody there to ask: asked again later, `transaction_checks_max` times, then parked

The real message is what ends its half message, so no crash can fall between: both outcomes at once is impossible. A
check is sent to a live producer of the topic; where there is none the half message waits for the next one that comes,
and that does not count. Parked ones wait for their producer or an operator, as long as it takes. An end is answered
when it is safe; the same again is OK as long as it is remembered (rmq_store/outcomes.py).
"""

import logging
from collections import deque
from collections.abc import Collection, Sequence

from rmq import hidden, transactionid
from rmq import message as m
from rmq.clock import Clock
from rmq.config import Config
from rmq.errors import ClientError, Code
from rmq.message import Delivered, MessageType, Outgoing, SendResult
from rmq.port import Answer, ClientPort
from rmq.topics import Topics
from rmq.traffic import Traffic
from rmq_store import halves, record
from rmq_store.halves import PARKED_MS, Half
from rmq_store.journal import HalfChecked, HalfEnded
from rmq_store.outcomes import COMMITTED, UNKNOWN
from rmq_store.record import SYS_FLAG_COMMIT, Draft, Record
from rmq_store.state import Origin
from rmq_store.store import Store
from rmq_store.timers import REAL_QUEUE

log_ = logging.getLogger("rmq.transaction")
TRANSACTION = MessageType.TRANSACTION
ID = "__transactionId__"
OWN = (halves.CHECK, ID, m.TRAN_MSG)  # what a half message's record has and the real message has not
_ID = ID.encode()
_RECOVERY_S = m.CHECK_IMMUNITY_TIME_IN_SECONDS.encode()
_PACE_MS = 50  # from a turn that sent checks to the next: with 50 a turn at most 1,000 a second
_RETRY_MS = 1000  # where the disk cannot be read


class Transactions:
    """The verbs of transactional messages, over the store's table of half messages.

    `clients`: who is asked; nobody until somebody is put there.
    """

    def __init__(self, store: Store, topics: Topics, clock: Clock, config: Config, traffic: Traffic) -> None:
        self._store = store
        self._halves = store.state.halves
        self._topics = topics
        self._clock = clock
        self._config = config
        self._traffic = traffic
        self.clients: ClientPort | None = None
        self._waiting: dict[str, dict[int, None]] = {}  # by topic: due, and no producer was there
        self._woken: deque[int] = deque()  # of those: a producer came
        self._paced_until_ms = 0

    # -- send --------------------------------------------------------------------------------------------------------

    def send(self, topic: str, messages: Sequence[Outgoing], drafts: Sequence[tuple[Draft, int]]) -> list[SendResult]:
        """Appends half messages of one topic, all or none; each is a transaction of its own.

        Raises TOO_MANY_REQUESTS at transactions_max, StoreFull.
        """
        limit = self._config.transactions_max
        if len(self._halves) + len(messages) > limit:
            raise ClientError(
                Code.TOO_MANY_REQUESTS,
                f"transactions_max = {limit} transactions have not ended: end some, see `rmq transaction list`",
            )
        number = self._store.own_queue(halves.TOPIC).max_offset
        wall_ms, now_ms = self._clock.wall_ms(), self._clock.lease_ms()
        rows, results = [], []
        for message, (draft, tags_code) in zip(messages, drafts, strict=True):
            due_ms = now_ms + self._first_check_ms(message)
            text = transactionid.make(number, wall_ms, topic)
            own = record.encode_properties({halves.CHECK: halves.check_text(due_ms, 0), ID: text})
            rows.append((hidden.hide(draft, halves.TOPIC_BYTES, own), tags_code, due_ms))
            results.append(SendResult(draft.queue_id, number, transaction_id=text))
            number += 1
        self._store.append_halves(rows, topic)
        return results

    def _first_check_ms(self, message: Outgoing) -> int:
        """From its sending on. What the message itself asks for has been checked by the front end."""
        asked_s = record.property_bytes(message.properties, _RECOVERY_S)
        return int(asked_s) * 1000 if asked_s.isdigit() and int(asked_s) else self._config.transaction_check_ms

    # -- end ---------------------------------------------------------------------------------------------------------

    def end(self, topic: str, text: str, commit: bool | None) -> Answer[None]:
        """See BrokerPort. Raises StoreFull: nothing happened then."""
        first = transactionid.parse(text, topic)
        half = self._halves.get(first)
        kept = self.read(half.number if half is not None else first)
        if kept is not None and record.property_bytes(kept.properties, _ID) != text.encode():
            raise _forgotten()
        if half is not None:
            return None if commit is None else self._resolve(first, half, kept, commit=commit)
        outcome = self._halves.outcomes.get(first)
        if outcome == UNKNOWN:
            raise _forgotten()
        if commit is not None and commit != (outcome == COMMITTED):
            ended = "committed" if outcome == COMMITTED else "rolled back"
            raise ClientError(Code.PRECONDITION_FAILED, f"the transaction was {ended} already, and stays so")
        return self._store.when_safe(None)

    def resolve(self, first: int, *, commit: bool) -> Answer[None]:
        """Ends a transaction that lives; there once it is safe. Raises NOT_FOUND: it cannot be committed; StoreFull."""
        half = self._halves.get(first)
        assert half is not None
        return self._resolve(first, half, self.read(half.number), commit=commit)

    def _resolve(self, first: int, half: Half, kept: Record | None, *, commit: bool) -> Answer[None]:
        if commit:
            self._commit(first, half, kept)
        else:
            self._store.apply(HalfEnded(first))
        self._traffic.ended(half.topic, committed=commit)
        self._waiting.get(half.topic, {}).pop(first, None)
        return self._store.when_safe(None)

    def _commit(self, first: int, half: Half, kept: Record | None) -> None:
        """Crash before the append is written: it lives on, and its producer is asked. After: it is committed."""
        topic = self._topics.find(half.topic)
        if kept is None or topic is None:
            what = "its record cannot be read" if kept is None else f"topic {half.topic} was deleted"
            raise ClientError(Code.NOT_FOUND, f"the transaction cannot be committed, only rolled back: {what}")
        properties = kept.decode_properties()
        queue = topic.queues[int(properties[REAL_QUEUE]) % len(topic.queues)]
        origin = Origin(kept.position, halves.TOPIC, 0, first, "")
        draft, tags_code = hidden.reveal(kept, properties, topic, queue.queue_id, origin, OWN)
        draft.sys_flag |= SYS_FLAG_COMMIT
        draft.prepared_position = kept.position
        self._store.append(topic, queue, draft, tags_code, origin)

    def read(self, number: int) -> Record | None:
        """A half message's record, by its current number; None where it is lost or gone."""
        return hidden.read(self._store, halves.TOPIC, number)

    # -- agenda ------------------------------------------------------------------------------------------------------

    def next_due_ms(self) -> int | None:
        """Lease time; None where nobody is to be asked."""
        due_ms = self._clock.lease_ms() if self._woken else self._halves.due.next_due_ms()
        return None if due_ms is None else max(due_ms, self._paced_until_ms)

    def tick(self, limit: int) -> None:
        """Asks about, or parks, what is due: at most `limit` transactions."""
        now_ms = self._clock.lease_ms()
        if self._paced_until_ms > now_ms:
            return
        due = [self._woken.popleft() for _ in range(min(limit, len(self._woken)))]
        due += self._halves.due.pop_due(now_ms, limit - len(due))
        for first in due:
            half = self._halves.get(first)
            if half is not None:
                self._check(first, half, now_ms)

    def hurry(self) -> None:
        """Somebody moved a ManualClock, and wants all that is due to be done."""
        self._paced_until_ms = 0

    def producing(self, topics: Collection[str]) -> None:
        """A producer of these topics is there: it is asked about what waited for one."""
        for topic in topics:
            self._woken.extend(self._waiting.pop(topic, ()))

    def waits(self, first: int, half: Half) -> bool:
        """Its check is due, and no producer is there."""
        return first in self._waiting.get(half.topic, ())

    def _check(self, first: int, half: Half, now_ms: int) -> None:
        if half.checks >= self._config.transaction_checks_max:
            log_.warning(
                "transaction %d of topic %s has not ended after %d checks: it is parked until its producer ends it, or "
                "`rmq transaction commit|rollback %d`", first, half.topic, half.checks, first
            )  # fmt: skip
            self._store.apply(HalfChecked(first, PARKED_MS, half.checks))
            return
        try:
            asked = self._ask(first, half)
        except OSError as error:
            log_.warning("a transaction cannot be checked now: %s", error)
            self._store.apply(HalfChecked(first, now_ms + _RETRY_MS, half.checks))
            return
        if asked:
            self._paced_until_ms = now_ms + _PACE_MS
            self._traffic.checked(half.topic)
            checks = half.checks + 1
            self._store.apply(HalfChecked(first, now_ms + self._backoff_ms(checks), checks))
        elif self._halves.get(first) is not None:
            self._waiting.setdefault(half.topic, {})[first] = None

    def _backoff_ms(self, checks: int) -> int:
        """Doubled with each check."""
        return min(self._config.transaction_check_ms << checks - 1, self._config.transaction_backoff_ms_max)

    def _ask(self, first: int, half: Half) -> bool:
        """False where no producer is there, or nothing is left to ask about."""
        kept = self.read(half.number)
        if kept is None or self._topics.find(half.topic) is None:
            why = "its record cannot be read" if kept is None else "its topic was deleted"
            log_.error("transaction %d of topic %s is rolled back: %s", first, half.topic, why)
            self._store.apply(HalfEnded(first))
            return False
        properties = kept.decode_properties()
        if self.clients is None:
            return False
        message = _shown(kept, properties, half)
        return self.clients.check_transaction(half.topic, message, properties.get(ID, ""))


def _shown(kept: Record, properties: dict[str, str], half: Half) -> Delivered:
    """As the producer sent it; `attempt`: which check it is."""
    return Delivered(
        half.topic, int(properties[REAL_QUEUE]), half.number, kept.body, properties, kept.sys_flag, kept.born_ms,
        record.host_text(kept.born_host), kept.store_ms, f"{record.host_text(kept.store_host)}:{kept.store_port}",
        half.checks + 1, "",
    )  # fmt: skip


def _forgotten() -> ClientError:
    return ClientError(
        Code.INVALID_TRANSACTION_ID, "there is no such transaction: it ended long ago, or was another store's"
    )
