"""Header blocks: the examples of RFC 7541, what must be refused, and that nothing else but HpackError is raised."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmq_proxy.http2 import hpack
from rmq_proxy.http2.hpack import BINARY, ILLEGAL, LENGTH, REGULAR, REQUIRED, Decoder, HpackError, encode

FIRST = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")]
SECOND = [*FIRST, ("cache-control", "no-cache")]
THIRD = [
    (":method", "GET"),
    (":scheme", "https"),
    (":path", "/index.html"),
    (":authority", "www.example.com"),
    ("custom-key", "custom-value"),
]
ANSWER_1 = [
    (":status", "302"),
    ("cache-control", "private"),
    ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
    ("location", "https://www.example.com"),
]
ANSWER_2 = [(":status", "307"), *ANSWER_1[1:]]
ANSWER_3 = [
    (":status", "200"),
    ("cache-control", "private"),
    ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
    ("location", "https://www.example.com"),
    ("content-encoding", "gzip"),
    ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
]
LITERALS = [
    ("400a637573746f6d2d6b65790d637573746f6d2d686561646572", ("custom-key", "custom-header")),  # C.2.1
    ("040c2f73616d706c652f70617468", (":path", "/sample/path")),  # C.2.2
    ("100870617373776f726406736563726574", ("password", "secret")),  # C.2.3
    ("82", (":method", "GET")),  # C.2.4
]
REQUESTS = [  # C.3, C.4
    [
        "828684410f7777772e6578616d706c652e636f6d",
        "828684be58086e6f2d6361636865",
        "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
    ],
    [
        "828684418cf1e3c2e5f23a6ba0ab90f4ff",
        "828684be5886a8eb10649cbf",
        "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
    ],
]
ANSWERS = [  # C.5, C.6: a table of 256 bytes, so that entries are evicted
    [
        "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d54"
        "6e1768747470733a2f2f7777772e6578616d706c652e636f6d",
        "4803333037c1c0bf",
        "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d"
        "4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31",
    ],
    [
        "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
        "4883640effc1c0bf",
        "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960"
        "d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
    ],
]


def decoder(table_bytes: int = 4096, list_bytes: int = 16_384) -> Decoder:
    """For one connection."""
    return Decoder(table_bytes, list_bytes)


@pytest.mark.parametrize(("block", "field"), LITERALS)
def test_literals(block: str, field: tuple[str, str]) -> None:
    """RFC 7541, C.2."""
    assert decoder().decode(bytes.fromhex(block)).fields == [field]


@pytest.mark.parametrize("blocks", REQUESTS)
def test_requests(blocks: list[str]) -> None:
    """RFC 7541, C.3 without and C.4 with Huffman code: three requests of one connection."""
    one = decoder()
    assert [one.decode(bytes.fromhex(block)).fields for block in blocks] == [FIRST, SECOND, THIRD]


@pytest.mark.parametrize("blocks", ANSWERS)
def test_eviction(blocks: list[str]) -> None:
    """RFC 7541, C.5 and C.6: entries fall out of a small table."""
    one = decoder(table_bytes=256)
    assert [one.decode(bytes.fromhex(block)).fields for block in blocks] == [ANSWER_1, ANSWER_2, ANSWER_3]


@pytest.mark.parametrize(
    ("number", "mask", "octets"),
    [(10, 0x1F, b"\x0a"), (1337, 0x1F, b"\x1f\x9a\x0a"), (42, 0xFF, b"\x2a"), (31, 0x1F, b"\x1f\x00")],
)
def test_integers(number: int, mask: int, octets: bytes) -> None:
    """RFC 7541, C.1."""
    assert hpack.encode_integer(number, mask, 0) == octets


@pytest.mark.parametrize(
    "block",
    [
        "80",  # index 0
        "be",  # an entry that is not there
        "ff80808080808080",  # a number without an end
        "7f",  # a number that does not begin
        "41",  # no value
        "410f77",  # a value that ends early
        "823f00",  # a size update behind a field
        "3fe2ff03",  # a table beyond our SETTINGS
        "4181ff",  # Huffman: padding of a whole byte
        "418100",  # Huffman: padding of zeros
        "4184ffffffff",  # Huffman: the end mark
    ],
)
def test_unreadable(block: str) -> None:
    """What no decoder can read ends the connection: its tables would differ from here on."""
    with pytest.raises(HpackError):
        decoder().decode(bytes.fromhex(block))


@pytest.mark.parametrize(
    "field",
    [
        (":status", "200"),
        (":unknown", "x"),
        ("Upper", "x"),
        ("", "x"),
        ("connection", "close"),
        ("transfer-encoding", "chunked"),
        ("te", "gzip"),
        (":path", ""),
        ("x", "a\r\nb"),
        ("x", "a\0b"),
        ("content-length", "-1"),
        ("content-length", "\xb2"),
    ],
)
def test_illegal(field: tuple[str, str]) -> None:
    """The block is readable, the request is not well-formed: also when the field comes out of the table later."""
    one = decoder()
    name, value = (text.encode("latin-1") for text in field)
    literal = b"\x40" + bytes((len(name),)) + name + bytes((len(value),)) + value
    assert one.decode(literal).marks & ILLEGAL
    assert one.decode(b"\xbe").marks & ILLEGAL


def test_blanks_at_the_ends() -> None:
    """RFC 9113 calls them malformed; gRPC strips them, and its C core sends them. The table counts them."""
    one = decoder(table_bytes=40)
    block = one.decode(encode_indexed("x", " \ta b "))
    assert (block.fields, block.marks, block.list_bytes) == ([("x", "a b")], REGULAR, 39)
    assert one.decode(b"\xbe").fields == [("x", "a b")]


def test_order_of_pseudo_fields() -> None:
    """They come first, and once."""
    assert decoder().decode(encode((("a", "b"), (":path", "/")))).marks & ILLEGAL
    assert decoder().decode(encode(((":path", "/"), (":path", "/")))).marks & ILLEGAL
    assert not decoder().decode(encode((*FIRST, ("te", "trailers"), ("x", "a b \xff")))).marks & ILLEGAL


def test_marks() -> None:
    """What a field is to a request is known without looking at its name again."""
    assert decoder().decode(encode(FIRST)).marks & REQUIRED == REQUIRED
    assert decoder().decode(encode((("x-bin", "AA"),))).marks == BINARY | REGULAR
    assert decoder().decode(encode((("content-length", "12"),))).marks == LENGTH | REGULAR


def test_list_limit() -> None:
    """A list beyond the limit is counted and not kept; the table stays right."""
    one = decoder(list_bytes=100)
    block = one.decode(b"\x40\x01a\x0a" + b"b" * 10 + b"\xbe" * 50)
    assert (block.fields, block.list_bytes) == ([], 51 * 43)
    assert one.decode(b"\xbe").fields == [("a", "b" * 10)]


def test_an_entry_larger_than_the_table() -> None:
    """It empties the table, and is no error."""
    one = decoder(table_bytes=64)
    one.decode(encode_indexed("a", "b"))
    assert one.decode(encode_indexed("a", "b" * 100)).fields == [("a", "b" * 100)]
    with pytest.raises(HpackError):
        one.decode(b"\xbe")
    one.decode(encode_indexed("c", "d"))
    assert one.decode(b"\xbe").fields == [("c", "d")]


def test_size_update() -> None:
    """A smaller table evicts; zero empties it."""
    one = decoder()
    one.decode(encode_indexed("a", "b") + encode_indexed("c", "d"))
    assert one.decode(b"\x3f\x03\xbe").fields == [("c", "d")]  # 34 bytes: one entry
    with pytest.raises(HpackError):
        one.decode(b"\x20\xbe")


def encode_indexed(name: str, value: str) -> bytes:
    """A literal that enters the table."""
    text = [hpack.encode_integer(len(one), 0x7F, 0) + one.encode() for one in (name, value)]
    return b"\x40" + b"".join(text)


@given(st.lists(st.tuples(st.text("abz-_09", min_size=1, max_size=200), st.text(max_size=300))))
def test_round_trip(fields: list[tuple[str, str]]) -> None:
    """What our encoder writes, our decoder reads; names and values of Latin-1."""
    fields = [(name, value.encode("latin-1", "ignore").decode("latin-1").strip(" \t")) for name, value in fields]
    assert decoder(list_bytes=1 << 24).decode(encode(fields)).fields == fields


@given(st.lists(st.binary(max_size=64)))
def test_garbage(blocks: list[bytes]) -> None:
    """No bytes make it raise anything else."""
    one = decoder()
    with contextlib.suppress(HpackError):
        for block in blocks:
            one.decode(block)


def test_huffman_round_trip() -> None:
    """Every byte value, coded by another implementation, is decoded."""
    other = pytest.importorskip("hpack")
    coder = other.Encoder().huffman_coder
    for octets in (bytes(range(256)), b"\\" * 40, bytes(range(255, -1, -1))):
        assert hpack.HUFFMAN.decode(coder.encode(octets)) == octets.decode("latin-1")


def test_static_table() -> None:
    """It is the one of RFC 7541, appendix A, by an independent copy."""
    other = pytest.importorskip("hpack.table")
    theirs = [(name.decode(), value.decode()) for name, value in other.HeaderTable.STATIC_TABLE]
    assert [entry[0] for entry in hpack.STATIC[1:]] == theirs
