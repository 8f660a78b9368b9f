"""A client for the tests of the protocol: writes frames by hand, reads what the connection answers."""

from collections.abc import Sequence
from typing import NamedTuple

from rmq_proxy.http2 import frames, hpack
from rmq_proxy.http2.connection import Connection
from rmq_proxy.http2.errors import ErrorCode
from rmq_proxy.http2.events import Event
from rmq_proxy.http2.limits import Limits

REQUEST = ((":method", "POST"), (":scheme", "http"), (":path", "/t.T/Echo"), ("content-type", "application/grpc"))
HEADERS_BLOCK = hpack.encode(((":status", "200"),))
TRAILERS_BLOCK = hpack.encode((("grpc-status", "0"),))
START = frames.PREFACE + frames.settings({})


class Frame(NamedTuple):
    """One frame that was answered."""

    kind: int
    flags: int
    stream_id: int
    payload: bytes


def parse(data: bytes) -> list[Frame]:
    """All frames of `data`, which must be whole."""
    found = []
    position = 0
    while position < len(data):
        length, flags, stream_id = frames.read_head(data, position)
        start = position + frames.HEAD_BYTES
        position = start + (length >> 8)
        assert position <= len(data)
        found.append(Frame(length & 0xFF, flags, stream_id, data[start:position]))
    return found


def request(
    stream_id: int,
    fields: Sequence[tuple[str, str]] = REQUEST,
    flags: int = frames.END_HEADERS | frames.END_STREAM,
) -> bytes:
    """HEADERS."""
    return frames.frame(frames.HEADERS, flags, stream_id, hpack.encode(fields))


def open_request(stream_id: int, fields: Sequence[tuple[str, str]] = REQUEST) -> bytes:
    """HEADERS of a request whose body follows."""
    return request(stream_id, fields, frames.END_HEADERS)


def data(stream_id: int, body: bytes, flags: int = 0) -> bytes:
    """DATA."""
    return frames.frame(frames.DATA, flags, stream_id, body)


class Peer:
    """A connection that has greeted, and what it answers."""

    def __init__(self, limits: Limits | None = None, start: bytes = START) -> None:
        self.connection = Connection(limits or Limits())
        self.connection.receive(start)
        self.greeting = self.answers()

    def send(self, *pieces: bytes) -> list[Event]:
        """The events of what is sent in one go."""
        return self.connection.receive(b"".join(pieces))

    def answers(self, kind: int | None = None) -> list[Frame]:
        """What the connection wrote since the last time; of one kind, or all."""
        written = parse(self.connection.take())
        return [frame for frame in written if kind is None or frame.kind == kind]

    def goaway(self) -> ErrorCode:
        """The code of the GOAWAY that must have been written."""
        (frame,) = self.answers(frames.GOAWAY)
        assert self.connection.failed
        return ErrorCode(int.from_bytes(frame.payload[4:8]))

    def resets(self) -> list[tuple[int, ErrorCode]]:
        """Stream and code of each RST_STREAM."""
        return [
            (frame.stream_id, ErrorCode(int.from_bytes(frame.payload))) for frame in self.answers(frames.RST_STREAM)
        ]
