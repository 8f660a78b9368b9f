"""A broker under simulation: one life after the other on a disk that outlives them, on one virtual time.

Owns what a machine is made of: loop, workers, disk, clock, and LMDB's directory, which is a real one: LMDB does its own
file work. Each commit of it counts as durable; `unsynced` leaves its syncs out.
"""

import asyncio
import functools
import logging
import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from unittest import mock

import lmdb

from rmq.broker import Broker
from rmq.clock import ManualClock
from rmq.config import Config
from rmq_store.checkpoint import Changed, Checkpoint, Meta
from rmq_store.store import Store
from tests.rmq.rig import WAIT_S, Rig
from tests.sim.disk import SimDisk
from tests.sim.faults import Faults
from tests.sim.loop import SimLoop, SimWorker

T = TypeVar("T")
START_MS = 1_700_000_000_000


class SimClock(ManualClock):
    """It stands still, and begins at the same time always."""

    def __init__(self, start_ms: int = START_MS) -> None:
        super().__init__(frozen=True)
        self._frozen_ms = start_ms


class SimCheckpoint(Checkpoint):
    """LMDB itself. `on_commit` hears of each commit."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.on_commit: Callable[[int], None] = lambda position: None

    def commit(self, meta: Meta, pairs: Iterable[Changed], *, everything: bool) -> None:
        """See Checkpoint."""
        super().commit(meta, pairs, everything=everything)
        self.on_commit(meta.position)


class SimRig(Rig):
    """`folder`: LMDB's, which is the caller's to delete; `rng` decides when workers work."""

    disk: SimDisk
    loop: SimLoop

    def __init__(
        self, settings: Config, folder: Path, disk: SimDisk, rng: random.Random, clock: SimClock | None = None
    ) -> None:
        self.checkpoint = SimCheckpoint(folder)
        self._folder = folder
        self._rng = rng
        self._workers: list[SimWorker] = []
        super().__init__(settings, clock or SimClock(), disk)

    @property
    def faults(self) -> Faults:
        """Of the disk."""
        return self.disk.faults

    def _new_loop(self) -> SimLoop:
        return SimLoop()

    def _new_broker(self) -> Broker:
        if self._workers:  # not the first life: as the end of a process does
            self.checkpoint.close()
            self.checkpoint = SimCheckpoint(self._folder)
        self._workers.clear()
        store = functools.partial(Store, disk=self.disk, checkpoint=self.checkpoint, executor=self._worker)
        return Broker(
            self.config, self._used_clock, self.loop, lambda root, *args, **named: store(None, *args, **named)
        )

    def _worker(self, name: str) -> SimWorker:
        del name
        self._workers.append(SimWorker(self.loop, self._rng))
        return self._workers[-1]

    # -- time and life -----------------------------------------------------------------------------------------------

    def turn(self, turns: int = 4) -> None:
        """See Rig."""
        self.loop.run_ready(turns)

    def until(self, answer: "asyncio.Future[T]") -> T:
        """See Rig."""
        self.loop.run_until(answer.done, WAIT_S)
        return answer.result()

    def run_while(self, busy: Callable[[], bool]) -> None:
        """See Rig."""
        self.loop.run_until(lambda: not busy(), WAIT_S)
        self.turn()

    def crash(self, *, pause_ms: int = 0, **settings: object) -> None:
        """As kill -9: the disk is as it was, what nobody had written is gone."""
        self.abandon()
        self.loop = self._new_loop()
        self._start(pause_ms, settings)

    def end_life(self, how: str, rng: random.Random, *, pause_ms: int = 0) -> None:
        """`killed`; `power cut`: some of what was not synced is gone; `power cut, checkpoint lost`: and LMDB's files.

        A store that does not sync before it answers is killed only.
        """
        if how != "killed" and self.config.flush == "durable":
            faults, on_event = self.disk.faults, self.disk.on_event
            self.disk = self.disk.after_power_cut(rng)
            self.disk.faults, self.disk.on_event = faults, on_event
            if how == "power cut, checkpoint lost":
                shutil.rmtree(self._folder)
        self.crash(pause_ms=pause_ms)

    def abandon(self) -> None:
        """The process ends here and now."""
        for worker in self._workers:
            worker.drop()
        self.loop.close()


@contextmanager
def quiet() -> Iterator[None]:
    """No log lines: damage and failing calls are what is asked for."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def unsynced() -> Iterator[None]:
    """LMDB without its syncs: they are what takes the time, and its files are not the simulated ones."""
    opened = functools.partial(lmdb.open, sync=False)
    with mock.patch.object(os, "fsync"), mock.patch.object(os, "fdatasync"), mock.patch.object(lmdb, "open", opened):
        yield
