"""A running server, seen through its admin service: what a test may look at and change.

Owns one admin client, made at the first call. Starts and stops nothing.
"""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rmq.testing.seen import PAGE_MESSAGES, Views

if TYPE_CHECKING:
    from rmq_proto import admin as pb
    from rmq_proxy.admin_client import AdminClient


class Connection(Views):
    """`timeout_s`: how long one call may take. Calls raise rmq_proxy.admin_client.AdminError, one line."""

    def __init__(self, endpoint: str, *, timeout_s: float = 5.0) -> None:
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._client: AdminClient | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; the next call makes another."""
        if self._client is not None:
            self._client.close()
            self._client = None

    @property
    def endpoint(self) -> str:
        """HOST:PORT, as clients take it."""
        return self._endpoint

    @property
    def log(self) -> str:
        """What the server said so far, where this is the one that started it; else empty."""
        return ""

    @property
    def host(self) -> str:
        """The endpoint's host, an IPv6 address in brackets."""
        return self.endpoint.rpartition(":")[0]

    @property
    def port(self) -> int:
        """The endpoint's port."""
        return int(self.endpoint.rpartition(":")[2])

    @property
    def admin(self) -> "AdminClient":
        """For all that is not offered here: make topics, find a message by its key, replay dead letters, ..."""
        if self._client is None:
            from rmq_proxy.admin_client import AdminClient  # with grpcio it costs 100 ms

            self._client = AdminClient(self.endpoint, timeout_s=self._timeout_s)
        return self._client

    def advance(self, *, hours: float = 0, minutes: float = 0, seconds: float = 0, ms: int = 0) -> int:
        """Moves the server's time forward and has it do what is due; its new time in ms since 1970.

        Leases run out and delayed messages come due, polls and connections stay in real time. Needs manual_clock.
        """
        return self.admin.advance(step_ms(hours, minutes, seconds, ms))

    def send(
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
        """Sends one message as any producer would; its id. `delivery_ms`: not before then, in ms since 1970."""
        data = body.encode() if isinstance(body, str) else body
        sent = self.admin.send(topic, data, tag, keys, properties, message_group, delivery_ms, priority, lite_topic)
        return sent.message_id

    def reset(self) -> None:
        """Deletes every topic and group, but for those of the configuration. Needs flush="memory".

        Clients stay connected and may go on; the clock stays where it is.
        """
        self.admin.reset()

    def _page(self, topic: str, offsets: Mapping[int, int] | None) -> "pb.PeekResponse | None":
        from rmq_proxy.admin_client import AdminError

        try:
            return self.admin.peek(topic, offsets, limit=PAGE_MESSAGES)
        except AdminError as error:
            if error.kind != "not_found":
                raise
            return None

    def _topics(self) -> "Sequence[pb.Topic]":
        return self.admin.topics()

    def _groups(self, name: str, leases: bool) -> "Sequence[pb.Group]":
        from rmq_proxy.admin_client import AdminError

        try:
            return self.admin.groups(name, leases)
        except AdminError as error:
            if error.kind != "not_found":
                raise
            return ()


def step_ms(hours: float, minutes: float, seconds: float, ms: int) -> int:
    """All of it in milliseconds. Raises ValueError for a step back."""
    step = round((hours * 3600 + minutes * 60 + seconds) * 1000) + ms
    if step < 0:
        raise ValueError(f"time only moves forward, not by {step} ms")
    return step
