"""A broker under test: its own loop, a clock that stands still until it is told, and verbs that wait for their answer.

Everything is called from outside the loop; `turn` lets the loop run what is ready. Nothing sleeps: what waits for the
disk is waited for, for WAIT_S at the most.
"""

import asyncio
import functools
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from rmq import message as m
from rmq.broker import Broker
from rmq.clock import Clock, ManualClock
from rmq.config import Config
from rmq.errors import ClientError
from rmq.filter import by_tag
from rmq.message import Delivered, Outgoing, SendResult
from rmq.port import Answer, ReceiveRequest
from rmq_store.disk import Disk
from rmq_store.record import encode_properties
from rmq_store.store import Store

WAIT_S = 30.0
TOPIC = "orders"
GROUP = "billing"
INVISIBLE_MS = 30_000
SMALL: Mapping[str, int] = {"segment_bytes": 1 << 20, "reserve_bytes": 64 << 10, "disk_free_min_bytes": 0}

T = TypeVar("T")


def config(**settings: object) -> Config:
    """In memory and with a few queues, unless told otherwise."""
    return msgspec.structs.replace(Config(), **{"flush": "memory", "topic_queues": 4, **settings})


def outgoing(body: str, *, topic: str = TOPIC, tag: str = "", **properties: str) -> Outgoing:
    """A message whose id is the start of its text."""
    tags = {m.TAGS: tag} if tag else {}
    named = {m.UNIQ_KEY: f"id-{body[:40]}", **tags, **properties}
    return Outgoing(
        topic,
        body.encode(),
        named[m.UNIQ_KEY],
        encode_properties(named),
        m.type_of(named),
        named.get(m.TAGS, ""),
        born_ms=1,
        message_group=named.get(m.SHARDING_KEY, ""),
        lite_topic=named.get(m.LITE_TOPIC, ""),
        priority=int(named.get(m.PRIORITY, -1)),
    )


def request(
    topic: str = TOPIC,
    group: str = GROUP,
    *,
    batch: int = 1,
    tag: str = "*",
    invisible_ms: int = INVISIBLE_MS,
    poll_ms: int = 0,
    client_id: str = "client",
    auto_renew: bool = False,
    attempt_id: str = "",
    fifo: bool = False,
    lite: bool = False,
) -> ReceiveRequest:
    """A receive that does not poll, unless told otherwise."""
    return ReceiveRequest(
        group, topic, client_id, by_tag(tag), batch, invisible_ms, poll_ms, auto_renew, attempt_id, fifo, lite
    )


def bodies(messages: Sequence[Delivered]) -> list[str]:
    """What came, in order."""
    return [message.body.decode() for message in messages]


def _copy_sparse(source: str, target: str) -> None:
    """Only what was written: the files are mostly holes."""
    with open(source, "rb") as old, open(target, "wb") as new:
        size = os.fstat(old.fileno()).st_size
        new.truncate(size)
        start = 0
        while start < size:
            try:
                start = os.lseek(old.fileno(), start, os.SEEK_DATA)
            except OSError:  # nothing but a hole is left
                return
            end = os.lseek(old.fileno(), start, os.SEEK_HOLE)
            os.pwrite(new.fileno(), os.pread(old.fileno(), end - start, start), start)
            start = end


