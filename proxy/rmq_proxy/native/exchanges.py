"""One gRPC call, from its headers to its status: `Single` for UNARY and LIST, `Streaming` for STREAM.

An exchange owns its stream of the connection. It makes no task: the Future of an answer completes it by callback. Its
end is told to the gate once, for whatever reason it comes.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, cast

from rmq.port import Later
from rmq_proxy.http2 import grpc
from rmq_proxy.http2.connection import Connection
from rmq_proxy.http2.stream import Stream
from rmq_proxy.native.deadlines import Step
from rmq_proxy.native.site import Site
from rmq_proxy.rpc import Call, GrpcCode, Inlet, Kind, Open, Row, RpcError

OK: Final = GrpcCode.OK
UNARY: Final = Kind.UNARY
"""Members of enums that each call asks for: see http2.stream."""
JOINED_BYTES_MAX = 16 * 1024
"""A list up to this size is copied into one piece, which goes out faster than its parts."""
EXPIRED = (GrpcCode.DEADLINE_EXCEEDED, "the deadline has passed")
GIVEN_UP = (GrpcCode.UNAVAILABLE, "the server is shutting down")


class Line(Protocol):
    """The connection that carries the call."""

    site: Site
    connection: Connection
    wake: Callable[[], None]


class Done:
    """Owns a stream that nobody serves any more."""

    __slots__ = ()

    def data(self, data: bytes, ended: bool) -> None:
        """Not looked at."""

    def sent(self) -> None:
        """Nobody waits for it."""

    def gone(self) -> None:
        """Nobody minds."""

    def give_up(self) -> None:
        """Nothing runs."""


DONE = Done()


class Exchange:
    """What both kinds share: collecting messages, the deadline, the end."""

    # What most calls never set is set here, since one is made for each call.
    _held_bytes = 0
    _begun = False  # the gate was asked, so it hears of the end
    _over = False  # the status is decided
    _step: Step | None = None  # where the call stands in the deadlines
    _response_bytes = 0

    def __init__(self, line: Line, stream: Stream, row: Row, call: Call, encoding: str) -> None:
        self._line = line
        self._stream = stream
        self._row = row
        self.call = call
        self._messages: grpc.Messages | str = encoding  # made where a message does not come in one piece

    def fail(self, code: GrpcCode, text: str) -> None:
        """Ends the call with a status."""
        raise NotImplementedError

    def expire(self) -> None:
        """The deadline has passed and the client said nothing."""
        if not self._over:
            self.call.cancelled = True
            self.fail(*EXPIRED)
            self._line.wake()

    def give_up(self) -> None:
        """The server stops and has waited long enough."""
        if not self._over:
            self.fail(*GIVEN_UP)
            self._line.wake()

    def _begin(self) -> None:
        self._begun = True
        self._line.site.gate.begin(self.call, self._row)

    def _feed(self, data: bytes, ended: bool) -> list[bytes]:
        """The messages that are whole now. Raises RpcError."""
        site, messages = self._line.site, self._messages
        if isinstance(messages, str):
            messages = self._messages = grpc.Messages(site.request_bytes_max, messages)
        whole = messages.feed(data)
        self._hold(messages.held_bytes)
        if not whole and not ended and 0 < len(data) < site.limits.fragment_bytes:
            self._line.connection.suspect("fragments")
        if ended and messages.held_bytes:
            raise RpcError(GrpcCode.INTERNAL, "the request ends inside a message")
        return whole

    def _hold(self, held_bytes: int) -> None:
        site = self._line.site
        site.held_bytes += held_bytes - self._held_bytes
        self._held_bytes = held_bytes
        if held_bytes and site.held_bytes > site.limits.request_bytes_held_max:
            raise RpcError(GrpcCode.RESOURCE_EXHAUSTED, "too many large requests are on their way here; try again")

    def _await_deadline(self) -> None:
        if self.call.deadline_s is not None:
            self._step = self._line.site.deadlines.add(self, self.call.deadline_s)

    def _end(self, code: GrpcCode, response_bytes: int) -> None:
        """Nothing of the request is kept, no deadline counts, the gate is told."""
        self._over = True
        self._stream.owner = DONE  # no cycle is left for the collector
        if self._step is not None:
            self._step.discard(self)
            self._step = None
        if self._held_bytes:
            self._hold(0)
        if self._begun:
            self._line.site.gate.end(self.call, self._row, code, response_bytes)


class Single(Exchange):
    """One request; one message or a list of them in answer."""

    _future: "asyncio.Future[bytes] | asyncio.Future[Sequence[bytes]] | None" = None
    _request: bytes | None = None  # whole, while the end of its stream is still to come
    _answered = False  # the answer was handed over, and waits for the client to take it

    def data(self, data: bytes, ended: bool) -> None:
        """A piece of the request; with its end the call is served."""
        if self._over:
            return
        try:
            request = None
            if ended and type(self._messages) is str:
                request = grpc.whole(data, self._line.site.request_bytes_max)
            if request is None:
                request = self._collect(data, ended)
                if request is None:
                    return
            self._begin()
            handler: Any = self._row.handler  # a Unary or a Listing; a cast takes a call
            answer = handler(self.call, request)
            if isinstance(answer, asyncio.Future):
                self._wait(answer)
            else:
                self._answer(answer)
        except (Exception, asyncio.CancelledError) as error:
            self.fail(*self._line.site.verdict(self._row, error))

    def _collect(self, data: bytes, ended: bool) -> bytes | None:
        """The request, once it has ended. Raises RpcError where it is not exactly one message."""
        for message in self._feed(data, ended):
            if self._request is not None:
                raise RpcError(GrpcCode.INTERNAL, "this method takes one message, and more came")
            self._request = message
        if not ended:
            return None
        request, self._request = self._request, None
        if request is None:
            raise RpcError(GrpcCode.INTERNAL, "this method takes one message, and none came")
        return request

    def _wait(self, future: "asyncio.Future[bytes] | asyncio.Future[Sequence[bytes]]") -> None:
        self._future = future
        if future.done():
            self._take(future)
            return
        self.call.waits()
        self._await_deadline()
        if isinstance(future, Later):
            future.follow(self._done)
        else:
            future.add_done_callback(self._done, context=self._line.site.context)

    def _done(self, future: "asyncio.Future[bytes] | asyncio.Future[Sequence[bytes]]") -> None:
        if not self._over:
            self._take(future)
            self._line.wake()

    def _take(self, future: "asyncio.Future[bytes] | asyncio.Future[Sequence[bytes]]") -> None:
        try:
            self._answer(future.result())
        except (Exception, asyncio.CancelledError) as error:
            self.fail(*self._line.site.verdict(self._row, error))

    def _answer(self, answer: Any) -> None:
        """`answer`: bytes, or a Sequence of them, as the row's kind says; a cast takes a call."""
        self._answered = True
        sent = self._answer_message(answer) if self._row.kind is UNARY else self._answer_list(answer)
        if sent:
            self._end(OK, self._response_bytes)

    def _answer_message(self, message: bytes) -> bool:
        connection, stream = self._line.connection, self._stream
        size = self._response_bytes = len(message)
        if connection.answer(stream, size + grpc.PREFIX_BYTES, grpc.answer_frames(stream.id, message)):
            return True
        return self._answer_in_pieces((grpc.prefix(size), message))

    def _answer_list(self, messages: Sequence[bytes]) -> bool:
        chunks: list[bytes] = []
        for message in messages:
            chunks.append(grpc.prefix(len(message)))
            chunks.append(message)
        size = sum(map(len, chunks))
        self._response_bytes = size - grpc.PREFIX_BYTES * len(messages)
        if size <= JOINED_BYTES_MAX:
            frames = grpc.list_frames(self._stream.id, b"".join(chunks))
            if self._line.connection.answer(self._stream, size, frames):
                return True
        return self._answer_in_pieces(tuple(chunks))

    def _answer_in_pieces(self, chunks: tuple[bytes, ...]) -> bool:
        connection, stream = self._line.connection, self._stream
        connection.respond(stream, grpc.HEADERS)
        connection.send(stream, chunks)
        return connection.end(stream, grpc.OK_TRAILERS)

    def sent(self) -> None:
        """The client has taken all of the answer."""
        if not self._over:
            self._end(OK, self._response_bytes)

    def gone(self) -> None:
        """The client left, or broke the rules, before it had its answer."""
        if self._over:
            return
        self._over = self.call.cancelled = True
        future = self._future
        given_out = self._answered
        if future is not None and not future.cancel() and not given_out:
            given_out = not future.cancelled() and future.exception() is None
        if given_out and self._row.kind is Kind.LIST and self.call.undelivered is not None:
            self._report(self.call.undelivered)
        response_bytes = max(0, self._response_bytes - self._stream.queued_bytes)
        self._end(GrpcCode.CANCELLED, response_bytes)

    def _report(self, undelivered: Callable[[], None]) -> None:
        try:
            undelivered()
        except Exception:
            self._line.site.log.exception("%s failed to take back what was not delivered", self._row.path)

    def fail(self, code: GrpcCode, text: str) -> None:
        """The status is the whole answer; one that is already on its way goes on."""
        if self._answered:
            return
        self._over = True
        if self._future is not None:
            self._future.cancel()
        self._line.connection.end(self._stream, grpc.refusal(code, text))
        self._end(code, 0)


