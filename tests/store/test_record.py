"""A record is RocketMQ's V1 layout to the byte, and no byte of it can change unnoticed."""

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmq_store import record
from rmq_store.record import Damaged, Draft, decode, encode

POSITION, STORE_MS, STORE_HOST = 1024, 1_700_000_000_123, b"\x0a\0\0\x01"
GOLDEN = bytes.fromhex(
    "00000089 daa320a7 3610a686 00000003 00000000 0000000000000007 0000000000000400 00000000"
    "0000018bcfe56800 7f000001 0000c350 0000018bcfe5687b 0a000001 00002a9f 00000000 0000000000000000"
    "00000005 68656c6c6f 09 546f70696354657374 0020"
    "554e49515f4b4559 01 41433131303030313030 3031 02 54414753 01 54616741 02"
)  # facts: store.md 11
PROPERTIES = b"UNIQ_KEY\x01AC1100010001\x02TAGS\x01TagA\x02"
HOSTS = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))
INT32 = st.integers(-(1 << 31), (1 << 31) - 1)
DRAFTS = st.builds(
    Draft.make,
    topic=st.text(min_size=1, max_size=30).map(str.encode),
    queue_id=INT32,
    body=st.binary(max_size=300),
    properties=st.dictionaries(st.text("abc", min_size=1), st.text("xyzü"), max_size=3).map(record.encode_properties),
    sys_flag=st.sampled_from((0, 1, 4, 8, 12)),
    born_ms=st.integers(0, 1 << 62),
    born_host=HOSTS,
    born_port=INT32,
    reconsume_times=INT32,
    prepared_position=st.integers(0, 1 << 62),
)


def _draft() -> Draft:
    return Draft.make(b"TopicTest", 3, b"hello", PROPERTIES, 0, 1_700_000_000_000, b"\x7f\0\0\x01", 50000)


def _encoded() -> bytes:
    return encode(_draft(), POSITION, 7, STORE_MS, STORE_HOST, 10911)


def test_a_record_is_the_golden_one_with_a_checksum_property_at_its_end() -> None:
    """Everything but the total size and the properties' length is as Apache writes it."""
    data = _encoded()
    grown = (len(GOLDEN) + 20).to_bytes(4, "big") + GOLDEN[4:103] + (0x20 + 20).to_bytes(2, "big") + GOLDEN[105:]
    digits = f"{zlib.crc32(grown) & 0x7FFFFFFF:010d}"[::-1]
    assert data == grown + b"__CRC32#\x01" + digits.encode() + b"\x02"


def test_apaches_own_record_reads_back_whole() -> None:
    """The golden vector without our checksum property."""
    found = decode(GOLDEN, POSITION)
    assert (found.topic, found.queue_id, found.queue_offset, found.body) == ("TopicTest", 3, 7, b"hello")
    assert (found.store_ms, found.store_host, found.store_port) == (STORE_MS, STORE_HOST, 10911)
    assert found.decode_properties() == {"UNIQ_KEY": "AC1100010001", "TAGS": "TagA"}


@settings(max_examples=50)
@given(DRAFTS, st.integers(0, 1 << 62), st.integers(0, 1 << 62))
def test_what_is_encoded_decodes_to_itself(draft: Draft, position: int, queue_offset: int) -> None:
    """Both address families, every field, and the size that was promised."""
    data = encode(draft, position, queue_offset, STORE_MS, STORE_HOST, 10911)
    assert len(data) == draft.size == record.peek_size(data[:8])
    found = decode(data, position)
    ipv6 = record.SYS_FLAG_BORN_IPV6 if len(draft.born_host) == 16 else 0
    assert found == record.Record(
        position, len(data), draft.queue_id, 0, queue_offset, draft.sys_flag | ipv6, draft.born_ms, draft.born_host,
        draft.born_port, STORE_MS, STORE_HOST, 10911, draft.reconsume_times, draft.prepared_position, draft.body,
        draft.topic.decode(), draft.properties,
    )  # fmt: skip


def test_a_record_of_another_broker_may_have_ipv6_for_both_hosts() -> None:
    """Each IPv6 host adds 12 bytes to all that follows it."""
    born, store = bytes(range(16)), bytes(range(16, 32))
    flags = record.SYS_FLAG_BORN_IPV6 | record.SYS_FLAG_STORE_IPV6
    data = b"".join((
        (len(GOLDEN) + 24).to_bytes(4, "big"), GOLDEN[4:36], flags.to_bytes(4, "big"), GOLDEN[40:48], born,
        GOLDEN[52:64], store, GOLDEN[68:],
    ))  # fmt: skip
    found = decode(data, POSITION)
    assert (found.born_host, found.store_host, found.body) == (born, store, b"hello")


