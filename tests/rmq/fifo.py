"""What the FIFO tests share: messages named after their message group, and short verbs."""

from collections.abc import Mapping, Sequence

from rmq import message as m
from rmq.config import TopicSetting
from rmq.message import Delivered, MessageType, Outgoing
from rmq_store.ledger import Ledger
from tests.rmq.rig import GROUP, TOPIC, Rig, outgoing, request

FIFO: Mapping[str, object] = {"topics": {TOPIC: TopicSetting(MessageType.FIFO, 1)}}


def grouped(*names: str, tag: str = "") -> list[Outgoing]:
    """`a1` belongs to message group `a`, `-1` to none."""
    return [outgoing(name, tag=tag, **({} if name[0] == "-" else {m.SHARDING_KEY: name[0]})) for name in names]


def send(rig: Rig, *names: str) -> None:
    """One call."""
    rig.send(*grouped(*names))


def take(rig: Rig, batch: int = 32, *, fifo: bool = False, attempt_id: str = "") -> Sequence[Delivered]:
    """What a receive brings, up to a batch of them."""
    return rig.receive(request(batch=batch, fifo=fifo, attempt_id=attempt_id))


def ack(rig: Rig, *messages: Delivered) -> None:
    """All of them are valid."""
    assert rig.ack(*(message.handle for message in messages)) == [None] * len(messages)


def attempts(messages: Sequence[Delivered]) -> list[tuple[str, int]]:
    """What came, and how often it did."""
    return [(message.body.decode(), message.attempt) for message in messages]


def ledger_of(rig: Rig) -> Ledger:
    """The place of the group in the first queue."""
    return rig.broker._store.state.leases.subscription(GROUP, TOPIC).ledger(0)


def parked(rig: Rig) -> int:
    """How many wait; by all counts."""
    leases = rig.broker._store.state.leases
    assert leases.parked_count == sum(len(ledger.parked()) for ledger in leases.ledgers())
    assert leases.parked_count == sum(ledger.lines.parked for ledger in leases.ledgers() if ledger.lines is not None)
    return leases.parked_count
