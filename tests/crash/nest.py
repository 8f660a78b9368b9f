"""Hatches servers: `python -m tests.crash.nest` has everything imported, and forks a process for each life of a server.

A server starts in a few hundredths of a second so, and a kill costs little more than the work before it. Orders are
lines of JSON on standard input, see Order; `kill` or `stop` (SIGTERM) on a line of its own. Standard output carries the
server's own line, and {"ended": wait status} when it has gone, however. At the end of its input the nest ends, with
what it hatched. It starts no thread and no loop of its own: a fork would not survive that.
"""

import contextlib
import os
import select
import signal
import sys
import traceback
from pathlib import Path

import msgspec
import uvloop  # noqa: F401  # what a server imports, imported once

import rmq.broker
import rmq.configsource
import rmq.node  # likewise
from rmq import cli
from rmq_proxy import native_transport  # noqa: F401  # likewise
from tests.crash.points import POINTS, arm
from tests.history.plants import PLANTS

RETENTION_S = 0.05  # the broker looks every ten seconds: longer than our lives
SIGNALS = {b"kill": signal.SIGKILL, b"stop": signal.SIGTERM}


class Order(msgspec.Struct):
    """One life: `rmq serve` with these settings; it dies at `point`, if any, when it passes that the `kth` time.

    `plant` names a bug that it has (tests/history/plants.py).
    """

    flags: list[str]
    env: dict[str, str]
    log: str
    point: str = ""
    kth: int = 1
    plant: str = ""


def main() -> None:
    """Until standard input ends."""
    while line := _line():
        if line not in SIGNALS:  # it had died before it could be killed
            _hatch(msgspec.json.decode(line, type=Order))


def _line() -> bytes:
    """Unbuffered: what is to come is waited for with select."""
    line = b""
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return line


def _hatch(order: Order) -> None:
    """A life, from its first to its last moment."""
    last_breath, held = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(last_breath)
        _live(order)
    os.close(held)
    status = _watch(pid, last_breath)
    os.close(last_breath)
    print("\n" + msgspec.json.encode({"ended": status}).decode(), flush=True)  # it may have died within its own line


def _watch(pid: int, last_breath: int) -> int:
    """It is ours until it is waited for: its id cannot be another's."""
    while last_breath not in select.select([0, last_breath], [], [])[0]:
        order = _line()
        os.kill(pid, SIGNALS.get(order, signal.SIGKILL))
        if not order:
            break
    return os.waitpid(pid, 0)[1]


def _live(order: Order) -> None:
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(order.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644), 2)
        os.chdir(Path(order.log).parent)
        os.environ.update(order.env)
        rmq.broker._RETENTION_S = RETENTION_S
        if order.point:
            arm(POINTS[order.point], order.kth)
        plants = {plant.name: plant.planted for plant in PLANTS}
        with plants[order.plant]() if order.plant else contextlib.nullcontext():
            code = cli.run(["serve", *order.flags])
    except BaseException:  # whatever it is, it must not run the nest's own code
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
