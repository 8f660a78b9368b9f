"""The server's side of one HTTP/2 connection (RFC 9113): bytes in, events out; answers in, bytes out.

Promises: no input makes `receive` raise; the same bytes give the same events however they are cut; what a client can
make us keep or do is bounded by Limits. Does not: know sockets, time (the caller ticks once a second), or what the
requests mean. Priorities are read and ignored; push does not exist.

    receive(bytes) -> events; behind: receive(b"") goes on      once they are handled: take() -> bytes for the socket
    respond, send, end, answer: one stream's answer             advance(): when the socket takes more
"""

from rmq_proxy.http2 import frames
from rmq_proxy.http2.blocks import Blocks
from rmq_proxy.http2.errors import ErrorCode, PeerError, StreamError
from rmq_proxy.http2.events import AnswerSent, ConnectionFailed, DataReceived, Event, RequestReceived, StreamEnded
from rmq_proxy.http2.floods import RESETS, Floods
from rmq_proxy.http2.hpack import ILLEGAL, LENGTH, PSEUDO, REQUIRED, Block
from rmq_proxy.http2.limits import Limits
from rmq_proxy.http2.outflow import Outflow
from rmq_proxy.http2.stream import CLOSED, ENDED, OPEN, Stream
from rmq_proxy.http2.streams import Streams

DRAIN_PING = b"draining"
PRIORITY_BYTES = 5
_SHAPED = frames.PADDED | frames.PRIORITIZED


