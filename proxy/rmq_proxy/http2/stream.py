"""One stream as the server sees it, and the table of what each frame means in each of its states.

We end a stream whole: an answer that is complete before its request is followed by RST_STREAM with NO_ERROR, so that
"half closed (local)" does not occur (RFC 9113, sections 5.1 and 8.1).
"""

import enum
from collections import deque
from typing import Any, Final

from rmq_proxy.http2 import frames
from rmq_proxy.http2.errors import ErrorCode


class State(enum.Enum):
    """Where a stream is in its life; those that are not kept any more are told by their id alone."""

    IDLE = "idle"  # above every id that the client used
    OPEN = "open"  # both may send
    ENDED = "ended"  # the client has sent all; we answer
    CLOSED = "closed"  # both are done, or the client reset it when it had sent all
    RESET = "reset"  # the client reset it in the middle of its request, whose rest may still come
    LEFT = "left"  # we ended it while the client may still be sending: what comes is dropped


OPEN: Final = State.OPEN
ENDED: Final = State.ENDED
CLOSED: Final = State.CLOSED
"""Python 3.11 takes 150 ns to look up a member of an enum, and each call asks ten times."""


class Verdict(enum.Enum):
    """What to do with a frame."""

    TAKE = "take"
    IGNORE = "ignore"
    STREAM_ERROR = "stream error"  # STREAM_CLOSED
    LATE = "late"  # the same, but no sign of a flood: the first is answered, the next are dropped
    CONNECTION_ERROR = "connection error"  # PROTOCOL_ERROR on an idle stream, STREAM_CLOSED on a closed one


RULES: Final[dict[State, dict[int, Verdict]]] = {
    State.IDLE: {
        frames.HEADERS: Verdict.TAKE,
        frames.DATA: Verdict.CONNECTION_ERROR,
        frames.RST_STREAM: Verdict.CONNECTION_ERROR,
        frames.WINDOW_UPDATE: Verdict.CONNECTION_ERROR,
    },
    State.OPEN: {
        frames.HEADERS: Verdict.TAKE,
        frames.DATA: Verdict.TAKE,
        frames.RST_STREAM: Verdict.TAKE,
        frames.WINDOW_UPDATE: Verdict.TAKE,
    },
    State.ENDED: {
        frames.HEADERS: Verdict.STREAM_ERROR,
        frames.DATA: Verdict.STREAM_ERROR,
        frames.RST_STREAM: Verdict.TAKE,
        frames.WINDOW_UPDATE: Verdict.TAKE,
    },
    State.CLOSED: {
        frames.HEADERS: Verdict.CONNECTION_ERROR,
        frames.DATA: Verdict.CONNECTION_ERROR,
        frames.RST_STREAM: Verdict.IGNORE,
        frames.WINDOW_UPDATE: Verdict.IGNORE,
    },
    # grpc-java sends the request of a call that is cancelled at once behind its RST_STREAM.
    State.RESET: {
        frames.HEADERS: Verdict.LATE,
        frames.DATA: Verdict.LATE,
        frames.RST_STREAM: Verdict.IGNORE,
        frames.WINDOW_UPDATE: Verdict.IGNORE,
    },
    State.LEFT: {
        frames.HEADERS: Verdict.IGNORE,
        frames.DATA: Verdict.IGNORE,
        frames.RST_STREAM: Verdict.IGNORE,
        frames.WINDOW_UPDATE: Verdict.IGNORE,
    },
}
ERROR_OF: Final = {State.IDLE: ErrorCode.PROTOCOL_ERROR, State.CLOSED: ErrorCode.STREAM_CLOSED}
"""The code of a connection error, by state."""


class Stream:
    """One call's place on the connection. `owner` is whoever serves it; the protocol does not look at it."""

    # What most streams never set is set here, since one is made for each call.
    body_bytes_left: int | None = None  # by content-length, where there is one
    queue: "deque[bytes | memoryview] | None" = None  # what the windows or the socket hold back
    queued_bytes = 0
    ending: bytes | None = None  # the trailers that follow the queue
    owner: Any = None

    def __init__(self, stream_id: int, state: State, window: int, read_window: int) -> None:
        self.id = stream_id
        self.state = state
        self.window = window  # what we may send; below zero after the client shrank it
        self.read_window = read_window  # what the client may send

    def enqueue(self, chunks: tuple[bytes, ...], size: int) -> None:
        """Keeps what cannot be sent yet."""
        if self.queue is None:
            self.queue = deque()
        self.queue.extend(chunks)
        self.queued_bytes += size

    def take(self, size: int) -> list[bytes | memoryview]:
        """The next `size` bytes of the queue, in pieces; there must be as many."""
        queue, pieces = self.queue, []
        assert queue is not None
        assert size <= self.queued_bytes
        self.queued_bytes -= size
        while size:
            piece = queue.popleft()
            if len(piece) > size:
                view = memoryview(piece)
                queue.appendleft(view[size:])
                piece = view[:size]
            size -= len(piece)
            pieces.append(piece)
        return pieces
