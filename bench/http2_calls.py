"""What the native transport costs a call, without sockets: bytes to the handler and back to bytes.

    .venv-dev/bin/python bench/http2_calls.py       the package h2 (its HPACK encoder) plays the client

Prints the least of many short runs, in us of wall time a call, for three kinds of header blocks; the same for the
decoder alone.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Sequence

import hpack

from rmq_proxy.http2 import frames
from rmq_proxy.http2.connection import Connection
from rmq_proxy.http2.hpack import Decoder
from rmq_proxy.http2.limits import Limits
from rmq_proxy.native.calls import Calls
from rmq_proxy.native.site import Site
from rmq_proxy.rpc import Call, GrpcCode, Kind, Row

CALLS = 8000
CALLS_A_READ = 16
READS_A_RUN = 5
BODY = b"\0" + (1100).to_bytes(4) + bytes(1100)
ANSWER = bytes(16)
FIRST = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/t.T/Call"),
    (":authority", "127.0.0.1:8081"),
    ("content-type", "application/grpc"),
    ("user-agent", "grpc-go/1.50.0"),
    ("te", "trailers"),
)
SDK = (
    ("x-mq-client-id", "host@123@0@abcdef"),
    ("x-mq-protocol", "v2"),
    ("x-mq-language", "GO"),
    ("x-mq-client-version", "5.1.0"),
    ("x-mq-namespace", ""),
    ("authorization", ""),
)


class OpenGate:
    """Lets every call in."""

    def begin(self, call: Call, row: Row) -> None:
        """See Gate."""

    def end(self, call: Call, row: Row, code: GrpcCode, response_bytes: int) -> None:
        """See Gate."""


def constant(number: int) -> Sequence[tuple[str, str]]:
    """7 headers that never change."""
    return FIRST


def timeout(number: int) -> Sequence[tuple[str, str]]:
    """9 headers, the timeout new with each call, as grpc-go sends."""
    return (*FIRST, ("grpc-timeout", f"{4_999_000 + number % 977}u"), SDK[0])


def sdk(number: int) -> Sequence[tuple[str, str]]:
    """16 headers, timeout and request id new with each call, the date with each thousand."""
    date = ("x-mq-date-time", f"20260101T{number // 1000:06d}Z")
    return (*timeout(number)[:8], *SDK, date, ("x-mq-request-id", str(uuid.uuid4())))


def least_us(run: Callable[[bytes], object], pieces: Sequence[bytes], calls_a_piece: int) -> float:
    """The least of many runs, a call."""
    times = []
    for start in range(0, len(pieces), READS_A_RUN):
        part = pieces[start : start + READS_A_RUN]
        began = time.perf_counter()
        for piece in part:
            run(piece)
        times.append((time.perf_counter() - began) / len(part) / calls_a_piece)
    return min(times) * 1e6


async def measure(kind: Callable[[int], Sequence[tuple[str, str]]]) -> tuple[float, float]:
    """Us a call, us of that for the header block."""
    encoder = hpack.Encoder()
    blocks = [encoder.encode(kind(number)) for number in range(CALLS)]
    calls = [
        frames.headers(2 * number + 1, block) + frames.frame(frames.DATA, frames.END_STREAM, 2 * number + 1, BODY)
        for number, block in enumerate(blocks)
    ]
    reads = [b"".join(calls[start : start + CALLS_A_READ]) for start in range(0, CALLS, CALLS_A_READ)]
    limits = Limits(connection_window_bytes=1 << 30)
    row = Row("/t.T/Call", Kind.UNARY, lambda call, request: ANSWER)
    site = Site(
        {row.path: row},
        OpenGate(),
        lambda method, path, peer: (404, "", b""),
        limits=limits,
        request_bytes_max=1 << 20,
        log=logging.getLogger(),
        loop=asyncio.get_running_loop(),
    )
    connection = Connection(limits)
    served = Calls(site, connection, "127.0.0.1:1", tls=False, wake=lambda: None)

    def read(piece: bytes) -> None:
        served.handle(connection.receive(piece))
        connection.take()

    read(frames.PREFACE + frames.settings({}) + frames.window_update(0, 1 << 30))
    whole_us = least_us(read, reads, CALLS_A_READ)
    assert not connection.streams
    decoder = Decoder(4096, 16_384)
    return whole_us, least_us(decoder.decode, blocks, 1)


if __name__ == "__main__":
    for kind in (constant, timeout, sdk):
        whole_us, block_us = asyncio.run(measure(kind))
        print(f"{whole_us:5.1f} us a call, {block_us:4.1f} of it the header block: {kind.__doc__}")
