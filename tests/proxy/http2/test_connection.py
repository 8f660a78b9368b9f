"""The protocol by RFC 9113: requests, answers, windows, errors by culprit, the end. h2spec covers the rest."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmq_proxy.http2 import frames, hpack
from rmq_proxy.http2.errors import ErrorCode
from rmq_proxy.http2.events import AnswerSent, ConnectionFailed, DataReceived, Event, RequestReceived, StreamEnded
from rmq_proxy.http2.limits import Limits
from rmq_proxy.http2.stream import Stream
from rmq_proxy.http2.streams import LEFT_MAX
from tests.proxy.http2.peer import HEADERS_BLOCK, REQUEST, START, TRAILERS_BLOCK, Peer, data, open_request, request


def started(events: list[Event]) -> Stream:
    """The stream of the one request in `events`."""
    (stream,) = [event.stream for event in events if isinstance(event, RequestReceived)]
    return stream


def answer(peer: Peer, stream: Stream, body: bytes) -> bool:
    """Answers in pieces."""
    peer.connection.respond(stream, HEADERS_BLOCK)
    peer.connection.send(stream, (body,))
    done = peer.connection.end(stream, TRAILERS_BLOCK)
    peer.connection.advance()
    return done


def bodies(peer: Peer) -> dict[int, int]:
    """DATA bytes that were written, by stream."""
    written: dict[int, int] = {}
    for frame in peer.answers(frames.DATA):
        written[frame.stream_id] = written.get(frame.stream_id, 0) + len(frame.payload)
    return written


# ---- Requests ----


def test_greeting() -> None:
    """Our SETTINGS and a larger window come first, the ACK of the client's after."""
    kinds = [(frame.kind, frame.flags) for frame in Peer().greeting]
    assert kinds == [(frames.SETTINGS, 0), (frames.WINDOW_UPDATE, 0), (frames.SETTINGS, frames.ACK)]


def test_request_and_body() -> None:
    """HEADERS, DATA in two pieces, the second with padding."""
    peer = Peer()
    first, *rest = peer.send(
        open_request(1), data(1, b"ab"), data(1, b"\x03cd\0\0\0", frames.PADDED | frames.END_STREAM)
    )
    assert isinstance(first, RequestReceived)
    assert (first.fields, first.ended, first.too_large) == (list(REQUEST), False, False)
    pieces = [(event.data, event.ended) for event in rest if isinstance(event, DataReceived)]
    assert pieces == [(b"ab", False), (b"cd", True)]


def test_priority_and_padding_of_headers() -> None:
    """Both are read over."""
    block = hpack.encode(REQUEST)
    shaped = b"\x02" + b"\0\0\0\x07\x10" + block + b"\0\0"
    flags = frames.END_HEADERS | frames.END_STREAM | frames.PADDED | frames.PRIORITIZED
    assert started(Peer().send(frames.frame(frames.HEADERS, flags, 1, shaped))).id == 1


def test_continuation() -> None:
    """One block in three frames."""
    block = hpack.encode(REQUEST)
    events = Peer().send(
        frames.frame(frames.HEADERS, frames.END_STREAM, 1, block[:5]),
        frames.frame(frames.CONTINUATION, 0, 1, block[5:9]),
        frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[9:]),
    )
    assert isinstance(events[0], RequestReceived)
    assert events[0].ended


def test_trailers() -> None:
    """They end the body."""
    trailers = request(1, (("x", "y"),))
    assert [event.ended for event in Peer().send(open_request(1), trailers) if isinstance(event, DataReceived)] == [
        True
    ]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 400), max_size=30))
def test_any_cut(sizes: list[int]) -> None:
    """The same bytes give the same events, however they are cut."""
    block = hpack.encode(REQUEST)
    stream = b"".join(
        (
            START,
            open_request(1),
            data(1, b"x" * 100),
            frames.frame(frames.HEADERS, 0, 3, block[:7]),
            frames.frame(frames.CONTINUATION, frames.END_HEADERS, 3, block[7:]),
            frames.ping(b"12345678"),
            data(1, b"", frames.END_STREAM),
            frames.rst_stream(3, ErrorCode.CANCEL),
            request(5),
            frames.frame(frames.PUSH_PROMISE, 0, 1),
        )
    )
    whole = told(Peer(start=b""), [stream])
    pieces, position = [], 0
    for size in sizes:
        pieces.append(stream[position : position + size])
        position += size
    assert told(Peer(start=b""), [*pieces, stream[position:]]) == whole


