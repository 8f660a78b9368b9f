"""What one connection sends: frames that are ready, and bodies that wait for the client's windows or for the socket.

Owns the windows that the client grants, and shares them among streams in turn. Knows nothing of what comes in.
"""

from collections.abc import Iterator
from typing import Final

from rmq_proxy.http2 import frames
from rmq_proxy.http2.errors import ErrorCode, PeerError, StreamError
from rmq_proxy.http2.limits import Limits
from rmq_proxy.http2.stream import Stream

TURN_BYTES: Final = 64 * 1024
"""What one stream sends before the next has its turn."""
ANSWER_OVERHEAD_BYTES: Final = 100
"""About what an answer's header blocks and frame heads take; exact sums are not worth their time."""
NO_TABLE: Final = b"\x20"
"""Starts our first header block: our encoder's table has no size, whatever the client's SETTINGS allow."""

_head = frames.pack_head


class Outflow:
    """`writable` is the socket's word: while false, nothing moves from the queues to the ready frames."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._ready: list[bytes | memoryview] = []
        self.ready_bytes = 0
        self.held_bytes = 0  # in the queues of all streams
        self.sent_bytes = 0  # ever made ready; tells progress
        self.window = frames.WINDOW_DEFAULT
        self.initial_window = frames.WINDOW_DEFAULT
        self.frame_bytes_max = frames.FRAME_BYTES_MIN
        self.writable = True
        self._first_block = True
        self._waiting: dict[int, Stream] = {}  # have a queue or trailers to send
        self._movable: dict[int, Stream] = {}  # those of them that have a queue and room in their own window
        self._ending: dict[int, Stream] = {}  # those of them that have nothing but their trailers to send

    def greet(self) -> None:
        """Our SETTINGS, and the connection's window, which SETTINGS cannot change."""
        limits = self._limits
        values = {
            frames.HEADER_TABLE_SIZE: limits.header_table_bytes,
            frames.MAX_CONCURRENT_STREAMS: limits.streams_max,
            frames.INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
            frames.MAX_HEADER_LIST_SIZE: limits.header_list_bytes_max,
        }
        self.put(frames.settings(values))
        if limits.connection_window_bytes > frames.WINDOW_DEFAULT:
            self.put(frames.window_update(0, limits.connection_window_bytes - frames.WINDOW_DEFAULT))

    @property
    def waiting(self) -> bool:
        """Something is held back."""
        return bool(self._waiting)

    def put(self, frame: bytes) -> None:
        """A frame that no window holds back."""
        self._ready.append(frame)
        self.ready_bytes += len(frame)

    def take(self) -> bytes:
        """All that is ready, for one write."""
        data = b"".join(self._ready)
        self._ready.clear()
        self.sent_bytes += len(data)
        self.ready_bytes = 0
        return data

    def headers(self, stream: Stream, block: bytes, flags: int = frames.END_HEADERS) -> None:
        """A header block, ahead of all that waits: only for a stream with nothing queued."""
        if self._first_block:
            self._first_block = False
            block = NO_TABLE + block
        self.put(frames.headers(stream.id, block, flags))

    def answer(self, stream: Stream, body_bytes: int, pieces: tuple[bytes, ...]) -> bool:
        """Frames of a whole answer with one DATA of `body_bytes`; False, and nothing done, where that can't go now."""
        if (
            body_bytes > self.window
            or body_bytes > stream.window
            or body_bytes > self.frame_bytes_max
            or not self.writable
            or self._first_block
        ):
            return False
        self.window -= body_bytes
        self._ready += pieces
        self.ready_bytes += body_bytes + ANSWER_OVERHEAD_BYTES
        return True

    def send(self, stream: Stream, chunks: tuple[bytes, ...]) -> None:
        """Queues a piece of a body and moves what can be moved."""
        size = sum(map(len, chunks))
        stream.enqueue(chunks, size)
        self.held_bytes += size
        if self.held_bytes > self._limits.answer_bytes_held_max:
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, "too many bytes of answers wait for you to read them")
        self._wait(stream)

    def end(self, stream: Stream, trailers: bytes) -> bool:
        """Ends the body; True where all of it is on its way at once, else `move` tells."""
        stream.ending = trailers
        self._wait(stream)
        if self._may_move():
            self._move(stream)
        return stream.id not in self._waiting

    def forget(self, stream: Stream) -> None:
        """Drops what is queued for a stream; its `queued_bytes` go on telling how much that was."""
        if stream.queue is not None:
            self.held_bytes -= stream.queued_bytes
            stream.queue = None
        self._stop_waiting(stream)

    def _stop_waiting(self, stream: Stream) -> None:
        self._waiting.pop(stream.id, None)
        self._movable.pop(stream.id, None)
        self._ending.pop(stream.id, None)

    def move(self) -> Iterator[Stream]:
        """Makes ready what windows and socket allow, each stream in turn; yields the streams that are at their end."""
        while self._ending and self._may_move():
            stream = next(iter(self._ending.values()))
            self._move(stream)
            yield stream
        while self._movable and self.window > 0 and self._may_move():
            stream = next(iter(self._movable.values()))
            del self._movable[stream.id]  # to the end of the row, where it has more
            if self._move(stream):
                yield stream

    def _may_move(self) -> bool:
        return self.writable and self.ready_bytes < self._limits.write_step_bytes

    def grant(self, stream: Stream, increment: int) -> None:
        """The client opened a stream's window. Raises StreamError where it becomes too large."""
        stream.window += increment
        if stream.window > frames.WINDOW_MAX:
            raise StreamError(stream.id, ErrorCode.FLOW_CONTROL_ERROR, "a window beyond 2^31-1")
        if stream.id in self._waiting:
            self._wait(stream)

    def grant_all(self, increment: int) -> None:
        """The client opened the connection's window. Raises PeerError where it becomes too large."""
        self.window += increment
        if self.window > frames.WINDOW_MAX:
            raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "a window beyond 2^31-1")

    def apply(self, key: int, value: int, streams: dict[int, Stream]) -> None:
        """One of the client's SETTINGS. Raises PeerError where its value cannot be."""
        if key == frames.INITIAL_WINDOW_SIZE:
            if value > frames.WINDOW_MAX:
                raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "an initial window beyond 2^31-1")
            self._resize_windows(value, streams)
        elif key == frames.MAX_FRAME_SIZE:
            if not frames.FRAME_BYTES_MIN <= value <= frames.FRAME_BYTES_MAX:
                raise PeerError(ErrorCode.PROTOCOL_ERROR, "a frame size that cannot be")
            self.frame_bytes_max = min(value, TURN_BYTES)
        elif key == frames.ENABLE_PUSH and value > 1:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")

    def _resize_windows(self, initial_window: int, streams: dict[int, Stream]) -> None:
        """Moves every stream's window, below zero if need be."""
        change = initial_window - self.initial_window
        self.initial_window = initial_window
        for stream in streams.values():
            stream.window += change
            if stream.window > frames.WINDOW_MAX:
                raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "a window beyond 2^31-1")
        for stream in self._waiting.values():
            self._wait(stream)

    def _wait(self, stream: Stream) -> None:
        self._waiting[stream.id] = stream
        if not stream.queued_bytes:
            if stream.ending is not None:
                self._ending[stream.id] = stream
        elif stream.window > 0:
            self._movable[stream.id] = stream

    def _move(self, stream: Stream) -> bool:
        """One turn of one stream; True when it is at its end."""
        left = min(TURN_BYTES, stream.queued_bytes)
        while left > 0:
            size = min(left, stream.window, self.window, self.frame_bytes_max)
            if size <= 0:
                break
            stream.window -= size
            self.window -= size
            self.held_bytes -= size
            left -= size
            self.put(_head(size << 8, 0, stream.id))
            self._ready += stream.take(size)
            self.ready_bytes += size
        if stream.queued_bytes:
            self._wait(stream)
            return False
        self._stop_waiting(stream)
        if stream.ending is None:
            return False
        if stream.ending:
            self.headers(stream, stream.ending, frames.END_HEADERS | frames.END_STREAM)
        else:
            self.put(frames.frame(frames.DATA, frames.END_STREAM, stream.id))
        return True
