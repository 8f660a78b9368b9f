"""A broker in this process whose clients write down all they do: what plants are shown on, and a checker's first proof.

Owns a Rig over a disk that can lose power, a clock that stands still, and the History. Promises: a verb is recorded as
OK only if its answer was there, FAILED if it was refused, UNKNOWN if it had none when it was left. Judges nothing.
"""

import asyncio
import hashlib
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from rmq import message as m
from rmq.config import GroupSetting
from rmq.errors import ClientError
from rmq.message import Delivered
from rmq.port import Answer
from rmq_store.record import decode_properties
from tests.history.checker import Problem, check
from tests.history.history import DLQ, Ack, Bury, Change, Delivery, End, History, Message, Outcome, Recall, Send
from tests.rmq.rig import INVISIBLE_MS, SMALL, TOPIC, Rig, config, outgoing, request
from tests.sim.disk import SimDisk

GROUPS = ("billing", "audit")
AUDITOR = "auditor"
ATTEMPTS_MAX = 3
DRAIN_ROUNDS = 8

T = TypeVar("T")
Held = tuple[str, Delivered]  # group, message


def message_of(body: bytes, properties: dict[str, str]) -> Message:
    """What the checker compares."""
    digest = hashlib.blake2b(body, digest_size=8).digest()
    priority = int(properties.get(m.PRIORITY, -1))
    return Message(digest, properties.get(m.TAGS, ""), properties.get(m.KEYS, ""), priority=priority)