@given(st.data(), st.integers(1, 255))
def test_no_single_byte_of_a_record_can_change_unnoticed(data: st.DataObject, change: int) -> None:
    """The checksum's name and its last byte included: a record of ours never passes for one of Apache's."""
    flipped = bytearray(_encoded())
    flipped[data.draw(st.integers(0, len(flipped) - 1))] ^= change
    with pytest.raises(Damaged):
        decode(bytes(flipped), POSITION)


def test_every_byte_flipped_by_every_bit_is_damage() -> None:
    """The same, exhaustively for one record and single bits."""
    data = _encoded()
    for at in range(len(data)):
        for bit in range(8):
            flipped = data[:at] + bytes((data[at] ^ 1 << bit,)) + data[at + 1 :]
            with pytest.raises(Damaged):
                decode(flipped, POSITION)


@pytest.mark.parametrize("data", [_encoded(), GOLDEN], ids=["ours", "Apache's"])
def test_a_record_that_was_cut_off_anywhere_is_damage(data: bytes) -> None:
    """A torn write: zeros from some byte on, up to the record's full length."""
    for kept in range(len(data)):
        with pytest.raises(Damaged):
            decode(data[:kept] + bytes(len(data) - kept), POSITION)


@given(st.binary(max_size=200), st.integers(0, 1 << 62))
def test_garbage_is_damage_and_nothing_worse(data: bytes, position: int) -> None:
    """Whatever stands there, with a plausible head or without."""
    for candidate in (data, len(data).to_bytes(4, "big") + GOLDEN[4:8] + data[8:]):
        with pytest.raises(Damaged):
            decode(candidate, position)


@given(st.integers(0, 3), st.data())
def test_lengths_that_point_outside_are_damage(which: int, data: st.DataObject) -> None:
    """Body, topic and properties lengths, whatever they say."""
    at, size = ((84, 4), (93, 1), (103, 2), (0, 4))[which]
    value = data.draw(st.binary(min_size=size, max_size=size).filter(lambda v: v != GOLDEN[at : at + size]))
    with pytest.raises(Damaged):
        decode(GOLDEN[:at] + value + GOLDEN[at + size :], POSITION)


def test_a_record_read_at_another_place_is_damage() -> None:
    """Stale bytes of another position never count."""
    with pytest.raises(Damaged, match="1024"):
        decode(_encoded(), POSITION + 1)


@pytest.mark.parametrize(
    ("prefix", "size"),
    [
        (_encoded()[:8], len(_encoded())),
        (record.blank(100), 0),
        (bytes(8), None),
        (b"\0\0\0\x10" + GOLDEN[4:8], None),
        (GOLDEN[:7], None),
    ],
)
def test_the_first_eight_bytes_tell_a_record_a_blank_and_neither(prefix: bytes, size: int | None) -> None:
    """None: nothing starts here."""
    assert record.peek_size(prefix) == size


def test_a_blank_holds_the_bytes_left_and_its_magic() -> None:
    """Facts: store.md 11."""
    assert record.blank(100).hex() == "00000064cbd43194"


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ("", 0), ("TagA", 2598919), ("TagB", 2598920), ("标签", 857175), ("a😀", 1866116),
        ("order_created_event", -2143158446), ("Aa", 2112), ("BB", 2112),
    ],
)  # fmt: skip
def test_a_tags_code_is_javas_string_hash(tags: str, code: int) -> None:
    """A surrogate pair counts as two units; the result is a signed 32-bit number."""
    assert record.tags_code(tags) == code


def test_properties_are_read_as_apache_reads_them() -> None:
    """A last separator may be missing; a piece without a name or without a separator is passed over."""
    assert record.decode_properties(b"a\x011\x02b\x01\x02\x013\x02c\x02d\x014") == {"a": "1", "b": "", "d": "4"}


def test_a_stale_checksum_that_apache_copied_along_is_no_property() -> None:
    """Apache's send-back keeps ours among the properties, where it is wrong by then (decision 0002)."""
    assert record.decode_properties(b"A\x011\x02__CRC32#\x010123456789\x02B\x012\x02") == {"A": "1", "B": "2"}


@pytest.mark.parametrize("text", ["127.0.0.1", "10.0.0.1", "::1", "2001:db8::7"])
def test_a_host_is_its_bytes_and_back(text: str) -> None:
    """IPv4 in 4, IPv6 in 16 bytes."""
    assert record.host_text(record.host_bytes(text)) == text


@pytest.mark.parametrize("text", ["", "localhost", "1.2.3", ":::"])
def test_what_is_no_address_is_stored_as_zeros(text: str) -> None:
    """A record must have an address; a name is none."""
    assert record.host_bytes(text) == bytes(4)
