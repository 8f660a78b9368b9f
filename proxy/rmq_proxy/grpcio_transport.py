"""Serves a table of calls with the stock gRPC stack (grpc.aio): the reference for the native transport.

Owns the ports and the calls in flight. Promises: the gate runs around each call; a LIST answer that did not reach the
client whole is reported through `Call.undelivered`; a poll's Future is cancelled when its client is gone; a handler's
bug ends its own call only. Does not: TLS; nor `Call.authority`, which stays empty because grpc.aio does not tell it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import TypeAlias, TypeVar, cast
from urllib.parse import unquote

import grpc
import grpc.aio

from rmq.errors import ConfigError
from rmq_proxy.ports import reserve
from rmq_proxy.rpc import Call, Gate, GrpcCode, Inlet, Kind, Listing, Open, Row, RpcError, Table, Unary

T = TypeVar("T")
Context: TypeAlias = "grpc.aio.ServicerContext[object, bytes]"  # reads bytes, and EOF once
Method: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"

OUTLET_BYTES_MAX = 16 * 1024 * 1024
"""What a stream holds for a client that does not read; beyond it the stream ends with RESOURCE_EXHAUSTED."""

CALLS_PENDING_MAX = 100_000
"""Calls that have come and wait for the loop to take them: beyond 1,000 grpc would end some at random, as CANCELLED."""

OPTIONS = (
    ("grpc.server.max_pending_requests", CALLS_PENDING_MAX),
    ("grpc.server.max_pending_requests_hard_limit", CALLS_PENDING_MAX),
    ("grpc.so_reuseport", 0),  # a second server on the port must be refused, not get a share of its connections
    ("grpc.http2.max_ping_strikes", 0),  # no GOAWAY too_many_pings: C++ clients ping each minute, calls or not
)


class GrpcioTransport:
    """One grpc.aio server for one table. An inbound message beyond `request_bytes_max` ends in RESOURCE_EXHAUSTED."""

    def __init__(self, table: Table, gate: Gate, *, request_bytes_max: int, log: logging.Logger) -> None:
        self._gate = gate
        self._log = log
        self._options = (*OPTIONS, ("grpc.max_receive_message_length", request_bytes_max))
        self._methods = _Methods({path: self._method(row) for path, row in table.items()})
        self._outlets: set[_Outlet] = set()
        self._server: grpc.aio.Server | None = None

    fingerprint = ""  # no TLS

    async def start(self, hosts: Sequence[str], port: int) -> int:
        """Listens on every host at one port and returns it; 0 picks one that is free on all.

        `::1` is left out on a machine without IPv6. Raises ConfigError when the port is taken or a host is not ours.
        """
        usable, port = reserve(hosts, port)
        server = grpc.aio.server(handlers=[self._methods], options=self._options)
        for host in dict.fromkeys(map(_bindable, usable)):
            try:
                server.add_insecure_port(f"{host}:{port}")
            except RuntimeError:
                raise ConfigError(
                    f"port {port} on {host} was taken while we started; choose another with --port"
                ) from None
        await server.start()
        self._server = server
        return port

    async def stop(self, grace_s: float) -> None:
        """Refuses new calls, ends the streams, gives the rest `grace_s` seconds, then cancels it and closes."""
        if self._server is None:
            return
        # GOAWAY goes first, its task runs before those of the streams: none must come back on the same connection.
        stopping = asyncio.ensure_future(self._server.stop(grace_s))
        for outlet in tuple(self._outlets):
            outlet.finish()  # with OK: an error sends the Rust SDK's Telemetry loop spinning for ever
        await stopping
        self._server = None

    def _method(self, row: Row) -> Method:
        if row.kind is Kind.UNARY:
            return grpc.unary_unary_rpc_method_handler(partial(self._unary, row))
        if row.kind is Kind.LIST:
            return grpc.unary_stream_rpc_method_handler(partial(self._list, row))
        return grpc.stream_stream_rpc_method_handler(partial(self._stream, row))

    async def _unary(self, row: Row, request: bytes, context: Context) -> bytes:
        async def serve(call: Call, sent: "_Sent") -> bytes:
            answer = cast(Unary, row.handler)(call, request)
            if isinstance(answer, asyncio.Future):
                call.waits()
                answer = await answer
            sent.bytes = len(answer)
            return answer

        return await self._frame(row, context, serve)

    async def _list(self, row: Row, request: bytes, context: Context) -> None:
        async def serve(call: Call, sent: "_Sent") -> None:
            answer = cast(Listing, row.handler)(call, request)
            whole = False
            try:
                if isinstance(answer, asyncio.Future):
                    call.waits()
                    messages = await answer
                else:
                    messages = answer
                for message in messages:
                    await context.write(message)
                    sent.bytes += len(message)
                whole = True
            finally:
                if not whole and _has_messages(answer) and call.undelivered is not None:
                    call.undelivered()

        await self._frame(row, context, serve)

    async def _stream(self, row: Row, _: object, context: Context) -> None:
        async def serve(call: Call, sent: "_Sent") -> None:
            await context.send_initial_metadata(())  # the Rust client sends nothing before it has seen it
            outlet = _Outlet()
            inlet = cast(Open, row.handler)(call, outlet)
            self._outlets.add(outlet)
            reader = asyncio.create_task(self._read(row, context, inlet, outlet))  # grpc.aio is read by waiting only
            try:
                async for message in outlet.messages():
                    await context.write(message)
                    sent.bytes += len(message)
            finally:
                self._outlets.discard(outlet)
                outlet.finish()
                reader.cancel()
                inlet.closed()

        await self._frame(row, context, serve)

    async def _read(self, row: Row, context: Context, inlet: Inlet, outlet: "_Outlet") -> None:
        """Feeds the inlet until the client sends no more; what goes wrong ends the stream, through the outlet."""
        try:
            while isinstance(message := await context.read(), bytes):
                inlet.message(message)
            inlet.half_closed()
        except grpc.aio.BaseError:
            outlet.finish(GrpcCode.CANCELLED)  # the call is over, and its own task knows
        except (Exception, asyncio.CancelledError) as error:
            outlet.finish(*self._verdict(row, error))

    async def _frame(self, row: Row, context: Context, serve: "Callable[[Call, _Sent], Awaitable[T]]") -> T:
        """What surrounds every call: the gate, and the status of one that fails."""
        call, sent, code = _describe(context), _Sent(), GrpcCode.OK
        try:
            self._gate.begin(call, row)
            return await serve(call, sent)
        except (Exception, asyncio.CancelledError) as error:
            if _client_is_gone(error):
                call.cancelled = True
                code = GrpcCode.CANCELLED
                raise asyncio.CancelledError from None
            code, text = self._verdict(row, error)
            await context.abort(getattr(grpc.StatusCode, code.name), text)
        finally:
            self._gate.end(call, row, code, sent.bytes)

    def _verdict(self, row: Row, error: BaseException) -> tuple[GrpcCode, str]:
        """The status for what a service raised; the culprit of anything but an RpcError is the server."""
        if isinstance(error, RpcError):
            return error.code, error.text
        if isinstance(error, asyncio.CancelledError):
            return GrpcCode.UNAVAILABLE, "the server gave this call up; try again"
        self._log.error("%s failed", row.path, exc_info=error)
        return GrpcCode.INTERNAL, "internal error; the server's log tells more"


class _Sent:
    """How much of a call's answer was handed over."""

    bytes = 0