class Rig:
    """One broker after the other over one directory (or none), on one clock."""

    def __init__(self, settings: Config, clock: Clock | None = None, disk: Disk | None = None) -> None:
        self.disk = disk
        self.loop = self._new_loop()
        self.clock = clock if isinstance(clock, ManualClock) else ManualClock(frozen=True)
        self._used_clock = clock or self.clock
        self.config = settings
        self.before_tick: Callable[[], None] = lambda: None  # of a new life: the state is as it was recovered
        try:
            self.broker = self._new_broker()
        except BaseException:
            self.loop.close()
            raise

    def _new_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.new_event_loop()

    def _new_broker(self) -> Broker:
        return Broker(self.config, self._used_clock, self.loop, functools.partial(Store, disk=self.disk))

    # -- verbs -------------------------------------------------------------------------------------------------------

    def wait(self, answer: Answer[T]) -> T:
        """The answer, when it is there; then whatever the loop still had to do."""
        result = self.until(answer) if isinstance(answer, asyncio.Future) else answer
        self.turn()
        return result

    def send(self, *messages: str | Outgoing, topic: str = TOPIC) -> Sequence[SendResult]:
        """One call; texts become messages."""
        return self.wait(
            self.broker.send([o if isinstance(o, Outgoing) else outgoing(o, topic=topic) for o in messages])
        )

    def receive(self, wanted: ReceiveRequest | None = None) -> Sequence[Delivered]:
        return self.wait(self.broker.receive(wanted or request()))

    def one(self, wanted: ReceiveRequest | None = None) -> Delivered:
        """The one message that has to come."""
        (message,) = self.receive(wanted)
        return message

    def poll(self, wanted: ReceiveRequest) -> "asyncio.Future[Sequence[Delivered]]":
        """A receive that has to wait."""
        waiting = self.broker.receive(wanted)
        assert isinstance(waiting, asyncio.Future)
        self.turn()
        return waiting

    def ack(self, *handles: str, topic: str = TOPIC, group: str = GROUP) -> Sequence[ClientError | None]:
        return self.wait(self.broker.ack(group, topic, handles))

    def change(self, handle: str, invisible_ms: int, *, suspend: bool = False, group: str = GROUP) -> str:
        return self.wait(self.broker.change_invisible(group, TOPIC, handle, invisible_ms, suspend=suspend))

    def bury(self, handle: str, group: str = GROUP) -> None:
        self.wait(self.broker.dead_letter(group, TOPIC, handle))

    # -- time and life -----------------------------------------------------------------------------------------------

    def turn(self, turns: int = 4) -> None:
        """What is ready runs, and what that makes ready."""

        async def pass_by() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.loop.run_until_complete(pass_by())

    def until(self, answer: "asyncio.Future[T]") -> T:
        """Runs the loop until the answer is there."""
        return self.loop.run_until_complete(asyncio.wait_for(answer, WAIT_S))

    def advance(self, ms: int) -> None:
        """Time passes, and what is due then happens."""
        self.clock.advance(ms=ms)
        self.broker.tick()
        self.turn()

    def run_while(self, busy: Callable[[], bool]) -> None:
        """Runs the loop as long as something goes on."""
        deadline_s = self.loop.time() + WAIT_S
        while busy():
            assert self.loop.time() < deadline_s, "it does not end"
            self.loop.run_until_complete(asyncio.sleep(0.001))
        self.turn()

    def settle(self) -> None:
        """All that was done becomes safe."""
        self.turn()  # the journal of this turn is written
        store = self.broker._store
        self.run_while(lambda: store.flusher.safe < store.log.end)

    def clean(self) -> None:
        """Retention does all it has to do now."""
        retention = self.broker._retention
        self.run_while(lambda: retention.step(self._used_clock.wall_ms()) or retention._saving is not None)

    def fill_disk(self) -> None:
        """From now on there is no room for new messages; the reserve is there."""
        self.broker._store.log._disk.free_bytes = lambda: 0  # type: ignore[method-assign]
        self.broker._store.log._free_min_bytes = 1

    def restart(self, *, pause_ms: int = 0, **settings: object) -> None:
        """Stops it in good order and starts another, `pause_ms` later."""
        self.broker.close()
        self._start(pause_ms, settings)

    def crash(self, *, pause_ms: int = 0, **settings: object) -> None:
        """As kill -9: what the files hold at this moment is all that the next one gets."""
        for worker in (self.broker._store._syncer, self.broker._store._worker):
            worker.submit(int).result(WAIT_S)  # what it does now, a copy would catch half done
        data = Path(self.config.data)
        copy = data.with_name(data.name + "+")
        shutil.copytree(data, copy, copy_function=_copy_sparse)
        self.broker.close()
        self.turn()
        self._start(pause_ms, {"data": str(copy), **settings})

    def _start(self, pause_ms: int, settings: Mapping[str, object]) -> None:
        self.turn()
        self.clock.advance(ms=pause_ms)
        self.config = msgspec.structs.replace(self.config, **settings)
        self.broker = self._new_broker()
        self.before_tick()
        self.broker.tick()
        self.turn()

    def close(self) -> None:
        """Also where the broker says that it could not save everything, which is raised."""
        try:
            self.broker.close()
            self.turn()
        finally:
            self.loop.close()
