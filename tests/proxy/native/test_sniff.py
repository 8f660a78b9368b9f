"""What a connection's first bytes say; PROXY headers of both versions."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmq_proxy.http2.frames import PREFACE
from rmq_proxy.native.sniff import PROXY_2, Origin, Speech, read_proxy_header, sniff

VERSION_1 = b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 8081\r\n"
VERSION_2 = PROXY_2 + b"\x21\x11\x00\x0f" + bytes((192, 0, 2, 7, 192, 0, 2, 1)) + b"\x13\x88\x1f\x91" + b"\x03\0\0"


@pytest.mark.parametrize(
    ("data", "speech"),
    [
        (PREFACE, Speech.HTTP2),
        (b"\x16\x03\x01\x02\x00", Speech.TLS),
        (VERSION_1, Speech.PROXY),
        (VERSION_2, Speech.PROXY),
        (b"GET / HTTP/1.1\r\n", Speech.HTTP1),
        (b"POST /x HTTP/1.0\r\n", Speech.HTTP1),
        (b"INVALID CONNECTION PREFACE\r\n\r\n", Speech.FOREIGN),
        (b"\x16\x02\x01", Speech.FOREIGN),
        (b"\x00\x00\x00\x20", Speech.FOREIGN),
        (b"get / HTTP/1.1\r\n", Speech.FOREIGN),
        (b"A" * 17, Speech.FOREIGN),
        (b"GET " + b"x" * 9000, Speech.FOREIGN),
    ],
)
def test_speech(data: bytes, speech: Speech) -> None:
    """Decided by the first bytes; with fewer of them it is undecided or the same, never another."""
    assert sniff(data) is speech
    for size in range(min(len(data), 40)):
        assert sniff(data[:size]) in (Speech.UNDECIDED, speech)


@pytest.mark.parametrize(
    ("data", "origin"),
    [
        (VERSION_1, Origin("192.0.2.7:5000", len(VERSION_1))),
        (b"PROXY TCP6 2001:db8::1 ::1 5000 8081\r\n", Origin("[2001:db8::1]:5000", 38)),
        (b"PROXY UNKNOWN ffff:f 1\r\n", Origin(None, 24)),
        (VERSION_2, Origin("192.0.2.7:5000", len(VERSION_2))),
        (PROXY_2 + b"\x20\x00\x00\x00", Origin(None, 16)),
        (PROXY_2 + b"\x21\x21\x00\x24" + bytes(15) + b"\x01" + bytes(16) + b"\0\x07\0\x08", Origin("[::1]:7", 52)),
    ],
)
def test_proxy_header(data: bytes, origin: Origin) -> None:
    """Where the client is, and where its own bytes begin; nothing is said before the header is whole."""
    assert read_proxy_header(data + b"rest") == origin
    for size in range(12, origin.header_bytes):
        assert read_proxy_header(data[:size]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY TCP4 192.0.2.7 192.0.2.1 5000\r\n",
        b"PROXY TCP4 300.0.2.7 192.0.2.1 5000 8081\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.1 66000 8081\r\n",
        b"PROXY TCP5 a b 1 2\r\n",
        b"PROXY " + b"x" * 200,
        PROXY_2 + b"\x31\x11\x00\x0c" + bytes(12),
        PROXY_2 + b"\x21\x11\x00\x01\0",
        PROXY_2 + b"\x21\x11\xff\xff",
    ],
)
def test_bad_proxy_header(data: bytes) -> None:
    """Refused: nothing behind it can be believed."""
    with pytest.raises(ValueError, match="PROXY"):
        read_proxy_header(data)


@given(st.binary(max_size=300), st.sampled_from([b"", b"PROXY ", PROXY_2]))
def test_garbage(data: bytes, start: bytes) -> None:
    """Nothing else is ever raised."""
    sniff(start + data)
    if start:
        with contextlib.suppress(ValueError):
            read_proxy_header(start + data)
