"""The known attacks on HTTP/2 end in GOAWAY with ENHANCE_YOUR_CALM, and what honest clients do does not."""

from collections.abc import Callable

import pytest

from rmq_proxy.http2 import frames, hpack
from rmq_proxy.http2.errors import ErrorCode
from rmq_proxy.http2.events import RequestReceived
from rmq_proxy.http2.limits import Limits
from tests.proxy.http2.peer import HEADERS_BLOCK, REQUEST, TRAILERS_BLOCK, Peer, data, open_request, request

LIMITS = Limits(
    streams_max=10,
    refused_max=20,
    resets_max=20,
    settings_max=20,
    pings_max=20,
    controls_max=20,
    empty_data_max=20,
    errors_max=20,
    header_block_bytes_max=2000,
    header_list_bytes_max=1000,
    header_list_bytes_calm=10_000,
    continuations_max=5,
    answer_bytes_held_max=100_000,
)
BLOCK = hpack.encode(REQUEST)


def rapid_reset(n: int) -> bytes:
    """A call that is reset at once."""
    return request(2 * n + 1) + frames.rst_stream(2 * n + 1, ErrorCode.CANCEL)


def empty_data(n: int) -> bytes:
    """A body of nothing."""
    return (open_request(1) if n == 0 else b"") + data(1, b"")


def broken_requests(n: int) -> bytes:
    """Requests without a method."""
    return request(2 * n + 1, REQUEST[1:])


def headers_without_end(n: int) -> bytes:
    """CONTINUATION without a byte, for ever."""
    return frames.frame(frames.CONTINUATION, 0, 1) if n else frames.frame(frames.HEADERS, 0, 1, BLOCK)


def large_headers(n: int) -> bytes:
    """A header block that grows and grows."""
    kind = frames.CONTINUATION if n else frames.HEADERS
    return frames.frame(kind, 0, 1, b"\0\x01a\x7f\x80\x80\x01" + b"x" * 600)


def bomb(n: int) -> bytes:
    """One large field, then a hundred references to it in a hundred bytes."""
    block = b"\x40\x01a\x7f\xf0\x02" + b"x" * 495 if n == 0 else b"\xbe" * 100
    return frames.frame(frames.HEADERS, frames.END_HEADERS, 2 * n + 1, BLOCK + block)


@pytest.mark.parametrize(
    "attack",
    [
        rapid_reset,
        empty_data,
        broken_requests,
        headers_without_end,
        large_headers,
        bomb,
        lambda n: open_request(2 * n + 1),
        lambda n: frames.settings({}),
        lambda n: frames.frame(frames.SETTINGS, frames.ACK, 0),
        lambda n: frames.ping(b"12345678"),
        lambda n: frames.window_update(0, 1),
        lambda n: frames.frame(frames.PRIORITY, 0, 1, b"\0\0\0\x03\0"),
        lambda n: frames.frame(99, 0, 1, b"x"),
        lambda n: frames.frame(frames.GOAWAY, 0, 0, b"12345678"),
    ],
)
def test_attack(attack: Callable[[int], bytes]) -> None:
    """Each is cut off soon after its limit."""
    peer = Peer(LIMITS)
    for n in range(40):
        peer.send(attack(n))
        if peer.connection.failed:
            break
    assert peer.goaway() is ErrorCode.ENHANCE_YOUR_CALM


@pytest.mark.parametrize(
    "habit",
    [
        rapid_reset,
        lambda n: frames.settings({}),
        lambda n: frames.ping(b"12345678"),
        lambda n: frames.window_update(0, 1),
    ],
)
def test_slowly_it_is_no_attack(habit: Callable[[int], bytes]) -> None:
    """Ten a second, for a minute."""
    peer = Peer(LIMITS)
    for n in range(600):
        peer.send(habit(n))
        if n % 10 == 9:
            peer.connection.tick(n / 10)
    assert not peer.connection.failed


def test_with_answers_it_is_no_attack() -> None:
    """Fast clients send PINGs and WINDOW_UPDATEs by the thousand, with the calls that they belong to."""
    peer = Peer(LIMITS)
    for n in range(200):
        events = peer.send(request(2 * n + 1), frames.ping(b"12345678") * 3, frames.window_update(0, 100) * 3)
        assert isinstance(events[0], RequestReceived)
        peer.connection.respond(events[0].stream, HEADERS_BLOCK)
        peer.connection.end(events[0].stream, TRAILERS_BLOCK)
    assert not peer.connection.failed


def test_small_steps_of_a_large_answer() -> None:
    """A client may open its windows by little as it reads."""
    peer = Peer(LIMITS)
    (event,) = peer.send(request(1))
    assert isinstance(event, RequestReceived)
    peer.connection.respond(event.stream, HEADERS_BLOCK)
    peer.connection.send(event.stream, (bytes(90_000),))
    for _ in range(240):
        peer.send(frames.window_update(1, 100), frames.window_update(0, 100))
    assert not peer.connection.failed
    assert event.stream.queued_bytes == 90_000 - 65_535 - 24_000


def test_answers_that_nobody_takes() -> None:
    """A client that lets us keep more than the limit for it is cut off, and its streams end."""
    peer = Peer(LIMITS)
    peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
    for n in range(5):
        (event,) = peer.send(request(2 * n + 1))
        assert isinstance(event, RequestReceived)
        peer.connection.respond(event.stream, HEADERS_BLOCK)
        peer.connection.send(event.stream, (bytes(25_000),))
    assert peer.goaway() is ErrorCode.ENHANCE_YOUR_CALM
    assert len(peer.connection.advance()) == 6
    assert peer.connection._out.held_bytes == 0


def test_window_held_shut() -> None:
    """So is one that holds its window shut for too long; each byte that moves starts the time anew."""
    peer = Peer(Limits(stall_s=5))
    (event,) = peer.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}), request(1))
    assert isinstance(event, RequestReceived)
    peer.connection.respond(event.stream, HEADERS_BLOCK)
    peer.connection.send(event.stream, (b"body",))
    for now_s in range(8):
        peer.connection.tick(now_s)
        if now_s == 3:
            peer.send(frames.window_update(1, 1))
            peer.answers()
    assert not peer.connection.failed
    for now_s in range(8, 12):
        peer.connection.tick(now_s)
    assert peer.goaway() is ErrorCode.ENHANCE_YOUR_CALM


def test_socket_not_read() -> None:
    """So is one that does not read at all, be it only the answers to its PINGs; a slow reader is none."""
    peer = Peer(Limits(stall_s=5))
    for now_s in range(20):
        peer.connection.writable = True
        peer.connection.writable = False
        peer.send(frames.ping(b"12345678"))
        peer.connection.tick(now_s)
    assert not peer.connection.failed
    for now_s in range(20, 27):
        peer.connection.tick(now_s)
    assert peer.goaway() is ErrorCode.ENHANCE_YOUR_CALM


def test_slow_headers() -> None:
    """A header block must end in time."""
    peer = Peer(Limits(headers_s=5))
    peer.send(frames.frame(frames.HEADERS, 0, 1, BLOCK))
    for now_s in range(7):
        peer.connection.tick(now_s)
    assert peer.goaway() is ErrorCode.ENHANCE_YOUR_CALM


def test_large_header_list_is_told() -> None:
    """Over the limit, but no bomb: the call is told, and the connection goes on."""
    peer = Peer(LIMITS)
    (event,) = peer.send(request(1, (*REQUEST, ("content-length", "0"), ("x", "y" * 900))))
    assert isinstance(event, RequestReceived)
    assert event.too_large
    assert not peer.connection.failed
