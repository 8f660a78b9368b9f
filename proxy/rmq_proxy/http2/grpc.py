"""gRPC inside HTTP/2: messages in DATA, timeouts and metadata in headers, the status in trailers. Sans-I/O.

| compressed: 1 byte | length: 4 bytes, big-endian | message ... |      in DATA, cut anywhere
"""

import base64
import binascii
import zlib
from collections.abc import Sequence
from functools import lru_cache
from struct import Struct
from typing import Final
from urllib.parse import quote

from rmq_proxy.http2 import frames, hpack
from rmq_proxy.http2.hpack import Field
from rmq_proxy.rpc import GrpcCode, RpcError

PREFIX_BYTES: Final = 5
_PREFIX = Struct(">BL")
TIMEOUT_DIGITS_MAX: Final = 8
_UNIT_S: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_PLAIN: Final = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"
"""Besides letters and digits: what a grpc-message carries as it is; '%' and all that is not printable ASCII do not."""
STATUS_TEXT_CHARS_MAX: Final = 1024

HEADERS: Final = hpack.encode(((":status", "200"), ("content-type", "application/grpc")))
"""The header block of every answer."""
ENCODINGS: Final = ("grpc-accept-encoding", "identity,gzip")


def prefix(length: int) -> bytes:
    """What stands before a message of ours; we compress none."""
    return _PREFIX.pack(0, length)


@lru_cache(1024)
def timeout_s(text: str) -> float:
    """The value of grpc-timeout in seconds; any number of years. Raises RpcError."""
    digits, unit_s = text[:-1], _UNIT_S.get(text[-1:])
    if unit_s is None or len(digits) > TIMEOUT_DIGITS_MAX or not (digits.isascii() and digits.isdigit()):
        raise RpcError(GrpcCode.INVALID_ARGUMENT, f"grpc-timeout {text[:20]!r} is not up to 8 digits and a unit")
    return int(digits) * unit_s


def trailers(code: GrpcCode, text: str = "") -> bytes:
    """The header block that ends an answer."""
    return OK_TRAILERS if code is GrpcCode.OK and not text else hpack.encode(_status(code, text))


def refusal(code: GrpcCode, text: str) -> bytes:
    """A whole answer that is nothing but a status."""
    fields = ((":status", "200"), ("content-type", "application/grpc"), *_status(code, text))
    return hpack.encode((*fields, ENCODINGS) if code is GrpcCode.UNIMPLEMENTED else fields)


def _status(code: GrpcCode, text: str) -> list[Field]:
    status = [("grpc-status", str(code.value))]
    if text:
        status.append(("grpc-message", quote(text[:STATUS_TEXT_CHARS_MAX], safe=_PLAIN)))
    return status


OK_TRAILERS: Final = hpack.encode((("grpc-status", "0"),))


_WHOLE = Struct(f">LBL{len(HEADERS)}sLBLBL")
_LIST = Struct(f">LBL{len(HEADERS)}sLBL")
_END = Struct(f">LBL{len(OK_TRAILERS)}s")
_HEADERS_HEAD: Final = len(HEADERS) << 8 | frames.HEADERS
_TRAILERS_HEAD: Final = len(OK_TRAILERS) << 8 | frames.HEADERS
_END_FLAGS: Final = frames.END_HEADERS | frames.END_STREAM


def answer_frames(stream_id: int, message: bytes) -> tuple[bytes, bytes, bytes]:
    """HEADERS, DATA with one message, HEADERS with status OK: all that most calls are answered with."""
    size = len(message)
    return (
        _WHOLE.pack(
            _HEADERS_HEAD, frames.END_HEADERS, stream_id, HEADERS, size + PREFIX_BYTES << 8, 0, stream_id, 0, size
        ),
        message,
        _END.pack(_TRAILERS_HEAD, _END_FLAGS, stream_id, OK_TRAILERS),
    )


