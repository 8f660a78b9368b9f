"""gRPC in HTTP/2: messages cut anywhere, timeouts, statuses, binary metadata, gzip."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmq_proxy.http2 import grpc
from rmq_proxy.http2.hpack import Decoder
from rmq_proxy.rpc import GrpcCode, RpcError
from tests.proxy.http2.peer import parse


def framed(message: bytes, compressed: int = 0) -> bytes:
    """A message behind its prefix."""
    return bytes((compressed,)) + len(message).to_bytes(4) + message


def refused(code: GrpcCode, data: bytes, encoding: str = "identity") -> str:
    """Feeds what must be refused with `code`; the text."""
    with pytest.raises(RpcError) as caught:
        grpc.Messages(100, encoding).feed(data)
    assert caught.value.code is code
    return caught.value.text


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(1, 30), max_size=40))
def test_any_cut(messages: list[bytes], sizes: list[int]) -> None:
    """Messages arrive whole and in order, however the body is cut; nothing is held when all are out."""
    body = b"".join(map(framed, messages))
    reader, found, position = grpc.Messages(100, "identity"), [], 0
    for size in [*sizes, len(body)]:
        found += reader.feed(body[position : position + size])
        position += size
    assert found == messages
    assert reader.held_bytes == 0


def test_limits() -> None:
    """As large as allowed passes; one more is refused by its prefix, before it is here."""
    assert grpc.Messages(100, "identity").feed(framed(bytes(100))) == [bytes(100)]
    assert "101" in refused(GrpcCode.RESOURCE_EXHAUSTED, framed(bytes(101))[:5])


def test_gzip() -> None:
    """Packed messages are unpacked, up to the same limit: a bomb is refused before it is large."""
    reader = grpc.Messages(100, "gzip")
    assert reader.feed(framed(gzip.compress(b"hello"), 1) + framed(b"plain")) == [b"hello", b"plain"]
    refused(GrpcCode.RESOURCE_EXHAUSTED, framed(gzip.compress(bytes(101)), 1), "gzip")
    refused(GrpcCode.INTERNAL, framed(b"no gzip", 1), "gzip")
    refused(GrpcCode.INTERNAL, framed(gzip.compress(b"hello")[:-9], 1), "gzip")
    refused(GrpcCode.INTERNAL, framed(b"x", 1))
    refused(GrpcCode.INTERNAL, framed(b"x", 2), "gzip")
    assert "snappy" in refused(GrpcCode.UNIMPLEMENTED, framed(b"x", 1), "snappy")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5S", 5), ("100m", 0.1), ("2H", 7200), ("3M", 180), ("7u", 7e-6), ("9n", 9e-9), ("99999999H", 99999999 * 3600)],
)
def test_timeout(text: str, seconds: float) -> None:
    """Every unit; ten thousand years are none too many."""
    assert grpc.timeout_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "S", "5", "5s", "-5S", "123456789S", "5 S", "\xb2S"])
def test_timeout_garbage(text: str) -> None:
    """Refused as the client's mistake."""
    with pytest.raises(RpcError) as caught:
        grpc.timeout_s(text)
    assert caught.value.code is GrpcCode.INVALID_ARGUMENT


def test_status() -> None:
    """grpc-message is percent-coded UTF-8; OK has none."""
    fields = Decoder(4096, 9999).decode(grpc.trailers(GrpcCode.NOT_FOUND, "100 % schön\n")).fields
    assert fields == [("grpc-status", "5"), ("grpc-message", "100 %25 sch%C3%B6n%0A")]
    assert Decoder(4096, 9999).decode(grpc.trailers(GrpcCode.OK)).fields == [("grpc-status", "0")]
    assert (":status", "200") in Decoder(4096, 9999).decode(grpc.refusal(GrpcCode.UNIMPLEMENTED, "x")).fields


def test_prepared_answer() -> None:
    """The frames of an answer in one go are those that the long way writes."""
    for written in (grpc.answer_frames(7, b"body"), grpc.list_frames(7, framed(b"body"))):
        headers, body, trailers = parse(b"".join(written))
        assert headers == (1, 4, 7, grpc.HEADERS)
        assert body == (0, 0, 7, framed(b"body"))
        assert trailers == (1, 5, 7, grpc.OK_TRAILERS)


def test_binary_metadata() -> None:
    """With padding and without; several values are one, with commas; what is no base64 is refused."""
    assert grpc.binary_values([("a-bin", "AP8"), ("b", "x"), ("c-bin", "AP8=,/w")]) == {
        "a-bin": b"\0\xff",
        "c-bin": b"\0\xff,\xff",
    }
    for text in ("A", "a b", "\xff"):
        with pytest.raises(RpcError):
            grpc.binary_values([("a-bin", text)])
