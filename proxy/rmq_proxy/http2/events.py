"""What a connection tells whoever serves its streams."""

from typing import TypeAlias

import msgspec

from rmq_proxy.http2.errors import ErrorCode
from rmq_proxy.http2.hpack import Field
from rmq_proxy.http2.stream import Stream


class RequestReceived(msgspec.Struct, gc=False):
    """A stream began. `too_large`: its header list is beyond the limit, and not kept."""

    stream: Stream
    fields: list[Field]
    marks: int  # of the fields: see hpack
    ended: bool  # nothing follows
    too_large: bool


class DataReceived(msgspec.Struct, gc=False):
    """A piece of a request's body; trailers end it like an empty piece."""

    stream: Stream
    data: bytes
    ended: bool


class StreamEnded(msgspec.Struct, gc=False):
    """The stream is over before its answer was: the client reset it, or broke its rules (then `by_client` is false)."""

    stream: Stream
    code: int
    by_client: bool


class AnswerSent(msgspec.Struct, gc=False):
    """All of an answer that had to wait is on its way."""

    stream: Stream


class ConnectionFailed(msgspec.Struct, gc=False):
    """The last event: GOAWAY is written; all streams are over, whoever serves them must let go."""

    code: ErrorCode
    text: str


Event: TypeAlias = RequestReceived | DataReceived | StreamEnded | AnswerSent | ConnectionFailed