def told(peer: Peer, pieces: list[bytes]) -> tuple[list[str], bytes]:
    """All events as text, and all that was written."""
    events, written = [], b""
    for piece in pieces:
        for event in peer.connection.receive(piece):
            stream = getattr(event, "stream", None)
            rest = [getattr(event, name, None) for name in ("fields", "data", "ended", "code", "by_client")]
            events.append(f"{type(event).__name__} {stream.id if stream else ''} {rest}")
        written += peer.connection.take()
    return events, written


# ---- Answers ----


def test_answer_in_one_go() -> None:
    """Frames that were prepared go out as they are, once the first header block has told our table's size."""
    peer = Peer()
    first = started(peer.send(request(1)))
    assert not peer.connection.answer(first, 4, (b"",))
    answer(peer, first, b"body")
    headers, body, trailers = peer.answers()
    assert (headers.payload[:1], body.payload, trailers.flags) == (b"\x20", b"body", 5)
    second = started(peer.send(request(3)))
    frame = frames.frame(frames.DATA, frames.END_STREAM, 3, b"body")
    assert peer.connection.answer(second, 4, (frame,))
    assert peer.answers()[0].payload == b"body"
    assert not peer.connection.streams


def test_windows_hold_back_only_their_stream() -> None:
    """A client that reads one stream slowly holds nothing else back; AnswerSent tells the end."""
    peer = Peer()
    peer.send(frames.window_update(0, 1 << 20))
    slow, fast = started(peer.send(request(1))), started(peer.send(request(3)))
    peer.send(frames.window_update(3, 1 << 20))
    assert not answer(peer, slow, bytes(70_000))
    peer.connection.respond(fast, HEADERS_BLOCK)
    peer.connection.send(fast, (bytes(150_000),))
    peer.connection.end(fast, TRAILERS_BLOCK)
    peer.connection.advance()
    assert bodies(peer) == {1: 65_535, 3: 150_000}
    assert peer.connection.streams.keys() == {1}
    assert peer.send(frames.window_update(1, 10_000)) == [AnswerSent(slow)]
    assert bodies(peer) == {1: 70_000 - 65_535}


def test_connection_window_is_shared() -> None:
    """Streams take turns in what the connection's window allows; no DATA is longer than the client takes."""
    peer = Peer()
    peer.send(*(frames.window_update(0, 200_000 - 65_535),))
    streams = [started(peer.send(request(n), frames.window_update(n, 1 << 20))) for n in (1, 3)]
    for stream in streams:
        peer.connection.respond(stream, HEADERS_BLOCK)
        peer.connection.send(stream, (bytes(500_000),))
    peer.connection.advance()
    sizes = [len(frame.payload) for frame in peer.answers(frames.DATA)]
    assert (sum(sizes), max(sizes)) == (200_000, 16_384)
    peer.send(frames.window_update(0, 300_000))
    assert set(bodies(peer)) == {1, 3}


def test_window_shrinks_below_zero() -> None:
    """SETTINGS may take back what was granted."""
    peer = Peer()
    stream = started(peer.send(request(1)))
    assert not answer(peer, stream, bytes(100_000))
    peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 10}))
    assert stream.window == 10 - 65_535
    assert bodies(peer) == {1: 65_535}
    peer.send(frames.window_update(0, 100_000), frames.settings({frames.INITIAL_WINDOW_SIZE: 100_000}))
    assert bodies(peer) == {1: 100_000 - 65_535}


def test_socket_holds_back() -> None:
    """While the socket takes nothing, bodies stay in their queues, and go on when it does."""
    peer = Peer()
    stream = started(peer.send(request(1)))
    peer.connection.writable = False
    assert not answer(peer, stream, b"body")
    assert bodies(peer) == {}
    peer.connection.writable = True
    assert peer.connection.advance() == [AnswerSent(stream)]
    assert bodies(peer) == {1: 4}


def test_one_step_at_a_time() -> None:
    """No more than a step is made ready before it was taken, however wide the windows are."""
    peer = Peer(Limits(write_step_bytes=50_000))
    stream = started(peer.send(request(1), frames.window_update(0, 1 << 24), frames.window_update(1, 1 << 24)))
    answer(peer, stream, bytes(1_000_000))
    assert sum(bodies(peer).values()) < 50_000 + 64 * 1024
    while peer.connection.streams:
        peer.connection.advance()
        assert sum(bodies(peer).values()) < 50_000 + 64 * 1024


def test_answer_before_the_request_ends() -> None:
    """The client is told to stop sending; what it sent meanwhile is dropped without harm, and still read."""
    peer = Peer()
    stream = started(peer.send(open_request(1)))
    answer(peer, stream, b"no")
    assert peer.resets() == [(1, ErrorCode.NO_ERROR)]
    assert peer.send(data(1, b"more"), request(1, (("x", "y"),)), frames.rst_stream(1, ErrorCode.CANCEL)) == []
    assert started(peer.send(request(3))).id == 3