class Connection:
    """One connection, from its preface to its GOAWAY."""

    def __init__(self, limits: Limits) -> None:
        self.streams = Streams()
        self.draining = False  # a first GOAWAY is out
        self.refusing = False  # the last one is: new streams are not looked at
        self._limits = limits
        self._out = Outflow(limits)
        self._blocks = Blocks(limits)
        self._floods = Floods(limits)
        self._events: list[Event] = []
        self._tail = b""  # the start of a frame that is not here yet
        self._greeted = False  # the client's preface was seen, and SETTINGS begins behind it
        self.resting = False  # `tick` found nothing under way that could be too slow
        self.behind = False  # `receive` took as many frames as it might: more may be here already
        self.failed = False  # GOAWAY with an error is out, or the socket is gone
        self._read_window = max(limits.connection_window_bytes, frames.WINDOW_DEFAULT)
        self._read_window_low = limits.connection_window_bytes // 2
        self._progress = -1  # bytes sent at the last tick
        self._took = False  # the socket took more since then
        self._handlers = (
            self._on_data,
            self._on_headers,
            self._on_priority,
            self._on_rst_stream,
            self._on_settings,
            self._on_push_promise,
            self._on_ping,
            self._on_goaway,
            self._on_window_update,
            self._on_continuation,
        )
        self._out.greet()

    # ---- The caller's side: what goes out ----

    @property
    def finished(self) -> bool:
        """Nothing is left to do here: close once all is written."""
        return self.failed or (self.refusing and not self.streams)

    @property
    def stirring(self) -> bool:
        """There is something for `advance` to do, or to tell."""
        return self._out.waiting or bool(self._events)

    @property
    def held_bytes(self) -> int:
        """Of answers that the client does not take yet."""
        return self._out.held_bytes

    @property
    def writable(self) -> bool:
        """Whether the socket takes more; the caller sets it, and calls `advance` when it becomes true."""
        return self._out.writable

    @writable.setter
    def writable(self, writable: bool) -> None:
        self._out.writable = writable
        self._took = self._took or writable

    def take(self) -> bytes:
        """All bytes that are ready."""
        return self._out.take()

    def answer(self, stream: Stream, body_bytes: int, pieces: tuple[bytes, ...]) -> bool:
        """A whole answer as frames that were prepared, `body_bytes` of them in one DATA; almost every call ends so.

        False: something is in the way, and nothing was done; the answer then goes by `respond`, `send` and `end`.
        """
        self._floods.answered = True
        if stream.state is CLOSED or not self._out.answer(stream, body_bytes, pieces):
            return False
        self._close(stream)
        return True

    def respond(self, stream: Stream, headers: bytes) -> None:
        """The header block of an answer that follows in pieces."""
        if stream.state is not CLOSED:
            self._floods.answered = True
            self._out.headers(stream, headers)

    def send(self, stream: Stream, chunks: tuple[bytes, ...]) -> None:
        """A piece of the body. The chunks are kept as they are until the client takes them."""
        if stream.state is CLOSED:
            return
        self._floods.answered = True
        try:
            self._out.send(stream, chunks)
        except PeerError as failure:
            self._fail(failure)

    def end(self, stream: Stream, trailers: bytes) -> bool:
        """The last header block, alone it is the whole answer; empty: the body's end is the answer's.

        True: all is on its way, else AnswerSent tells.
        """
        if stream.state is CLOSED:
            return False
        self._floods.answered = True
        if not self._out.end(stream, trailers):
            return False
        self._close(stream)
        return True

    def drop_queue(self, stream: Stream) -> int:
        """Forgets what was sent on a stream and is still here; how many bytes."""
        self._out.forget(stream)
        dropped, stream.queued_bytes = stream.queued_bytes, 0
        return dropped

    def advance(self) -> list[Event]:
        """Moves what waited, as far as it goes now."""
        held_bytes = self._out.held_bytes
        for stream in self._out.move():
            self._close(stream)
            self._events.append(AnswerSent(stream))
        if self._out.held_bytes != held_bytes:
            self._floods.answered = True  # what opens windows that we use is no flood
        return self._take_events()

    # ---- The caller's side: life ----

    def tick(self, now_s: float) -> list[Event]:
        """Once a second: forgets what was counted, and ends what takes too long."""
        self._floods.tick()
        try:
            self._floods.watch("a header block", self._blocks.partial is not None, self._limits.headers_s, now_s)
            held = self._out.waiting and self._out.sent_bytes == self._progress
            self._floods.watch("your window", held, self._limits.stall_s, now_s)
            self._floods.watch("your socket", not (self.writable or self._took), self._limits.stall_s, now_s)
            self._progress, self._took = self._out.sent_bytes, False
            self.resting = self.writable and not self._out.waiting and self._blocks.partial is None
        except PeerError as failure:
            self._fail(failure)
        return self._take_events()

    def drain(self) -> None:
        """The first GOAWAY: calls that are on their way here are still served. The client's PING answer is the last."""
        if not self.draining:
            self.draining = True
            self._out.put(frames.goaway(frames.STREAM_ID_MAX, ErrorCode.NO_ERROR, "the server is going away"))
            self._out.put(frames.ping(DRAIN_PING))

    def refuse(self) -> None:
        """The last GOAWAY: what comes from now on is for another connection. Streams go on to their ends."""
        if not self.refusing:
            self.draining = self.refusing = True
            self._out.put(frames.goaway(self.streams.last_id, ErrorCode.NO_ERROR, "the server is going away"))

    def close(self, code: ErrorCode, text: str) -> list[Event]:
        """GOAWAY and the end of all streams, for a reason of the caller's."""
        self._fail(PeerError(code, text))
        return self._take_events()

    def suspect(self, what: str) -> None:
        """The caller saw something that a flood is made of: a name of floods.COUNTED."""
        try:
            self._floods.note(what)
        except PeerError as failure:
            self._fail(failure)

    def lost(self) -> list[Event]:
        """The socket is gone: ends all streams, says nothing."""
        if not self.failed:
            self.failed = True
            self._end_all(ErrorCode.CANCEL, "the connection is gone")
        return self._take_events()

    # ---- What comes in ----

    def receive(self, data: bytes, frames_max: int = 1 << 30) -> list[Event]:
        """The events of what is whole by now; of `frames_max` frames, then `behind` tells that there may be more."""
        self.behind = False
        if self.failed:
            return []
        if self._tail:
            data = self._tail + data
        try:
            position = 0
            if not self._greeted and frames.greets(data):
                self._greeted, position = True, len(frames.PREFACE)
            if self._greeted:
                position = self._read_frames(data, position, frames_max)
        except PeerError as failure:
            return self.close(failure.code, failure.text)
        self._tail = data[position:] if position < len(data) else b""
        return self.advance() if self._out.waiting else self._take_events()

    def _read_frames(self, data: bytes, position: int, left: int) -> int:
        """Reads whole frames, at most `left`; where the rest begins."""
        size, read_head, handlers = len(data), frames.read_head, self._handlers
        while left and size - position >= frames.HEAD_BYTES:
            left -= 1
            length, flags, stream_id = read_head(data, position)
            kind = length & 0xFF
            length >>= 8
            if length > frames.FRAME_BYTES_MIN:
                raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "a frame is longer than our SETTINGS allow")
            start = position + frames.HEAD_BYTES
            position_next = start + length
            if position_next > size:
                break
            if self._blocks.partial is not None and kind != frames.CONTINUATION:
                raise PeerError(ErrorCode.PROTOCOL_ERROR, "another frame comes inside a header block")
            try:
                if kind <= frames.CONTINUATION:
                    handlers[kind](flags, stream_id & frames.STREAM_ID_MAX, data, start, position_next)
                else:
                    self._floods.note("controls")
            except StreamError as failure:
                self._fail_stream(failure)
            position = position_next
        self.behind = not left
        return position

    def _on_headers(self, flags: int, stream_id: int, data: bytes, start: int, end: int) -> None:
        if not stream_id & 1:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "HEADERS on a stream that no client can open")
        depends_on_itself = False
        if flags & _SHAPED:
            start, end = frames.unpad(flags, data, start, end)
            if flags & frames.PRIORITIZED:
                if end - start < PRIORITY_BYTES:
                    raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS end inside their priority")
                depends_on_itself = frames.depends_on(stream_id, data, start)
                start += PRIORITY_BYTES
        if not flags & frames.END_HEADERS:
            self._blocks.begin(stream_id, flags, data[start:end])
        else:
            self._take_block(stream_id, flags, data[start:end])
        if depends_on_itself:
            raise StreamError(stream_id, ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")

    def _on_continuation(self, flags: int, stream_id: int, data: bytes, start: int, end: int) -> None:
        whole = self._blocks.extend(stream_id, flags, data[start:end])
        if whole is not None:
            self._take_block(stream_id, whole.flags, bytes(whole.data))

    def _take_block(self, stream_id: int, flags: int, data: bytes) -> None:
        block = self._blocks.decode(data)
        ended = flags & frames.END_STREAM != 0
        if stream_id > self.streams.last_id:
            self._open(stream_id, block, ended)
            return
        stream = self.streams.taking(stream_id, frames.HEADERS)
        if stream is None:
            return
        if not ended or block.marks & (PSEUDO | ILLEGAL):
            raise StreamError(stream_id, ErrorCode.PROTOCOL_ERROR, "trailers must be plain fields and the end")
        self._take_body(stream, b"", True)

    def _open(self, stream_id: int, block: Block, ended: bool) -> None:
        self.streams.last_id = stream_id
        if self.refusing:
            self.streams.leave(stream_id)
            return
        if len(self.streams) >= self._limits.streams_max:
            raise StreamError(stream_id, ErrorCode.REFUSED_STREAM, "too many streams are open", flood="refused")
        too_large = block.list_bytes > self._limits.header_list_bytes_max
        if block.marks & ILLEGAL or (block.marks & REQUIRED != REQUIRED and not too_large):
            raise StreamError(stream_id, ErrorCode.PROTOCOL_ERROR, "this is no well-formed request")
        state = ENDED if ended else OPEN
        stream = Stream(stream_id, state, self._out.initial_window, self._limits.stream_window_bytes)
        if block.marks & LENGTH and not too_large:
            stream.body_bytes_left = int(next(value for name, value in block.fields if name == "content-length")[:18])
            if ended and stream.body_bytes_left:
                raise StreamError(stream_id, ErrorCode.PROTOCOL_ERROR, "content-length without a body")
        self.streams[stream_id] = stream
        self._events.append(RequestReceived(stream, block.fields, block.marks, ended, too_large))

    def _on_data(self, flags: int, stream_id: int, data: bytes, start: int, end: int) -> None:
        size = end - start
        self._read_window -= size
        if self._read_window <= self._read_window_low:
            self._open_read_window()
        stream = self.streams.get(stream_id)
        if stream is None or stream.state is not OPEN:
            self.streams.taking(stream_id, frames.DATA)
            return
        window = stream.read_window - size
        if window < 0:
            raise StreamError(stream_id, ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the window allows")
        if flags & frames.PADDED:
            start, end = frames.unpad(flags, data, start, end)
        ended = flags & frames.END_STREAM != 0
        if not ended:
            if start == end:
                self._floods.note("empty_data")
            stream.read_window = window
            if window <= self._limits.stream_window_bytes // 2:
                self._out.put(frames.window_update(stream_id, self._limits.stream_window_bytes - window))
                stream.read_window = self._limits.stream_window_bytes
        self._take_body(stream, data[start:end], ended)

    def _take_body(self, stream: Stream, data: bytes, ended: bool) -> None:
        if stream.body_bytes_left is not None:
            stream.body_bytes_left -= len(data)
            if stream.body_bytes_left < 0 or (ended and stream.body_bytes_left):
                raise StreamError(stream.id, ErrorCode.PROTOCOL_ERROR, "the body is not as long as content-length says")
        if ended:
            stream.state = ENDED
        self._events.append(DataReceived(stream, data, ended))

    def _open_read_window(self) -> None:
        whole = self._limits.connection_window_bytes
        if self._read_window < 0:
            raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the connection's window allows")
        self._out.put(frames.window_update(0, whole - self._read_window))
        self._read_window = whole

    def _on_rst_stream(self, flags: int, stream_id: int, data: bytes, start: int, end: int) -> None:
        if end - start != 4:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM has four bytes")
        stream = self.streams.taking(stream_id, frames.RST_STREAM)
        if stream is None:
            self._floods.note("controls")
            return
        self._floods.note(RESETS)
        self._out.forget(stream)
        self.streams.reset(stream)
        self._events.append(StreamEnded(stream, frames.read_long(data, start)[0], True))

    def _on_window_update(self, flags: int, stream_id: int, data: bytes, start: int, end: int) -> None:
        if end - start != 4:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE has four bytes")
        self._floods.note("controls")
        increment = frames.read_long(data, start)[0] & frames.WINDOW_MAX
        if stream_id == 0:
            if increment == 0:
                raise PeerError(ErrorCode.PROTOCOL_ERROR, "a WINDOW_UPDATE by nothing")
            self._out.grant_all(increment)
            return
        stream = self.streams.taking(stream_id, frames.WINDOW_UPDATE)
        if increment == 0:
            raise StreamError(stream_id, ErrorCode.PROTOCOL_ERROR, "a WINDOW_UPDATE by nothing")
        if stream is not None:
            self._out.grant(stream, increment)

    def _on_settings(self, flags: int, stream_id: int, data: bytes, start: int, end: int) -> None:
        if stream_id:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "SETTINGS belong to the connection")
        if (end - start) % 6 or (flags & frames.ACK and start != end):
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS have six bytes each, their ACK none")
        self._floods.note("settings")
        if flags & frames.ACK:
            return
        for key, value in frames.read_settings(data[start:end]):
            self._out.apply(key, value, self.streams)
        self._out.put(frames.frame(frames.SETTINGS, frames.ACK, 0))

    def _on_ping(self, flags: int, stream_id: int, data: bytes, start: int, end: int) -> None:
        if stream_id:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "PING belongs to the connection")
        if end - start != 8:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "PING has eight bytes")
        self._floods.note("pings")
        if not flags & frames.ACK:
            self._out.put(frames.ping(data[start:end], frames.ACK))
        elif self.draining and data[start:end] == DRAIN_PING:
            self.refuse()

    def _on_priority(self, flags: int, stream_id: int, data: bytes, start: int, end: int) -> None:
        self._floods.note("controls")
        if stream_id == 0:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "PRIORITY belongs to a stream")
        if end - start != PRIORITY_BYTES:
            raise StreamError(stream_id, ErrorCode.FRAME_SIZE_ERROR, "PRIORITY has five bytes")
        if frames.depends_on(stream_id, data, start):
            raise StreamError(stream_id, ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")

    def _on_goaway(self, flags: int, stream_id: int, data: bytes, start: int, end: int) -> None:
        """The client will open no more streams; those that are open go on."""
        self._floods.note("controls")
        if stream_id:
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "GOAWAY belongs to the connection")
        if end - start < 8:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY has eight bytes and more")

    def _on_push_promise(self, flags: int, stream_id: int, data: bytes, start: int, end: int) -> None:
        raise PeerError(ErrorCode.PROTOCOL_ERROR, "a client cannot push")

    # ---- Streams and errors ----

    def _close(self, stream: Stream) -> None:
        """An answer is out: where the request was not whole, the client is told to stop sending it."""
        if stream.state is OPEN:
            self._leave(stream.id, ErrorCode.NO_ERROR)
        else:
            self.streams.close(stream)

    def _leave(self, stream_id: int, code: ErrorCode) -> None:
        self.streams.leave(stream_id)
        self._out.put(frames.rst_stream(stream_id, code))

    def _fail_stream(self, failure: StreamError) -> None:
        if failure.flood:
            self._floods.note(failure.flood)
        stream = self.streams.get(failure.stream_id)
        self._leave(failure.stream_id, failure.code)
        if stream is not None:
            self._out.forget(stream)
            self._events.append(StreamEnded(stream, failure.code, False))

    def _fail(self, failure: PeerError) -> None:
        if not self.failed:
            self.failed = True
            self._out.put(frames.goaway(self.streams.last_id, failure.code, failure.text))
            self._end_all(failure.code, failure.text)

    def _end_all(self, code: ErrorCode, text: str) -> None:
        for stream in self.streams.values():
            self._out.forget(stream)
            stream.state = CLOSED
            self._events.append(StreamEnded(stream, code, False))
        self.streams.clear()
        self._events.append(ConnectionFailed(code, text))

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events
