"""Tells by its first bytes what a connection speaks, and reads the PROXY headers of load balancers. Pure."""

import enum
import socket
from struct import Struct
from typing import Final

import msgspec

from rmq_proxy.http2.frames import PREFACE

PROXY_1: Final = b"PROXY "
PROXY_2: Final = b"\r\n\r\n\0\r\nQUIT\n"
PROXY_1_BYTES_MAX: Final = 107
PROXY_2_BYTES_MAX: Final = 4096
METHOD_BYTES_MAX: Final = 16
LINE_BYTES_MAX: Final = 8192

_PROXY_2_HEAD = Struct(">12sBBH")
_PROXY_2_ADDRESSES: Final = {0x11: (socket.AF_INET, 4), 0x21: (socket.AF_INET6, 16)}
"""Family and transport (both TCP), by what the header says: the family, and the bytes of one address."""


class Speech(enum.Enum):
    """What a client speaks."""

    UNDECIDED = "undecided"  # more bytes are needed
    HTTP2 = "HTTP/2"
    TLS = "TLS"
    PROXY = "PROXY header"
    HTTP1 = "HTTP/1.1"
    FOREIGN = "something else"


class Origin(msgspec.Struct, frozen=True):
    """What a PROXY header says: where the client is ("host:port", None: the balancer itself), and its own length."""

    peer: str | None
    header_bytes: int


def sniff(data: bytes) -> Speech:
    """Decides as soon as it can."""
    if data[:1] == b"\x16":
        return Speech.TLS if data[1:2] == b"\x03" else _undecided(len(data) < 2)
    for start, speech in ((PREFACE[:4], Speech.HTTP2), (PROXY_1, Speech.PROXY), (PROXY_2, Speech.PROXY)):
        if data.startswith(start):
            return speech
        if start.startswith(data):
            return Speech.UNDECIDED
    method, space, _ = data[: METHOD_BYTES_MAX + 1].partition(b" ")
    if not (method.isalpha() and method.isupper()):
        return Speech.FOREIGN
    if not space:
        return _undecided(len(data) <= METHOD_BYTES_MAX)
    line, end, _ = data.partition(b"\n")
    if not end:
        return _undecided(len(data) <= LINE_BYTES_MAX)
    return Speech.HTTP1 if b" HTTP/1." in line else Speech.FOREIGN


def _undecided(still: bool) -> Speech:
    return Speech.UNDECIDED if still else Speech.FOREIGN


def read_proxy_header(data: bytes) -> Origin | None:
    """The PROXY header at the start of `data`, version 1 or 2; None where it is not whole. Raises ValueError."""
    return _read_version_2(data) if data.startswith(PROXY_2) else _read_version_1(data)


def _read_version_1(data: bytes) -> Origin | None:
    """PROXY TCP4 source destination source-port destination-port, or PROXY UNKNOWN."""
    end = data.find(b"\r\n", 0, PROXY_1_BYTES_MAX)
    if end < 0:
        if len(data) >= PROXY_1_BYTES_MAX:
            raise ValueError("a PROXY line is too long")
        return None
    words = data[:end].decode("latin-1").split(" ")
    if words[1] == "UNKNOWN":
        return Origin(None, end + 2)
    families = {"TCP4": socket.AF_INET, "TCP6": socket.AF_INET6}
    if words[1] not in families or len(words) != 6 or not _is_port(words[4]):
        raise ValueError("a PROXY line names no client")
    family = families[words[1]]
    try:
        address = socket.inet_pton(family, words[2])
    except OSError:
        raise ValueError("a PROXY line names no address") from None
    return Origin(_peer(family, address, int(words[4])), end + 2)


def _read_version_2(data: bytes) -> Origin | None:
    """Signature, version and command, family, length; then addresses, ports and TLVs, which we skip."""
    if len(data) < _PROXY_2_HEAD.size:
        return None
    _, command, family_byte, length = _PROXY_2_HEAD.unpack_from(data)
    if command not in (0x20, 0x21) or length > PROXY_2_BYTES_MAX:
        raise ValueError("a PROXY header of version 2 that cannot be")
    start = _PROXY_2_HEAD.size
    if len(data) < start + length:
        return None
    if command == 0x20 or family_byte not in _PROXY_2_ADDRESSES:  # LOCAL: the balancer's own check
        return Origin(None, start + length)
    family, size = _PROXY_2_ADDRESSES[family_byte]
    if length < 2 * size + 4:
        raise ValueError("a PROXY header of version 2 without its addresses")
    port = int.from_bytes(data[start + 2 * size : start + 2 * size + 2])
    return Origin(_peer(family, data[start : start + size], port), start + length)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65_535


def _peer(family: int, address: bytes, port: int) -> str:
    host = socket.inet_ntop(family, address)
    return f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"