def list_frames(stream_id: int, body: bytes) -> tuple[bytes, bytes, bytes]:
    """The same for messages that are joined, each behind its prefix."""
    return (
        _LIST.pack(_HEADERS_HEAD, frames.END_HEADERS, stream_id, HEADERS, len(body) << 8, 0, stream_id),
        body,
        _END.pack(_TRAILERS_HEAD, _END_FLAGS, stream_id, OK_TRAILERS),
    )


def binary_values(fields: Sequence[Field]) -> dict[str, bytes]:
    """The metadata whose names end in -bin, decoded. Raises RpcError where it is no base64."""
    values = {}
    for name, value in fields:
        if name.endswith("-bin"):
            try:
                parts = [base64.b64decode(part + "=" * (-len(part) % 4), validate=True) for part in value.split(",")]
            except (binascii.Error, ValueError):
                raise RpcError(GrpcCode.INVALID_ARGUMENT, f"the value of {name[:80]} is not base64") from None
            values[name] = b",".join(parts)
    return values


def whole(data: bytes, bytes_max: int) -> bytes | None:
    """The message, where `data` is exactly one that is not compressed, as almost always; else None: see Messages."""
    if len(data) >= PREFIX_BYTES:
        compressed, length = _PREFIX.unpack_from(data)
        if compressed == 0 and length + PREFIX_BYTES == len(data) and length <= bytes_max:
            return data[PREFIX_BYTES:]
    return None


class Messages:
    """Cuts the body of one request into messages. Holds at most one that is not whole.

    A message beyond `bytes_max`, also once it is unpacked, is RESOURCE_EXHAUSTED.
    """

    __slots__ = ("_buffer", "_bytes_max", "_encoding", "_needed")

    def __init__(self, bytes_max: int, encoding: str) -> None:
        self._bytes_max = bytes_max
        self._encoding = encoding
        self._buffer = bytearray()
        self._needed = PREFIX_BYTES  # bytes in the buffer from which on there is something to do

    @property
    def held_bytes(self) -> int:
        """What is kept of a message that is not whole."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are whole now. Raises RpcError."""
        message = None if self._buffer else whole(data, self._bytes_max)
        if message is not None:
            return [message]
        self._buffer += data
        if len(self._buffer) < self._needed:
            return []
        return self._cut()

    def _cut(self) -> list[bytes]:
        messages, buffer, position = [], self._buffer, 0
        while True:
            self._needed = PREFIX_BYTES
            if len(buffer) - position < PREFIX_BYTES:
                break
            compressed, length = _PREFIX.unpack_from(buffer, position)
            if length > self._bytes_max:
                raise RpcError(GrpcCode.RESOURCE_EXHAUSTED, f"a message of {length} bytes; {self._bytes_max} are taken")
            self._needed = PREFIX_BYTES + length
            if len(buffer) - position < self._needed:
                break
            start = position + PREFIX_BYTES
            position += self._needed
            messages.append(self._unpack(compressed, bytes(memoryview(buffer)[start:position])))
        del buffer[:position]
        return messages

    def _unpack(self, compressed: int, message: bytes) -> bytes:
        if compressed == 0:
            return message
        if compressed != 1 or self._encoding == "identity":
            raise RpcError(GrpcCode.INTERNAL, "a message is marked as compressed, and the request names no encoding")
        if self._encoding != "gzip":
            text = f"the encoding {self._encoding[:20]!r} is not known here; send gzip or identity"
            raise RpcError(GrpcCode.UNIMPLEMENTED, text)
        return self._gunzip(message)

    def _gunzip(self, message: bytes) -> bytes:
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
        try:
            data = unpacker.decompress(message, self._bytes_max + 1)
        except zlib.error as error:
            raise RpcError(GrpcCode.INTERNAL, f"a message is not gzip: {error}") from None
        if len(data) > self._bytes_max:
            raise RpcError(GrpcCode.RESOURCE_EXHAUSTED, f"a message unpacks to more than {self._bytes_max} bytes")
        if not unpacker.eof:
            raise RpcError(GrpcCode.INTERNAL, "a message of gzip ends too early")
        return data
