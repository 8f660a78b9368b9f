"""The ends of leases: what is due is ready again, or renewed, or a dead letter.

The server renews a lease while the push consumer that took it lives. Time here is lease time (rmq/clock.py).
"""

import logging

from rmq.burial import Burial
from rmq.clock import Clock
from rmq.config import Config
from rmq.errors import ClientError
from rmq.groups import Groups
from rmq_store.errors import StoreFull
from rmq_store.journal import Extended, Leased, lease_part
from rmq_store.ledger import Lease, Ledger, Open
from rmq_store.store import Store

log_ = logging.getLogger("rmq.expiry")
GONE_INVISIBLE_MS = 1000  # RocketMQ: messages of a vanished push consumer become visible after 1 s
ANSWER_MS = 10_000  # by then a receive's answer has reached its client, or its connection has broken
_FULL_RETRY_MS = 10_000


class Expiry:
    """What time does to leases. `online`: (group, client) pairs that live."""

    def __init__(
        self,
        store: Store,
        groups: Groups,
        burial: Burial,
        clock: Clock,
        config: Config,
        *,
        online: set[tuple[str, str]],
    ) -> None:
        self._store = store
        self._leases = store.state.leases
        self._groups = groups
        self._burial = burial
        self._clock = clock
        self._config = config
        self._quiet_until_ms = 0  # one warning for all dead letters that have to wait
        self._online = online

    def tick(self, now_ms: int, limit: int) -> None:
        """Ends the leases that are due, at most `limit` of them."""
        for key in self._leases.wheel.pop_due(now_ms, limit):
            lease = self._leases.leases.get(key)
            if lease is not None and lease.due_ms <= now_ms:
                self._due(lease, now_ms)

    def _due(self, lease: Lease, now_ms: int) -> None:
        if not lease.client:
            self.end(lease)
            return
        last_ms = lease.taken_ms + self._config.renew_total_ms_max
        if now_ms < last_ms:
            self._leases.postpone(lease, min(now_ms + self._config.auto_renew_ms, last_ms))
            return
        held = [found for found in lease.held if found.lease is lease]
        retry = self._groups.rules(held[0].ledger.subscription.group).retry
        self._give_up(lease, now_ms + retry.delay_ms(max(1, *(found.attempt for found in held))))

    def _give_up(self, lease: Lease, due_ms: int, asked: int = 0) -> None:
        """Renewed no more, due then; the handles stay valid. Journaled, or a restart would take it up again. `asked`:
        who is given it again until then.
        """
        rows: dict[Ledger, list[tuple[int, int]]] = {}
        for found in lease.held:
            if found.lease is lease:
                name, offset = self._leases.name(found)
                rows.setdefault(name, []).append((offset, found.attempt))
        parts = [lease_part(ledger.queue_id, ledger.next, messages) for ledger, messages in rows.items()]
        home = next(iter(rows)).subscription
        self._store.apply(Leased(home.group, home.topic, lease.sequence, lease.taken_ms, due_ms, "", parts, asked))

    def end(self, lease: Lease) -> None:
        """The lease is over: each of its messages is ready again, or a dead letter. Where that can't be written now
        (disk full, topics_max) the lease stays, and it is tried again.
        """
        held = [found for found in lease.held if found.lease is lease]
        group = held[0].ledger.subscription.group
        attempts_max = self._groups.rules(group).attempts_max
        for found in held:
            if found.attempt < attempts_max:
                self._release(found, attempts_max)
        try:
            for found in held:
                if found.lease is lease:
                    self._burial.bury(found)
        except (StoreFull, ClientError, OSError) as error:
            self._wait_to_bury(lease, group, error)

    def _release(self, found: Open, attempts_max: int) -> None:
        """What was acked behind it in its message group comes again after it, where attempts are left: those acks are
        undone, in the journal.
        """
        self._leases.release(found)
        ledger, offset = self._leases.name(found)
        if ledger.lines is None or not ledger.lines.early:
            return
        subscription, now_ms = ledger.subscription, self._clock.lease_ms()
        for at in ledger.lines.behind(offset):
            behind = ledger.find(at)
            if behind is None:  # parked, as all behind it: never delivered
                return
            if at in ledger.lines.early and behind.attempt < attempts_max:
                sequence = self._store.next_sequence()
                names = subscription.group, subscription.topic, ledger.queue_id, at
                self._store.apply(Extended(*names, sequence, now_ms, now_ms, behind.attempt))
                self._leases.release(behind)

    def _wait_to_bury(self, lease: Lease, group: str, error: Exception) -> None:
        now_ms = self._clock.lease_ms()
        self._leases.postpone(lease, now_ms + _FULL_RETRY_MS)
        if now_ms >= self._quiet_until_ms:
            self._quiet_until_ms = now_ms + _FULL_RETRY_MS
            log_.warning("dead letters wait, those of group %s and maybe of others: %s", group, error)

    # -- clients -----------------------------------------------------------------------------------------------------

    def gone(self, group: str, client: str) -> None:
        """A push consumer vanished: what it holds becomes visible after a second."""
        self._online.discard((group, client))
        due_ms = self._clock.lease_ms() + GONE_INVISIBLE_MS
        for lease in list(self._leases.by_client.get((group, client), {}).values()):
            self._give_up(lease, due_ms)

    def rearm(self, *, crashed: bool) -> list[tuple[str, str]]:
        """After a start: every lease gets a timer. Returns the (group, client) pairs that we had renewed leases for."""
        now_ms = self._clock.lease_ms()
        self._leases.rearm(lambda lease: self._due_after_start(lease, now_ms))
        self._online.update(self._leases.by_client)
        clients = list(self._leases.by_client)
        if crashed:
            self._doubt_last_answers(now_ms)
        return clients

    def _doubt_last_answers(self, now_ms: int) -> None:
        """A lease is written before its answer leaves, so a crash may have cut the answer off, and the client that
        lives on does not know what it has: of the last receives nothing is renewed any more.
        """
        last_ms = max((lease.taken_ms for lease in self._leases.leases.values()), default=0)
        for lease in list(self._leases.leases.values()):
            if lease.client and lease.taken_ms > last_ms - ANSWER_MS:
                self._give_up(lease, now_ms + self._config.auto_renew_ms, lease.asked)

    def _due_after_start(self, lease: Lease, now_ms: int) -> int:
        """Renewed: on, until its client proves silent. Others: as stored, at most the invisible duration from now."""
        if lease.client:
            return now_ms + self._config.auto_renew_ms
        return min(lease.due_ms, now_ms + max(lease.due_ms - lease.taken_ms, 0))
