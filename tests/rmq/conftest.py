"""Fixtures of the broker's tests."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from rmq.clock import Clock
from tests.rmq.fifo import FIFO
from tests.rmq.rig import SMALL, Rig, config

MakeRig = Callable[..., Rig]


@pytest.fixture
def make_rig() -> Iterator[MakeRig]:
    """Makes brokers, and closes them after the test."""
    with ExitStack() as made:

        def make(clock: Clock | None = None, **settings: object) -> Rig:
            return made.enter_context(closing(Rig(config(**settings), clock)))

        yield make


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    """A broker in memory."""
    return make_rig()


@pytest.fixture
def disk_rig(make_rig: MakeRig, tmp_path: Path) -> Rig:
    """A broker on disk: flush profile durable, small files."""
    return make_rig(flush="durable", data=str(tmp_path / "data"), topic_queues=2, **SMALL)


@pytest.fixture
def fifo(make_rig: MakeRig) -> Rig:
    """A FIFO topic with one queue, in memory."""
    return make_rig(**FIFO)


@pytest.fixture
def stored(make_rig: MakeRig, tmp_path: Path) -> Rig:
    """A FIFO topic with one queue, on disk."""
    return make_rig(flush="fast", data=f"{tmp_path}/data", flush_interval_ms=1, **SMALL, **FIFO)
