"""Finds out, for a call that got no answer, what is at the other end: a few bytes over a socket of its own.

gRPC tells what went wrong in words that change with its versions; what listens somewhere can be seen.
"""

import enum
import socket

PROBE_S = 1.0
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # a client's first words, and empty settings
FRAME_HEADER_BYTES = 9
SETTINGS_FRAME = 4


class Found(enum.Enum):
    """What listens."""

    NO_HOST = "the name has no address"
    NOTHING = "no connection"
    STRANGER = "something that does not speak HTTP/2"
    SILENCE = "it takes the connection and says nothing"
    HTTP2 = "an HTTP/2 server"


def probe(host: str, port: int, timeout_s: float = PROBE_S) -> tuple[Found, str]:
    """What is there, and the system's reason where there is nothing. Takes up to `timeout_s` twice."""
    try:
        with socket.create_connection((host, port), timeout_s) as connection:
            return _first_words(connection), ""
    except socket.gaierror as error:
        return Found.NO_HOST, _reason(error)
    except UnicodeError:  # Python's own check of a name, before the system is asked
        return Found.NO_HOST, "not a host's name"
    except OSError as error:
        return Found.NOTHING, _reason(error)


def _first_words(connection: socket.socket) -> Found:
    """An HTTP/2 server begins with settings: length, 3 bytes | type | flags | stream, 4 bytes | ..."""
    said = b""
    try:
        connection.sendall(PREFACE)
        while len(said) < FRAME_HEADER_BYTES and (more := connection.recv(FRAME_HEADER_BYTES)):
            said += more
    except TimeoutError:
        return Found.STRANGER if said else Found.SILENCE
    except OSError:
        return Found.STRANGER  # it hung up on us
    return Found.HTTP2 if len(said) >= FRAME_HEADER_BYTES and said[3] == SETTINGS_FRAME else Found.STRANGER


def _reason(error: OSError) -> str:
    return (error.strerror or str(error) or "unknown").lower()
