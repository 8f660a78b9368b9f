"""The calls of one native connection: events of the protocol to exchanges, by the table. Knows no socket."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from rmq_proxy.http2 import grpc, hpack
from rmq_proxy.http2.connection import Connection
from rmq_proxy.http2.errors import ErrorCode
from rmq_proxy.http2.events import AnswerSent, ConnectionFailed, DataReceived, Event, RequestReceived, StreamEnded
from rmq_proxy.http2.stream import Stream
from rmq_proxy.native.exchanges import DONE, Done, Single, Streaming
from rmq_proxy.native.site import Page, Site
from rmq_proxy.rpc import Call, GrpcCode, Kind, Metadata, Row, RpcError

GRPC_TYPE: Final = "application/grpc"
STREAM: Final = Kind.STREAM
BENIGN: Final = (ErrorCode.NO_ERROR, ErrorCode.CANCEL)
"""Drained by us, which is counted by its reason, and left by the client."""


class Owner(Protocol):
    """Whoever serves a stream."""

    def data(self, data: bytes, ended: bool) -> None:
        """A piece of the request's body."""

    def sent(self) -> None:
        """The answer is on its way as a whole."""

    def gone(self) -> None:
        """The stream is over, and its answer was not sent."""

    def give_up(self) -> None:
        """The server stops and has waited long enough."""


class Calls:
    """Serves one connection. `wake` asks for its bytes to be written at the end of this turn of the loop."""

    def __init__(self, site: Site, connection: Connection, peer: str, *, tls: bool, wake: Callable[[], None]) -> None:
        self.site = site
        self.connection = connection
        self.wake = wake
        self._peer = peer
        self._tls = tls

    def handle(self, events: Sequence[Event]) -> None:
        """Never raises for what a service or a client does."""
        for event in events:
            kind = type(event)
            if kind is DataReceived:
                event.stream.owner.data(event.data, event.ended)  # type: ignore[union-attr]
            elif kind is RequestReceived:
                self._begin(event)  # type: ignore[arg-type]  # as its type says
            elif kind is AnswerSent:
                event.stream.owner.sent()  # type: ignore[union-attr]
            elif kind is StreamEnded:
                event.stream.owner.gone()  # type: ignore[union-attr]
            elif isinstance(event, ConnectionFailed):
                self._failed(event)

    def _failed(self, event: ConnectionFailed) -> None:
        if event.code not in BENIGN:
            self.site.endings[event.code.name.lower()] += 1
        self.site.log.debug("%s: %s, %s", self._peer, event.code.name, event.text)

    def answer_page(self, stream: Stream, method: str, path: str) -> None:
        """Answers a request that is not gRPC."""
        page = self.site.pages(method, path, self._peer)
        if isinstance(page, asyncio.Future):
            page.add_done_callback(lambda made: self._send_page(stream, method, made.result()))
        else:
            self._send_page(stream, method, page)

    def _send_page(self, stream: Stream, method: str, page: Page) -> None:
        """Nothing happens where the client has left meanwhile."""
        status, content_type, body = page
        fields = ((":status", str(status)), ("content-type", content_type), ("content-length", str(len(body))))
        self.connection.respond(stream, hpack.encode(fields))
        if method != "HEAD":
            self.connection.send(stream, (body,))
        self.connection.end(stream, b"")
        self.wake()

    def end_streams(self) -> None:
        """Ends the streams of commands, with OK: an error sends the Rust SDK's Telemetry loop spinning for ever."""
        for stream in tuple(self.connection.streams.values()):
            if isinstance(stream.owner, Streaming):
                stream.owner.finish()

    def give_up(self) -> None:
        """Ends what is still running."""
        for stream in tuple(self.connection.streams.values()):
            owner: Owner = stream.owner
            owner.give_up()

    def _begin(self, event: RequestReceived) -> None:
        stream, headers = event.stream, dict(event.fields)
        path = headers.pop(":path", "")
        try:
            if event.too_large:
                raise RpcError(GrpcCode.RESOURCE_EXHAUSTED, "the request's metadata are too large")
            if not headers.get("content-type", "").startswith(GRPC_TYPE):
                stream.owner = Plain(self, stream, headers[":method"], path, event.ended)
                return
            row = self.site.table.get(path)
            if row is None:
                raise RpcError(GrpcCode.UNIMPLEMENTED, f"unknown method {path[:200]}")
            self._serve(event, row, headers)
        except RpcError as error:
            stream.owner = DONE
            self.connection.end(stream, grpc.refusal(error.code, error.text))

    def _serve(self, event: RequestReceived, row: Row, headers: dict[str, str]) -> None:
        """Begins an exchange; `headers` become the call's metadata. Raises RpcError."""
        authority = headers.pop(":authority", "") or headers.get("host", "")
        timeout = headers.get("grpc-timeout")
        deadline_s = None if timeout is None else self.site.loop.time() + grpc.timeout_s(timeout)
        del headers[":method"], headers[":scheme"]
        metadata: Metadata = headers
        if event.marks & hpack.BINARY:
            metadata = {**headers, **grpc.binary_values(event.fields)}
        call = Call(self._peer, metadata, authority=authority, deadline_s=deadline_s, tls=self._tls)
        encoding = headers.get("grpc-encoding", "identity")
        if row.kind is STREAM:
            event.stream.owner = streaming = Streaming(self, event.stream, row, call, encoding)
            streaming.open()
            if event.ended:
                streaming.data(b"", True)
            return
        event.stream.owner = single = Single(self, event.stream, row, call, encoding)
        if event.ended:
            single.data(b"", True)


class Plain(Done):
    """A request that is not gRPC: a page, once the request is whole."""

    __slots__ = ("_calls", "_method", "_path", "_stream")

    def __init__(self, calls: Calls, stream: Stream, method: str, path: str, ended: bool) -> None:
        self._calls = calls
        self._stream = stream
        self._method = method
        self._path = path
        if ended:
            self.data(b"", True)

    def data(self, data: bytes, ended: bool) -> None:
        """The body is not looked at."""
        if ended:
            self._calls.answer_page(self._stream, self._method, self._path)
