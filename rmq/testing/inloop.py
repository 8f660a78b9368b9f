"""A server in the caller's event loop: the same broker and proxy, no process, no signal handler, no second loop.

Owns the node, a temporary directory where it keeps data at all, and what it logs. Looking and `advance` are plain
calls; what has to wait for the server is awaited.
"""

import asyncio
import logging
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import msgspec

from rmq.clock import ManualClock, SystemClock
from rmq.config import Config
from rmq.errors import ClientError
from rmq.log import TextFormatter
from rmq.port import Answer
from rmq.testing.connection import step_ms
from rmq.testing.process import ServerError
from rmq.testing.seen import LEASES_MAX, PAGE_MESSAGES, Views

if TYPE_CHECKING:
    from rmq.adminport import AdminPort
    from rmq.node import Node
    from rmq_proto import admin as pb

T = TypeVar("T")
LOGGERS = ("rmq", "rmq_proxy")
LINES_KEPT = 1000
NOT_STARTED = "the rmq server does not run: use `async with`"


class Broker(Views):
    """See rmq.testing.broker. Raises StoreError and ConfigError on entry: it did not start."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._clock = ManualClock() if config.manual_clock else SystemClock()
        self._lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._owned = ExitStack()
        self._own_data: Path | None = None  # ours to delete
        self._node: Node | None = None
        self._endpoint = ""

    async def __aenter__(self) -> Self:
        with ExitStack() as owned:
            owned.enter_context(_logged(self._lines, self._config.log_level))
            if self._config.flush != "memory" and self._config.data == Config().data:
                self._own_data = Path(owned.enter_context(tempfile.TemporaryDirectory(prefix="rmq-test-")), "data")
                self._config = msgspec.structs.replace(self._config, data=str(self._own_data))
            await self._launch()
            self._owned = owned.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note(f"log of the rmq server:\n{self.log}")
        await self.stop()

    @property
    def endpoint(self) -> str:
        """HOST:PORT, as clients take it."""
        if not self._endpoint:
            raise ServerError(NOT_STARTED)
        return self._endpoint

    @property
    def host(self) -> str:
        """The endpoint's host, an IPv6 address in brackets."""
        return self.endpoint.rpartition(":")[0]

    @property
    def port(self) -> int:
        """The endpoint's port."""
        return int(self.endpoint.rpartition(":")[2])

    @property
    def data(self) -> Path | None:
        """Where the server keeps its messages; None: nowhere, they are in memory."""
        return None if self._config.flush == "memory" else Path(self._config.data)

    @property
    def log(self) -> str:
        """The last 1000 lines that the server logged."""
        return "".join(f"{line}\n" for line in self._lines)

    @property
    def admin(self) -> "AdminPort":
        """For all that is not offered here; names, arguments and answers are the broker's own."""
        if self._node is None:
            raise ServerError(NOT_STARTED)
        return self._node.admin

    def advance(self, *, hours: float = 0, minutes: float = 0, seconds: float = 0, ms: int = 0) -> int:
        """As Connection.advance."""
        self.admin.advance(step_ms(hours, minutes, seconds, ms))
        return self._clock.wall_ms()

    async def send(
        self,
        topic: str,
        body: bytes | str,
        *,
        tag: str = "",
        keys: Sequence[str] = (),
        properties: Mapping[str, str] | None = None,
        message_group: str = "",
        delivery_ms: int | None = None,
        priority: int | None = None,
        lite_topic: str = "",
    ) -> str:
        """As Connection.send: over the wire, like any producer's."""
        from rmq_proxy.admin_client import AdminClient

        data = body.encode() if isinstance(body, str) else body
        with AdminClient(self.endpoint) as client:
            sent = await asyncio.to_thread(
                client.send, topic, data, tag, keys, properties, message_group, delivery_ms, priority, lite_topic
            )
        return sent.message_id

    async def reset(self) -> None:
        """As Server.reset; a server that keeps its data is restarted. Raises ClientError where `data` was given."""
        if self._own_data is None:
            await _settled(self.admin.reset())
            return
        await self._end()
        shutil.rmtree(self._own_data)
        await self._launch()

    async def restart(self) -> None:
        """The next life, on the same port and data; in memory nothing is left."""
        await self._end()
        await self._launch()

    async def stop(self) -> None:
        """Ends the server and removes what it left. Raises StoreError where its store failed."""
        try:
            await self._end()
        finally:
            self._owned.close()

    async def _launch(self) -> None:
        from rmq.node import Node  # with grpcio it costs a fifth of a second

        node = Node(self._config, self._clock, asyncio.get_running_loop())
        try:
            self._endpoint = await node.start()
        except BaseException:
            await node.stop()
            raise
        self._node = node
        self._config = msgspec.structs.replace(self._config, port=self.port)

    async def _end(self) -> None:
        node, self._node = self._node, None
        if node is None:
            return
        await node.stop()
        if node.broker.failed.done():
            raise node.broker.failed.result()

    def _page(self, topic: str, offsets: Mapping[int, int] | None) -> "pb.PeekResponse | None":
        from rmq.adminport import Start
        from rmq_proxy import adminconvert

        try:
            return adminconvert.page(self.admin.peek(topic, Start(offsets), PAGE_MESSAGES))
        except ClientError:
            return None

    def _topics(self) -> "Sequence[pb.Topic]":
        from rmq_proxy import adminconvert

        return [adminconvert.topic(info) for info in self.admin.topics()]

    def _groups(self, name: str, leases: bool) -> "Sequence[pb.Group]":
        from rmq_proxy import adminconvert

        limit = LEASES_MAX if leases else 0
        try:
            found = [self.admin.group_info(name, open_max=limit)] if name else self.admin.groups()
        except ClientError:
            return ()
        return [adminconvert.group(info, limit) for info in found]


async def _settled(answer: Answer[T]) -> T:
    return await answer if isinstance(answer, asyncio.Future) else answer


class _Lines(logging.Handler):
    def __init__(self, lines: deque[str]) -> None:
        super().__init__()
        self.setFormatter(TextFormatter())
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))


@contextmanager
def _logged(lines: deque[str], level: str) -> Iterator[None]:
    """What the server's loggers say goes to `lines`, and on to whoever listens to the root logger, as ever."""
    handler = _Lines(lines)
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(level.upper())
    try:
        yield
    finally:
        for logger, before in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(before)
