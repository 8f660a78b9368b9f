"""gRPC stacks as clients, all behind one small interface of raw bytes: grpcio in this process, four others as drivers.

Owns the words in which the conformance suite is written (Stack, Channel, Stream) and the protocol of the drivers in
tests/clients/stacks, whose lines tests/clients/harness.py carries. Promises that a call's end is told as its status,
whatever it is, that a message is asked for only when it is read, and that closing a channel ends its calls. Knows no
scenario.

    op          name     further fields                                          answer
    connect     channel  target, tls, gzip, keepalive_ms                         -           tls: nothing is verified
    unary       call     channel, path, metadata, body, deadline_ms              code, text, body
    open        call     channel, path, metadata, body or null                   -           with a body: half-closed
    headers     call     -                                                       -           when the headers came
    read        call     -                                                       body, or code and text: the end
    write       call     body                                                    -
    half_close  call     -                                                       -
    cancel      call     -                                                       -           of a unary call, too
    close       channel  -                                                       -           cancels its calls

Metadata are pairs of name and value; bodies, and values of names in -bin, are base64.
"""

import asyncio
import base64
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, cast

import grpc
import grpc.aio

from tests.clients.harness import JSON, Process

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]
End: TypeAlias = tuple[int, str]


class CallError(Exception):
    """A call ended with another status than OK."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text


@dataclass(frozen=True)
class Options:
    """How a channel talks. `certificate`: TLS, whose server has this PEM; only grpcio's client insists on it."""

    certificate: bytes | None = None
    gzip: bool = False
    keepalive_ms: int = 0


PLAIN = Options()


class Stream(Protocol):
    """A call with any number of messages."""

    async def headers(self) -> None:
        """Waits until the server's headers, or the end, are here."""

    async def read(self) -> bytes | None:
        """One message, or None: the call is over, with `end`."""

    async def write(self, message: bytes) -> None:
        """Sends one message."""

    async def half_close(self) -> None:
        """Sends no more."""

    async def cancel(self) -> None:
        """Gives the call up."""

    async def end(self) -> End:
        """Reads what is left; the status."""


class Channel(Protocol):
    """One connection, opened by its first call."""

    async def unary(
        self, path: str, request: bytes, metadata: Metadata = (), timeout_s: float | None = None
    ) -> bytes: ...

    async def open(self, path: str, request: bytes | None = None, metadata: Metadata = ()) -> Stream:
        """With a request: one message and the half-close."""

    async def close(self) -> None:
        """Ends its calls, too."""


class Stack(Protocol):
    """An implementation of gRPC."""

    @property
    def name(self) -> str: ...

    async def connect(self, target: str, options: Options = PLAIN) -> Channel:
        """`target` is HOST:PORT."""


# ---- grpcio, in this process ----


class Grpcio:
    """Serves as everybody's example."""

    name = "grpcio"

    async def connect(self, target: str, options: Options = PLAIN) -> Channel:
        """See Stack."""
        arguments: list[tuple[str, object]] = [("grpc.use_local_subchannel_pool", 1)]
        if options.keepalive_ms:
            arguments += [
                ("grpc.keepalive_time_ms", options.keepalive_ms),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.max_pings_without_data", 0),
            ]
        compression = grpc.Compression.Gzip if options.gzip else None
        if options.certificate is None:
            return GrpcioChannel(grpc.aio.insecure_channel(target, arguments, compression))
        arguments.append(("grpc.ssl_target_name_override", "localhost"))
        trusted = grpc.ssl_channel_credentials(options.certificate)
        return GrpcioChannel(grpc.aio.secure_channel(target, trusted, arguments, compression))