class Stage:
    """Durable, and without a checkpoint: what a new server knows it has from the log."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.disk = SimDisk()
        data = Path(self._folder.name) / "data"  # of the lock and the checkpoint
        data.mkdir()
        groups = {group: GroupSetting(ATTEMPTS_MAX, (1_000,)) for group in GROUPS}
        settings = config(
            **SMALL, flush="durable", topic_queues=1, groups=groups, checkpoint_interval_ms=3_600_000,
            data=str(data),
        )  # fmt: skip
        self.rig = Rig(settings, disk=self.disk)
        self.history = History(GROUPS, attempts_max=ATTEMPTS_MAX)
        self._calls = itertools.count()
        self._ranks: dict[str, int] = {}
        self._left: list[asyncio.Future[object]] = []  # answers that nobody waits for any more

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.disk.faults.may_sync.set()
        self.rig.close()
        self._forget()
        self._folder.cleanup()

    def _now_ms(self) -> int:
        return self.rig.clock.wall_ms()

    def _begin_ms(self) -> int:
        """Each operation has a time of its own."""
        self.rig.clock.advance(ms=1)
        return self._now_ms()

    def _answer(self, answer: Answer[T]) -> T:
        """No turn is run for what is answered at once: a crash may come before its end."""
        result = self.rig.until(answer) if isinstance(answer, asyncio.Future) else answer
        self.rig.clock.advance(ms=1)
        return result

    # -- verbs -------------------------------------------------------------------------------------------------------

    def send(self, *keys: str) -> None:
        """One message a key, in one call; its answer is waited for."""
        began_ms = self._begin_ms()
        self._answer(self.rig.broker.send([self._outgoing(key) for key in keys]))
        self._sent(keys, began_ms, Outcome.OK)

    def prioritize(self, priorities: int) -> None:
        """The topic has so many from now on."""
        self._answer(self.rig.broker.admin.put_topic(TOPIC, m.MessageType.PRIORITY, priorities))
        self.history.priorities, self.history.lower_nth = priorities, self.rig.config.lower_priority_nth

    def send_ranked(self, **ranks: int) -> None:
        """As send; each key has a priority."""
        self._ranks.update(ranks)
        self.send(*ranks)

    def send_and_leave(self, *keys: str) -> None:
        """The sender does not live to see the answer."""
        answer = self.rig.broker.send([self._outgoing(key) for key in keys])
        self._sent(keys, self._now_ms(), Outcome.UNKNOWN)
        if isinstance(answer, asyncio.Future):
            self._left.append(answer)  # type: ignore[arg-type]  # Future is invariant; only its error is read
        self.rig.turn()

    def send_later(self, key: str, delay_ms: int) -> str:
        """One delayed message, not to come before so long from now; its recall handle."""
        began_ms = self._begin_ms()
        due_ms = began_ms + delay_ms
        (result,) = self._answer(self.rig.broker.send([self._outgoing(key, due_ms)]))
        self._sent([key], began_ms, Outcome.OK, due_ms)
        return result.recall_handle

    def recall(self, key: str, handle: str) -> None:
        """Takes it back, before its time."""
        began_ms = self._begin_ms()
        assert self._answer(self.rig.broker.recall(TOPIC, handle)) == key
        self.history.recalls.append(Recall(key, began_ms, self._now_ms(), Outcome.OK))

    def _outgoing(self, key: str, due_ms: int = 0) -> m.Outgoing:
        later = {m.TIMER_DELIVER_MS: str(due_ms)} if due_ms else {}
        rank = {m.PRIORITY: str(self._ranks[key])} if key in self._ranks else {}
        return outgoing(f"{key} body", tag="a", **{m.UNIQ_KEY: key, m.KEYS: f"{key} all"}, **later, **rank)

    def _sent(self, keys: Sequence[str], began_ms: int, outcome: Outcome, due_ms: int = 0) -> None:
        for key in keys:
            sent = self._outgoing(key)
            message = message_of(sent.body, decode_properties(sent.properties))
            self.history.sends.append(Send(key, TOPIC, message, began_ms, self._now_ms(), outcome, due_ms))

    def begin(self, key: str) -> str:
        """A half message; its transaction's id."""
        began_ms = self._begin_ms()
        sent = outgoing(f"{key} body", tag="a", **{m.UNIQ_KEY: key, m.KEYS: f"{key} all", m.TRAN_MSG: "true"})
        (result,) = self._answer(self.rig.broker.send([sent]))
        message = message_of(sent.body, decode_properties(sent.properties))
        self.history.sends.append(Send(key, TOPIC, message, began_ms, self._now_ms(), Outcome.OK, half=True))
        return result.transaction_id

    def end(self, key: str, transaction_id: str, *, commit: bool) -> None:
        """It may be refused."""
        began_ms, outcome = self._begin_ms(), Outcome.OK
        try:
            self._answer(self.rig.broker.end_transaction(TOPIC, transaction_id, commit))
        except ClientError:
            outcome = Outcome.FAILED
        self.history.ends.append(End(key, commit, began_ms, self._now_ms(), outcome))

    def receive(self, group: str, topic: str = TOPIC) -> list[Held]:
        """At most 32, without waiting."""
        began_ms, call = self._begin_ms(), next(self._calls)
        messages = self._answer(self.rig.broker.receive(request(topic, group, batch=32)))
        self.rig.turn()
        for message in messages:
            place = (message.topic, message.queue_id, message.queue_offset)
            times = (began_ms, began_ms, self._now_ms(), INVISIBLE_MS)
            key, seen = message.properties[m.UNIQ_KEY], message_of(message.body, message.properties)
            self.history.deliveries.append(Delivery(group, key, seen, place, call, message.attempt, *times))
        return [(group, message) for message in messages]

    def ack(self, *held: Held) -> None:
        """One call a message."""
        for group, message in held:
            began_ms = self._begin_ms()
            (error,) = self._answer(self.rig.broker.ack(group, message.topic, [message.handle]))
            outcome = Outcome.FAILED if error else Outcome.OK
            key = message.properties[m.UNIQ_KEY]
            if not message.topic.startswith(DLQ):
                self.history.acks.append(Ack(group, key, began_ms, self._now_ms(), outcome))

    def change(self, held: Held, invisible_ms: int) -> None:
        """Of one message; its new handle is thrown away."""
        group, message = held
        began_ms = self._begin_ms()
        self._answer(
            self.rig.broker.change_invisible(group, message.topic, message.handle, invisible_ms, suspend=False)
        )
        key = message.properties[m.UNIQ_KEY]
        self.history.changes.append(Change(group, key, invisible_ms, began_ms, self._now_ms(), Outcome.OK))

    def bury(self, held: Held) -> None:
        """Of one message."""
        group, message = held
        began_ms = self._begin_ms()
        self._answer(self.rig.broker.dead_letter(group, message.topic, message.handle))
        key = message.properties[m.UNIQ_KEY]
        self.history.burials.append(Bury(group, key, began_ms, self._now_ms(), Outcome.OK))

    # -- what befalls it ---------------------------------------------------------------------------------------------

    def advance(self, ms: int) -> None:
        """Time passes; what came due is there."""
        self.rig.advance(ms)
        self.rig.settle()

    def die(self, *, power_cut: bool = False) -> None:
        """SIGKILL, or the machine's end, at this very moment; then a new server."""
        old, self.disk = self.disk, self.disk.only_synced() if power_cut else self.disk.frozen()
        self.rig.disk = self.disk
        self.history.kills.append(self._now_ms())
        old.faults.may_sync.set()
        self.rig.crash(pause_ms=1)
        self._forget()

    def _forget(self) -> None:
        for answer in self._left:
            if answer.done():
                answer.exception()
        self._left.clear()

    def verdict(self) -> list[Problem]:
        """Drains everything for everyone, dead letters too; what the checker says then."""
        for _ in range(DRAIN_ROUNDS):
            for group in GROUPS:
                self._drain(TOPIC, group)
                self._drain(DLQ + group, AUDITOR)
            self.advance(INVISIBLE_MS)
        return check(self.history)

    def _drain(self, topic: str, group: str) -> None:
        if topic == TOPIC or self.rig.broker.topics.find(topic) is not None:
            try:
                self.ack(*self.receive(group, topic))
            except ClientError as error:
                raise AssertionError(error.text) from None
