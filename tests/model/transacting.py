"""The model learns transactions: begun, ended one way or the other, again and again, checked; all else is pulling.py's.

Held besides: a half message is nowhere; committed it is there like any other, once; rolled back it never is; the same
end again is OK for ever, the other one is refused; each check is sent at its time, the last one parks; no crash brings
an end back, and what a crash cuts off is ended or not.
"""

import dataclasses
from collections import Counter
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from rmq import message as m
from rmq import transactionid
from rmq.errors import ClientError, Code
from rmq.message import Delivered
from rmq.transaction import ID
from rmq_store.outcomes import COMMITTED, ROLLED_BACK
from tests.model.model import TAGS, TOPICS, Sent, to_be_found
from tests.model.pulling import PullMachine
from tests.rmq.rig import outgoing

CHECK_MS, BACKOFF_MS_MAX, CHECKS_MAX = 6_000, 60_000, 15
OUTCOMES = {True: COMMITTED, False: ROLLED_BACK}
RECOVERY_S = st.sampled_from(("", "1", "100"))


@dataclasses.dataclass
class Begun:
    """A transaction as its producer knows it. `due_ms` 0: parked. `commit`: how it ended, None: it has not."""

    name: str
    topic: str
    tag: str
    queue_id: int
    text: str
    due_ms: int
    checks: int = 0
    commit: bool | None = None

    @property
    def number(self) -> int:
        return transactionid.parse(self.text, self.topic)


