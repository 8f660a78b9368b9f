"""Collects the frames of one header block and decodes it: HEADERS, then CONTINUATION until END_HEADERS."""

import msgspec

from rmq_proxy.http2 import frames
from rmq_proxy.http2.errors import ErrorCode, PeerError
from rmq_proxy.http2.hpack import Block, Decoder, HpackError
from rmq_proxy.http2.limits import Limits


class Partial(msgspec.Struct):
    """A header block whose end is still to come."""

    stream_id: int
    flags: int  # of its HEADERS frame
    data: bytearray
    continuations: int = 0


class Blocks:
    """The header blocks of one connection. `partial` is the one that is under way: no other frame may come then."""

    __slots__ = ("_decoder", "_limits", "partial")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._decoder = Decoder(limits.header_table_bytes, limits.header_list_bytes_max)
        self.partial: Partial | None = None

    def begin(self, stream_id: int, flags: int, fragment: bytes) -> None:
        """A HEADERS frame without END_HEADERS."""
        self.partial = Partial(stream_id, flags, bytearray(fragment))
        self._check(len(fragment))

    def extend(self, stream_id: int, flags: int, fragment: bytes) -> Partial | None:
        """A CONTINUATION; the whole of the block where this was its last."""
        partial = self.partial
        if partial is None or partial.stream_id != stream_id:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "a CONTINUATION goes on with nothing")
        partial.data += fragment
        partial.continuations += 1
        self._check(len(partial.data))
        if partial.continuations > self._limits.continuations_max:
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, "too many CONTINUATION frames")
        if not flags & frames.END_HEADERS:
            return None
        self.partial = None
        return partial

    def decode(self, data: bytes) -> Block:
        """Every block must be decoded, wanted or not, because each may change the table."""
        if len(data) > self._limits.header_block_bytes_max:
            self._check(len(data))
        try:
            block = self._decoder.decode(data)
        except HpackError as error:
            raise PeerError(ErrorCode.COMPRESSION_ERROR, str(error)) from None
        if block.list_bytes > self._limits.header_list_bytes_calm:
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, "a header list is far too large")
        return block

    def _check(self, block_bytes: int) -> None:
        if block_bytes > self._limits.header_block_bytes_max:
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, "a header block is too large")