def test_reading_opens_the_windows() -> None:
    """What was read is granted again, for the stream and for the connection."""
    peer = Peer(Limits(stream_window_bytes=70_000, connection_window_bytes=70_000))
    peer.send(open_request(1), *(data(1, bytes(10_000)) for _ in range(4)))
    assert [frame.stream_id for frame in peer.answers(frames.WINDOW_UPDATE)] == [0, 1]


# ---- Errors by culprit ----


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (open_request(2), ErrorCode.PROTOCOL_ERROR),
        (data(1, b"x"), ErrorCode.PROTOCOL_ERROR),
        (data(0, b"x"), ErrorCode.PROTOCOL_ERROR),
        (frames.rst_stream(1, ErrorCode.CANCEL), ErrorCode.PROTOCOL_ERROR),
        (frames.window_update(1, 1), ErrorCode.PROTOCOL_ERROR),
        (frames.window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
        (frames.window_update(0, frames.WINDOW_MAX), ErrorCode.FLOW_CONTROL_ERROR),
        (frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 31}), ErrorCode.FLOW_CONTROL_ERROR),
        (frames.settings({frames.ENABLE_PUSH: 2}), ErrorCode.PROTOCOL_ERROR),
        (frames.settings({frames.MAX_FRAME_SIZE: 1}), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.SETTINGS, 0, 0, b"12345"), ErrorCode.FRAME_SIZE_ERROR),
        (frames.frame(frames.SETTINGS, frames.ACK, 0, b"123456"), ErrorCode.FRAME_SIZE_ERROR),
        (frames.frame(frames.SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.PING, 0, 0, b"1"), ErrorCode.FRAME_SIZE_ERROR),
        (frames.frame(frames.PING, 0, 1, b"12345678"), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.GOAWAY, 0, 1, b"12345678"), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.GOAWAY, 0, 0, b"1"), ErrorCode.FRAME_SIZE_ERROR),
        (frames.frame(frames.PUSH_PROMISE, 0, 1), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.CONTINUATION, 4, 1), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.DATA, 0, 1, bytes(16_385)), ErrorCode.FRAME_SIZE_ERROR),
        (frames.frame(frames.HEADERS, 4, 1, b"\x80"), ErrorCode.COMPRESSION_ERROR),
        (open_request(1) + frames.frame(frames.DATA, frames.PADDED, 1), ErrorCode.FRAME_SIZE_ERROR),
        (open_request(1) + frames.frame(frames.DATA, frames.PADDED, 1, b"\x01"), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.HEADERS, 0, 1) + frames.ping(b"12345678"), ErrorCode.PROTOCOL_ERROR),
        (request(1) + frames.rst_stream(1, ErrorCode.CANCEL) + data(1, b"x"), ErrorCode.STREAM_CLOSED),
    ],
)
def test_connection_errors(sent: bytes, code: ErrorCode) -> None:
    """They end in GOAWAY; streams end with them; what comes afterwards is not looked at."""
    peer = Peer()
    events = peer.send(sent, request(101))
    assert isinstance(events[-1], ConnectionFailed)
    assert events[-1].code is code
    assert peer.goaway() is code
    assert peer.send(request(103)) == []


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (request(1, REQUEST[1:]), ErrorCode.PROTOCOL_ERROR),
        (request(1, (*REQUEST, ("connection", "close"))), ErrorCode.PROTOCOL_ERROR),
        (request(1, (*REQUEST, ("content-length", "3"))), ErrorCode.PROTOCOL_ERROR),
        (open_request(1, (*REQUEST, ("content-length", "3"))) + data(1, b"1234"), ErrorCode.PROTOCOL_ERROR),
        (open_request(1, (*REQUEST, ("content-length", "3"))) + data(1, b"12", 1), ErrorCode.PROTOCOL_ERROR),
        (open_request(1) + open_request(1), ErrorCode.PROTOCOL_ERROR),
        (open_request(1) + request(1, ((":path", "/"),)), ErrorCode.PROTOCOL_ERROR),
        (request(1) + data(1, b"x"), ErrorCode.STREAM_CLOSED),
        (request(1) + frames.window_update(1, 0), ErrorCode.PROTOCOL_ERROR),
        (request(1) + frames.window_update(1, frames.WINDOW_MAX), ErrorCode.FLOW_CONTROL_ERROR),
        (frames.frame(frames.PRIORITY, 0, 1, b"\0\0\0\x01\0"), ErrorCode.PROTOCOL_ERROR),
        (frames.frame(frames.PRIORITY, 0, 1, b"1"), ErrorCode.FRAME_SIZE_ERROR),
    ],
)
def test_stream_errors(sent: bytes, code: ErrorCode) -> None:
    """They end their stream only."""
    peer = Peer()
    events = peer.send(sent, request(3))
    assert peer.resets() == [(1, code)]
    assert started(events[-1:]).id == 3
    ended = [event for event in events if isinstance(event, StreamEnded)]
    assert [(event.code, event.by_client) for event in ended] in ([], [(code, False)])


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\n", frames.PREFACE + frames.ping(b"12345678")])
def test_no_preface(start: bytes) -> None:
    """What does not begin as it must ends at once."""
    assert Peer(start=b"").send(start)[-1].code is ErrorCode.PROTOCOL_ERROR  # type: ignore[union-attr]


