"""A RocketMQ server for tests: no broker to install, a free port, nothing on disk, time that moves when the test says.

    with rmq.testing.server(topics={"orders": "NORMAL"}) as s:  # a process of its own
        shop.connect(s.endpoint)
        shop.buy("book")
        assert [m.text for m in s.messages("orders")] == ["book"]
        s.advance(hours=24)

    async with rmq.testing.broker() as s:  # in the caller's loop
        await shop.connect(s.endpoint)

Every setting of `rmq serve` is an argument of both, by its key (`rmq config show` lists them); `topics` and `groups`
are mappings or names. Unlike `rmq serve` they begin with `flush="memory"`, `port=0` and `manual_clock=True`, and RMQ_*
variables are not read. `config` is a file of settings, of which everything is taken that does not say where and how
the server runs. Real clients connect to either; with pytest, see rmq.pytest_plugin.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from rmq.errors import ConfigError
from rmq.testing.connection import Connection
from rmq.testing.options import config_of
from rmq.testing.process import ServerError
from rmq.testing.seen import Group, Lease, Message, Topic
from rmq.testing.serving import READY_WITHIN_S, Server

if TYPE_CHECKING:
    from rmq.testing.inloop import Broker

__all__ = [
    "READY_WITHIN_S",
    "Broker",
    "ConfigError",
    "Connection",
    "Group",
    "Lease",
    "Message",
    "Server",
    "ServerError",
    "Topic",
    "broker",
    "connect",
    "server",
]


def server(*, config: str | Path | None = None, timeout_s: float = READY_WITHIN_S, **options: object) -> Server:
    """A server in a process of its own, which runs inside the `with` block, or from `start` to `stop`.

    It ends with this process, even where that is killed. `timeout_s`: how long it may take to get ready. Raises
    ConfigError for a wrong option, with the nearest right name; on entry ServerError, with what the server said.
    """
    return Server(config_of(options, config), ready_within_s=timeout_s)


def broker(*, config: str | Path | None = None, **options: object) -> "Broker":
    """The same server in the caller's event loop, inside the `async with` block. Starts no thread that handles signals.

    Clients that block, such as the official one for Python, must then run in other threads than the loop's:
    `await asyncio.to_thread(producer.send, message)`. Raises ConfigError.
    """
    from rmq.testing.inloop import Broker

    return Broker(config_of(options, config))


def connect(endpoint: str, *, timeout_s: float = 5.0) -> Connection:
    """What a test may see and do with a server that runs already. `timeout_s`: how long one call may take."""
    return Connection(endpoint, timeout_s=timeout_s)


def __getattr__(name: str) -> object:
    """`Broker` when it is asked for: with asyncio it would make every session of tests start later."""
    if name != "Broker":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rmq.testing.inloop import Broker

    return Broker
