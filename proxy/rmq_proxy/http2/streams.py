"""All streams of one connection by their ids, those that are over included."""

from typing import Final

from rmq_proxy.http2.errors import ErrorCode, PeerError, StreamError
from rmq_proxy.http2.stream import CLOSED, ERROR_OF, OPEN, RULES, State, Stream, Verdict

LEFT_MAX: Final = 1024
"""How many streams that we, or the client, ended early are remembered, of each kind; what comes late on older ones is a
connection error.
"""


class Streams(dict[int, Stream]):
    """The streams that are open. `last_id` is the highest that the client used: above it they are idle."""

    def __init__(self) -> None:
        super().__init__()
        self.last_id = 0
        self._left: dict[int, None] = {}
        self._reset: dict[int, None] = {}

    def taking(self, stream_id: int, kind: int) -> Stream | None:
        """The stream that takes a frame of this kind; None where the frame is to be dropped. Raises by RULES."""
        stream = self.get(stream_id)
        state = stream.state if stream is not None else self._state_of(stream_id)
        verdict = RULES[state][kind]
        if verdict is Verdict.CONNECTION_ERROR:
            raise PeerError(ERROR_OF[state], f"a frame on a stream that is {state.value}")
        if verdict is Verdict.STREAM_ERROR:
            raise StreamError(stream_id, ErrorCode.STREAM_CLOSED, "a frame after END_STREAM")
        if verdict is Verdict.LATE:
            raise StreamError(stream_id, ErrorCode.STREAM_CLOSED, "a frame after RST_STREAM", flood="")
        return stream

    def _state_of(self, stream_id: int) -> State:
        if stream_id > self.last_id or stream_id == 0:
            return State.IDLE
        if stream_id in self._left:
            return State.LEFT
        return State.RESET if stream_id in self._reset else State.CLOSED

    def close(self, stream: Stream) -> None:
        """Both sides are done."""
        stream.state = CLOSED
        self.pop(stream.id, None)

    def reset(self, stream: Stream) -> None:
        """The client gave it up."""
        if stream.state is OPEN:
            _remember(self._reset, stream.id)
        self.close(stream)

    def leave(self, stream_id: int) -> None:
        """We are done with a stream on which the client may still be sending."""
        stream = self.get(stream_id)
        if stream is not None:
            self.close(stream)
        _remember(self._left, stream_id)


def _remember(ids: dict[int, None], stream_id: int) -> None:
    """Adds one and forgets the oldest of too many."""
    ids[stream_id] = None
    if len(ids) > LEFT_MAX:
        del ids[next(iter(ids))]