class _Methods(grpc.GenericRpcHandler):
    """Finds a path's method; grpc answers UNIMPLEMENTED where there is none."""

    def __init__(self, methods: dict[str, Method]) -> None:
        self._methods = methods

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "Method | None":
        return self._methods.get(handler_call_details.method)


class _Outlet:
    """The server's half of a stream: a queue that the call's own task empties."""

    def __init__(self) -> None:
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._status: RpcError | None = None

    @property
    def ended(self) -> bool:
        """Nothing written from now on will be sent."""
        return self._status is not None

    def write(self, message: bytes) -> None:
        if self.ended:
            return
        self._queue.append(message)
        self._queued_bytes += len(message)
        if self._queued_bytes > OUTLET_BYTES_MAX:
            self._queue.clear()
            self.finish(
                GrpcCode.RESOURCE_EXHAUSTED, f"more than {OUTLET_BYTES_MAX} bytes wait for you to read this stream"
            )
        self._wake.set()

    def finish(self, code: GrpcCode = GrpcCode.OK, text: str = "") -> None:
        if not self.ended:
            self._status = RpcError(code, text)
            self._wake.set()

    async def messages(self) -> AsyncIterator[bytes]:
        """What is written, until the stream is finished; raises its status as RpcError if that is not OK."""
        while self._queue or not self.ended:
            while self._queue:
                message = self._queue.popleft()
                self._queued_bytes -= len(message)
                yield message
            self._wake.clear()
            if not self.ended:
                await self._wake.wait()
        if self._status is not None and self._status.code is not GrpcCode.OK:
            raise self._status


def _bindable(host: str) -> str:
    """As gRPC wants it. Both wildcards become one: gRPC listens on both families for either, and twice fails."""
    if not host.strip("0.:"):
        return "[::]"
    return f"[{host}]" if ":" in host else host


def _describe(context: Context) -> Call:
    remaining_s = cast("float | None", context.time_remaining())
    deadline_s = None if remaining_s is None else asyncio.get_running_loop().time() + remaining_s
    metadata = cast("Sequence[tuple[str, str | bytes]]", context.invocation_metadata())
    return Call(_peer(context.peer()), dict(metadata), deadline_s=deadline_s)


def _peer(text: str) -> str:
    """From gRPC's "ipv4:1.2.3.4:5" and "ipv6:%5B::1%5D:5" to "1.2.3.4:5" and "[::1]:5"."""
    return unquote(text.partition(":")[2])


def _client_is_gone(error: BaseException) -> bool:
    """grpc.aio cancels the call's task then, or fails what the task does with the call.

    A CancelledError without that is a Future that the broker cancelled.
    """
    task = asyncio.current_task()
    return isinstance(error, grpc.aio.BaseError) or (task is not None and task.cancelling() > 0)


def _has_messages(answer: "Sequence[bytes] | asyncio.Future[Sequence[bytes]]") -> bool:
    """Whether the service gave out messages, which are then leased, though perhaps nobody saw the result."""
    if isinstance(answer, asyncio.Future):
        return answer.done() and not answer.cancelled() and answer.exception() is None
    return True