class Streaming(Exchange):
    """Messages both ways. It is the service's Outlet; the Inlet hears of the end when no call to it is under way."""

    _inlet: Inlet | None = None
    _code = GrpcCode.OK
    _closed = False

    def open(self) -> None:
        """Asks the gate, sends the headers at once - the Rust client waits for them - and lets the service begin."""
        site = self._line.site
        try:
            self._begin()
        except (Exception, asyncio.CancelledError) as error:
            self._refuse(*site.verdict(self._row, error))
            return
        self._line.connection.respond(self._stream, grpc.HEADERS)
        self._await_deadline()
        try:
            self._inlet = cast(Open, self._row.handler)(self.call, self)
        except (Exception, asyncio.CancelledError) as error:
            self.finish(*site.verdict(self._row, error))

    def data(self, data: bytes, ended: bool) -> None:
        """Feeds the inlet."""
        inlet = self._inlet
        if self._over or inlet is None:
            return
        try:
            for message in self._feed(data, ended) if data else ():
                inlet.message(message)
                if self._over:
                    return
            if ended:
                inlet.half_closed()
        except (Exception, asyncio.CancelledError) as error:
            self.finish(*self._line.site.verdict(self._row, error))

    def write(self, message: bytes) -> None:
        """See Outlet."""
        if self._over:
            return
        connection, stream = self._line.connection, self._stream
        bytes_max = self._line.site.limits.outlet_bytes_max
        if stream.queued_bytes + len(message) > bytes_max:
            self._response_bytes = max(0, self._response_bytes - connection.drop_queue(stream))
            self.finish(GrpcCode.RESOURCE_EXHAUSTED, f"more than {bytes_max} bytes wait for you to read this stream")
            return
        connection.send(stream, (grpc.prefix(len(message)), message))
        self._response_bytes += len(message)
        self._line.wake()

    def finish(self, code: GrpcCode = GrpcCode.OK, text: str = "") -> None:
        """See Outlet."""
        if self._over:
            return
        self._over = True
        self._code = code
        if self._line.connection.end(self._stream, grpc.trailers(code, text)):
            self.sent()
        self._line.wake()

    fail = finish

    def sent(self) -> None:
        """All that was written is on its way, the status, too; the service hears of it once it has returned to us."""
        self._line.site.loop.call_soon(self._close)

    def gone(self) -> None:
        """The client left, or broke the rules."""
        if not self._over:
            self._over = True
            self._code = GrpcCode.CANCELLED
            self.call.cancelled = True
        self._response_bytes = max(0, self._response_bytes - self._stream.queued_bytes)
        self._line.site.loop.call_soon(self._close)

    def _refuse(self, code: GrpcCode, text: str) -> None:
        self._line.connection.end(self._stream, grpc.refusal(code, text))
        self._end(code, 0)
        self._closed = True

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            if self._inlet is not None:
                self._inlet.closed()
        except Exception:
            self._line.site.log.exception("%s failed to close a stream", self._row.path)
        self._end(self._code, self._response_bytes)
