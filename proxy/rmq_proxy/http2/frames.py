"""HTTP/2 frames as bytes: their kinds and flags, and those that we send (RFC 9113, sections 4 and 6).

    0       3      4       5           9
    | length | kind | flags | stream id | payload ...     big-endian; the id's top bit is ignored

Plain integers and not enums: they are looked up for each frame.
"""

from struct import Struct
from typing import Final

from rmq_proxy.http2.errors import ErrorCode, PeerError

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client says first."""

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITIZED: Final = 0x20

HEADER_TABLE_SIZE: Final = 1
ENABLE_PUSH: Final = 2
MAX_CONCURRENT_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5
MAX_HEADER_LIST_SIZE: Final = 6

HEAD_BYTES: Final = 9
FRAME_BYTES_MIN: Final = 16_384
"""What every peer takes, and all that we take: the least that MAX_FRAME_SIZE may be."""
FRAME_BYTES_MAX: Final = (1 << 24) - 1
WINDOW_MAX: Final = (1 << 31) - 1
WINDOW_DEFAULT: Final = 65_535
STREAM_ID_MAX: Final = (1 << 31) - 1

_HEAD = Struct(">LBL")  # length and kind share the first word
_SETTING = Struct(">HL")
_LONG = Struct(">L")
_TWO_LONGS = Struct(">LL")

read_head = _HEAD.unpack_from
"""(data, position) -> (length << 8 | kind, flags, stream id with its reserved bit)."""
read_long = _LONG.unpack_from
pack_head = _HEAD.pack
"""(length << 8 | kind, flags, stream id) -> the nine bytes before a payload."""


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One whole frame."""
    return _HEAD.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def settings(values: dict[int, int]) -> bytes:
    """Our SETTINGS."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(key, value) for key, value in values.items()))


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """Identifier and value of each, in their order; the length must be a multiple of six."""
    return list(_SETTING.iter_unpack(payload))


def ping(payload: bytes, flags: int = 0) -> bytes:
    """Eight opaque bytes."""
    return frame(PING, flags, 0, payload)


def goaway(last_stream_id: int, code: ErrorCode, text: str = "") -> bytes:
    """`text` is for the people who read the client's log."""
    return frame(GOAWAY, 0, 0, _TWO_LONGS.pack(last_stream_id, code) + text.encode()[:256])


def rst_stream(stream_id: int, code: ErrorCode) -> bytes:
    """Ends one stream."""
    return frame(RST_STREAM, 0, stream_id, _LONG.pack(code))


def window_update(stream_id: int, increment_bytes: int) -> bytes:
    """Credit for the peer's DATA; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream_id, _LONG.pack(increment_bytes))


def headers(stream_id: int, block: bytes, flags: int = END_HEADERS) -> bytes:
    """A header block that fits into one frame, as all of ours do."""
    return _HEAD.pack(len(block) << 8 | HEADERS, flags, stream_id) + block


def unpad(flags: int, data: bytes, start: int, end: int) -> tuple[int, int]:
    """The payload without its padding."""
    if flags & PADDED:
        if start == end:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "a padded frame without its padding length")
        padding = data[start]
        start += 1
        if padding > end - start:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "padding is longer than its frame")
        end -= padding
    return start, end


def depends_on(stream_id: int, data: bytes, start: int) -> bool:
    """Whether the priority at `start` names `stream_id` itself."""
    parent: int = _LONG.unpack_from(data, start)[0]
    return parent & STREAM_ID_MAX == stream_id


def greets(data: bytes) -> bool:
    """Whether `data` begins with the preface and the head of SETTINGS; False while that is not here as a whole.

    Raises PeerError for another beginning.
    """
    if data[: len(PREFACE)] != PREFACE[: len(data)]:
        raise PeerError(ErrorCode.PROTOCOL_ERROR, "this is not HTTP/2's connection preface")
    if len(data) < len(PREFACE) + HEAD_BYTES:
        return False
    if data[len(PREFACE) + 3] != SETTINGS or data[len(PREFACE) + 4] & ACK:
        raise PeerError(ErrorCode.PROTOCOL_ERROR, "the first frame must be SETTINGS")
    return True