class Clients:
    """A ClientPort with a producer of every topic, which answers no check; and what consumers were told."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.unsubscribed: Counter[tuple[str, str]] = Counter()  # client and lite topic

    def check_transaction(self, topic: str, message: Delivered, transaction_id: str) -> bool:
        assert topic in TOPICS
        self.asked[f"{transaction_id} {message.attempt}"] += 1
        return True

    def verify(self, group: str, client_id: str, message: Delivered) -> Any:
        raise NotImplementedError

    def stack(self, group: str, client_id: str) -> Any:
        raise NotImplementedError

    def unsubscribe_lite(self, client_id: str, lite_topic: str) -> None:
        self.unsubscribed[client_id, lite_topic] += 1


class TransactMachine(PullMachine):
    """`begun`: all that ever were, those that ended too."""

    open_max: ClassVar[int] = 30

    def __init__(self) -> None:
        super().__init__()
        self.clients = Clients()
        self.rig.broker.asks(self.clients)
        self.begun: list[Begun] = []
        self.begins_cut_off: dict[str, str] = {}  # begins that may or may not be stored: message id and name
        self.perhaps_ended: list[tuple[Begun, bool]] = []

    def open(self) -> list[Begun]:
        """Those that have not ended."""
        return [one for one in self.begun if one.commit is None]

    @precondition(lambda self: len(self.open()) < self.open_max)
    @rule(topic=st.sampled_from(TOPICS), tags=st.lists(st.sampled_from(TAGS), min_size=1, max_size=3), after=RECOVERY_S)
    def begin(self, topic: str, tags: list[str], after: str) -> None:
        """One call with as many transactions as there are tags."""
        names = [f"t{len(self.begun) + n}" for n in range(len(tags))]
        halves = [_half(name, topic, tag, after) for name, tag in zip(names, tags, strict=True)]
        due_ms = self._now_ms() + (int(after) * 1000 if after else CHECK_MS)
        for name, tag, result in zip(names, tags, self.rig.send(*halves), strict=True):
            self.begun.append(Begun(name, topic, tag, result.queue_id, result.transaction_id, due_ms))
        self._count("begun", len(names))

    @precondition(lambda self: self.begun)
    @rule(pick=st.integers(0, 99), commit=st.sampled_from((True, False, None)))
    def end(self, pick: int, commit: bool | None) -> None:
        """One that lives, or has ended: this way, or the other one."""
        one = self.begun[-1 - pick % len(self.begun)]
        if commit is None or one.commit in (None, commit):
            self.rig.wait(self.rig.broker.end_transaction(one.topic, one.text, commit))
            if one.commit is None and commit is not None:
                self._ended(one, commit=commit)
            return
        with pytest.raises(ClientError) as caught:
            self.rig.broker.end_transaction(one.topic, one.text, commit)
        assert caught.value.code is Code.PRECONDITION_FAILED
        self._count("other ends refused")

    def _ended(self, one: Begun, *, commit: bool) -> None:
        one.commit = commit
        self._count("committed" if commit else "rolled back")
        if commit and one.name not in self.sent:
            queue = self.rig.broker._store.state.queue(one.topic, one.queue_id)
            assert queue is not None
            self._stored(one.name, Sent(one.topic, one.tag, one.queue_id, queue.max_offset - 1))

    # -- time --------------------------------------------------------------------------------------------------------

    def _expire(self) -> None:
        """Checks are sent, each once; what was checked often enough is parked."""
        super()._expire()
        broker, now_ms, expected = self.rig.broker, self._now_ms(), Counter[str]()
        broker._transactions.hurry()  # a test's clock may move by less than the pace of checks
        broker.tick()
        for one in self.open():
            if not 0 < one.due_ms <= now_ms:
                continue
            if one.checks == CHECKS_MAX:
                one.due_ms = 0
                self._count("parked")
                continue
            one.checks += 1
            expected[f"{one.text} {one.checks}"] += 1
            one.due_ms = now_ms + min(CHECK_MS << one.checks - 1, BACKOFF_MS_MAX)
        assert self.clients.asked == expected
        self._count("checked", len(expected))
        self.clients.asked.clear()
        halves = broker._store.state.halves
        assert len(halves) == len(self.open())
        assert len(halves.parked) == sum(one.due_ms == 0 for one in self.open())

    # -- verbs that a crash cuts off ---------------------------------------------------------------------------------

    def _begin_send(self, pick: int) -> None:
        if pick % 4 != 1:
            super()._begin_send(pick)
            return
        name = self._next_name()
        self.begins_cut_off[f"id-{name}"] = name
        self.rig.broker.send([_half(name, TOPICS[pick % 2], "a", "")])

    def _begin_ack(self, pick: int) -> None:
        """An end, in a quarter of the cases; one that is under way already is not ended the other way."""
        left = [one for one in self.open() if all(one is not other for other, _ in self.perhaps_ended)]
        if pick % 4 != 1 or not left:
            super()._begin_ack(pick)
            return
        one, commit = left[pick % len(left)], pick % 8 == 1
        if commit:
            self.unanswered[one.name] = to_be_found(one.topic, one.tag)
        self.rig.broker.end_transaction(one.topic, one.text, commit)
        self.perhaps_ended.append((one, commit))

    def _resolve(self) -> None:
        super()._resolve()
        self.rig.broker.asks(self.clients)
        self.clients.asked.clear()
        halves = self.rig.broker._store.state.halves
        for one, commit in self.perhaps_ended:
            if halves.get(one.number) is None:
                assert halves.outcomes.get(one.number) == OUTCOMES[commit]
                assert (one.name in self.sent) is commit
                self._ended(one, commit=commit)
                self._count("ends found")
        self._find_begun()
        for one in self.open():
            half = halves.get(one.number)
            assert half is not None, f"ended by nobody: {one}"
            assert half.checks <= one.checks
            one.checks, one.due_ms = half.checks, half.due_ms
        self.perhaps_ended.clear()
        self.begins_cut_off.clear()

    def _find_begun(self) -> None:
        halves, known = self.rig.broker._store.state.halves, {one.number for one in self.begun}
        for first in [first for first in halves.firsts() if first not in known]:
            half = halves.get(first)
            kept = self.rig.broker._transactions.read(half.number) if half is not None else None
            assert half is not None
            assert kept is not None
            properties = kept.decode_properties()
            name, queue_id = self.begins_cut_off[properties[m.UNIQ_KEY]], int(properties["REAL_QID"])
            self.begun.append(Begun(name, half.topic, "a", queue_id, properties[ID], half.due_ms))
            self._count("begins found")

    def _drain(self) -> None:
        """Half of what is open is committed, and comes."""
        for number, one in enumerate(self.open()):
            self.rig.wait(self.rig.broker.end_transaction(one.topic, one.text, number % 2 == 0))
            self._ended(one, commit=number % 2 == 0)
        super()._drain()


def _half(name: str, topic: str, tag: str, after_s: str) -> m.Outgoing:
    recovery = {m.CHECK_IMMUNITY_TIME_IN_SECONDS: after_s} if after_s else {}
    return outgoing(name, topic=topic, tag=tag, **{m.TRAN_MSG: "true", **recovery})