class GrpcioChannel:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    async def unary(self, path: str, request: bytes, metadata: Metadata = (), timeout_s: float | None = None) -> bytes:
        call = cast("Callable[..., grpc.aio.UnaryUnaryCall[bytes, bytes]]", self.channel.unary_unary(path))
        try:
            return await call(request, metadata=tuple(metadata), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise CallError(error.code().value[0], error.details() or "") from None

    async def open(self, path: str, request: bytes | None = None, metadata: Metadata = ()) -> Stream:
        if request is None:
            stream = cast("Callable[..., GrpcioCall]", self.channel.stream_stream(path))
            return GrpcioStream(stream(metadata=tuple(metadata)))
        listing = cast("Callable[..., GrpcioCall]", self.channel.unary_stream(path))
        return GrpcioStream(listing(request, metadata=tuple(metadata)))

    async def close(self) -> None:
        await self.channel.close()


GrpcioCall: TypeAlias = "grpc.aio.StreamStreamCall[bytes, bytes] | grpc.aio.UnaryStreamCall[bytes, bytes]"


class GrpcioStream:
    def __init__(self, call: GrpcioCall) -> None:
        self.call = call

    async def headers(self) -> None:
        await self.call.initial_metadata()

    async def read(self) -> bytes | None:
        try:
            message = await self.call.read()
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            if not self.call.done():
                raise  # it is the reader that was cancelled
            return None
        return None if message is grpc.aio.EOF else cast(bytes, message)

    async def write(self, message: bytes) -> None:
        await cast("grpc.aio.StreamStreamCall[bytes, bytes]", self.call).write(message)

    async def half_close(self) -> None:
        await cast("grpc.aio.StreamStreamCall[bytes, bytes]", self.call).done_writing()

    async def cancel(self) -> None:
        self.call.cancel()

    async def end(self) -> End:
        while await self.read() is not None:
            pass
        return (await self.call.code()).value[0], await self.call.details() or ""


GRPCIO = Grpcio()

# ---- Stacks of other languages ----


@dataclass(frozen=True)
class Driven:
    """The stack behind a driver's process."""

    name: str
    process: Process

    async def connect(self, target: str, options: Options = PLAIN) -> Channel:
        """See Stack."""
        channel = DrivenChannel(self.process)
        await channel.ask(
            "connect",
            channel.name,
            target=target,
            tls=options.certificate and options.certificate.decode(),
            gzip=options.gzip,
            keepalive_ms=options.keepalive_ms,
        )
        return channel


class DrivenChannel:
    names = itertools.count(1)

    def __init__(self, process: Process) -> None:
        self.process = process
        self.name = f"channel-{next(self.names)}"
        self.closed = False

    async def ask(self, op: str, name: str, **args: object) -> JSON:
        """A command's answer. Raises AssertionError for an error of the driver: a status is none."""
        # Shielded: a test that gives up must not cancel the Future that the driver's reader is going to resolve.
        answer = await asyncio.shield(asyncio.wrap_future(self.process.begin(op, name, **args)))
        assert "error" not in answer, f"{op}: {answer['error']}"
        return answer

    async def unary(self, path: str, request: bytes, metadata: Metadata = (), timeout_s: float | None = None) -> bytes:
        name = f"call-{next(self.names)}"
        try:
            answer = await self.ask(
                "unary",
                name,
                channel=self.name,
                path=path,
                metadata=pairs(metadata),
                body=text(request),
                deadline_ms=None if timeout_s is None else round(timeout_s * 1000),
            )
        except asyncio.CancelledError:
            self.process.begin("cancel", name)
            raise
        if answer["code"]:
            raise CallError(answer["code"], answer["text"])
        return base64.b64decode(answer["body"])

    async def open(self, path: str, request: bytes | None = None, metadata: Metadata = ()) -> Stream:
        name = f"call-{next(self.names)}"
        body = None if request is None else text(request)
        await self.ask("open", name, channel=self.name, path=path, metadata=pairs(metadata), body=body)
        return DrivenStream(self, name)

    async def close(self) -> None:
        if not self.closed:
            self.closed = True
            await self.ask("close", self.name)


class DrivenStream:
    def __init__(self, channel: DrivenChannel, name: str) -> None:
        self.channel = channel
        self.name = name
        self.status: End | None = None

    async def headers(self) -> None:
        await self.channel.ask("headers", self.name)

    async def read(self) -> bytes | None:
        answer = await self.channel.ask("read", self.name)
        if "code" in answer:
            self.status = answer["code"], answer["text"]
            return None
        return base64.b64decode(answer["body"])

    async def write(self, message: bytes) -> None:
        await self.channel.ask("write", self.name, body=text(message))

    async def half_close(self) -> None:
        await self.channel.ask("half_close", self.name)

    async def cancel(self) -> None:
        await self.channel.ask("cancel", self.name)

    async def end(self) -> End:
        while self.status is None:
            await self.read()
        return self.status


def text(data: bytes) -> str:
    """As the drivers take it."""
    return base64.b64encode(data).decode()


def pairs(metadata: Metadata) -> list[tuple[str, str]]:
    """As the drivers take them."""
    return [(key, text(value) if isinstance(value, bytes) else value) for key, value in metadata]
