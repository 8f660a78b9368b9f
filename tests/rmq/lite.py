"""What the tests of lite topics share: messages named after their lite topic, short verbs, and the next server."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from rmq import message as m
from rmq.message import Delivered, Outgoing
from rmq.port import LiteAction, LiteStart, LiteSync
from rmq_store.lines import key_of
from rmq_store.lites import Lite
from tests.rmq.rig import GROUP, TOPIC, Rig, outgoing, request
from tests.rmq.test_transaction_checks import Producers

WAYS = pytest.mark.parametrize("way", ["restart", "crash", "replay"])


def of_lite(name: str) -> Outgoing:
    """`a1` belongs to lite topic `a`."""
    return outgoing(name, **{m.LITE_TOPIC: name.rstrip("0123456789")})


def send(rig: Rig, *names: str) -> None:
    """One call."""
    rig.send(*map(of_lite, names))


def sync(
    rig: Rig,
    *names: str,
    action: LiteAction = "add",
    start: LiteStart | None = None,
    version: int | None = None,
    client: str = "client",
    group: str = GROUP,
) -> None:
    """A client's call."""
    wanted = LiteSync(group, TOPIC, client, action, names, start or LiteStart(), version)
    rig.wait(rig.broker.sync_lite(wanted))


def take(rig: Rig, batch: int = 32, *, client: str = "client", group: str = GROUP, fifo: bool = False) -> list[str]:
    """The texts of what a receive brings, sorted."""
    return sorted(found.body.decode() for found in receive(rig, batch, client=client, group=group, fifo=fifo))


def receive(
    rig: Rig, batch: int = 32, *, client: str = "client", group: str = GROUP, fifo: bool = False
) -> Sequence[Delivered]:
    """What a receive brings."""
    return rig.receive(request(batch=batch, client_id=client, group=group, fifo=fifo, lite=True))


def drain(rig: Rig, *, client: str = "client", group: str = GROUP) -> list[str]:
    """All texts that come, each acknowledged, in order."""
    texts: list[str] = []
    while found := receive(rig, client=client, group=group):
        texts += [one.body.decode() for one in found]
        assert rig.ack(*(one.handle for one in found), group=group) == [None] * len(found)
    return texts


def lite(rig: Rig, name: str) -> Lite:
    """As the store has it."""
    found = rig.broker._store.state.lites.get(key_of(TOPIC, name))
    assert found is not None
    return found


def again(rig: Rig, way: str) -> None:
    """The next server on what this one leaves; `replay`: of which only the log is left."""
    rig.settle()
    if way == "replay":
        rig.crash()
        rig.broker.close()
        shutil.rmtree(Path(rig.config.data) / "rmq" / "checkpoint")
        rig._start(0, {})
    else:
        getattr(rig, way)()


class Told(Producers):
    """A ClientPort that remembers who was told what."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[tuple[str, str]] = []

    def unsubscribe_lite(self, client_id: str, lite_topic: str) -> None:
        self.ended.append((client_id, lite_topic))