def test_more_than_the_window() -> None:
    """DATA beyond a stream's window ends the stream, beyond the connection's the connection."""
    peer = Peer(Limits(stream_window_bytes=1000))
    peer.send(open_request(1), data(1, bytes(1001)))
    assert peer.resets() == [(1, ErrorCode.FLOW_CONTROL_ERROR)]
    peer = Peer(Limits(connection_window_bytes=65_535, stream_window_bytes=1 << 20))
    peer.send(open_request(1), *(data(1, bytes(16_384)) for _ in range(2)))
    peer.connection._read_window = 1000  # what a client may see that has not read our WINDOW_UPDATE
    peer.send(data(1, bytes(1001)))
    assert peer.goaway() is ErrorCode.FLOW_CONTROL_ERROR


def test_reset_by_the_client() -> None:
    """What waits is dropped at once."""
    peer = Peer()
    stream = started(peer.send(request(1)))
    answer(peer, stream, bytes(100_000))
    assert peer.send(frames.rst_stream(1, ErrorCode.CANCEL)) == [StreamEnded(stream, 8, True)]
    assert (stream.queued_bytes, peer.connection._out.held_bytes) == (100_000 - 65_535, 0)
    assert not peer.connection.stirring


@pytest.mark.parametrize("late", [data(1, b"x"), data(1, b"x", frames.END_STREAM), request(1)])
def test_a_request_that_goes_on_after_its_reset(late: bytes) -> None:
    """As grpc-java's does: answered with STREAM_CLOSED once, then dropped, and no matter to the connection."""
    peer = Peer(Limits(errors_max=0))
    peer.send(open_request(1), frames.rst_stream(1, ErrorCode.CANCEL))
    (event,) = peer.send(late, late, request(3))
    assert started([event]).id == 3
    assert peer.resets() == [(1, ErrorCode.STREAM_CLOSED)]
    assert not peer.connection.failed


def test_resets_are_remembered_for_a_while() -> None:
    """Only so many: what comes on an older one is not known from a mistake."""
    peer = Peer()
    for stream_id in range(1, 2 * LEFT_MAX + 3, 2):
        peer.send(open_request(stream_id), frames.rst_stream(stream_id, ErrorCode.CANCEL))
    peer.send(data(3, b"x"))
    assert not peer.connection.failed
    peer.send(data(1, b"x"))
    assert peer.goaway() is ErrorCode.STREAM_CLOSED


def test_lost() -> None:
    """All streams end when the socket is gone."""
    peer = Peer()
    stream = started(peer.send(request(1)))
    first, last = peer.connection.lost()
    assert first == StreamEnded(stream, ErrorCode.CANCEL, False)
    assert isinstance(last, ConnectionFailed)
    assert peer.connection.lost() == []


# ---- The end ----


def test_drain() -> None:
    """A first GOAWAY lets calls through that are on their way, the last one follows the PING; then streams end."""
    peer = Peer()
    stream = started(peer.send(request(1)))
    peer.connection.drain()
    goaway, ping = peer.answers()
    assert (goaway.kind, goaway.payload[:4]) == (frames.GOAWAY, b"\x7f\xff\xff\xff")
    late = started(peer.send(request(3)))
    peer.send(frames.ping(ping.payload, frames.ACK))
    (last,) = peer.answers(frames.GOAWAY)
    assert last.payload[:8] == b"\0\0\0\x03\0\0\0\0"
    assert peer.send(request(5), open_request(7), data(7, b"x")) == []
    assert not peer.connection.finished
    answer(peer, stream, b"")
    answer(peer, late, b"")
    assert peer.connection.finished
    assert not peer.connection.failed
