"""TLS on a connection's bytes: ciphertext in, plain bytes out, and back. Sans-I/O.

Far lighter for many idle connections than a TLS layer of the loop: nothing is buffered but a record that is not whole.
OpenSSL's memory buffers never shrink, so bytes pass them in steps: what a connection once carried does not stay.
"""

import contextlib
import ssl

STEP_BYTES = 32 * 1024
CLIENT_HELLO_REFUSED = bytes.fromhex("15030100020228")
"""A fatal alert, handshake failure: what a client gets that speaks TLS where there is none."""


class Session:
    """The server's side of one TLS connection."""

    __slots__ = ("_incoming", "_outgoing", "_ssl", "closed", "established")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.established = False
        self.closed = False  # the client said that it sends no more

    def receive(self, data: bytes) -> bytes:
        """The plain bytes that are whole now. Raises ssl.SSLError; `outgoing` then holds the alert."""
        pieces: list[bytes] = []
        for start in range(0, len(data), STEP_BYTES):
            self._incoming.write(data[start : start + STEP_BYTES])
            self._decrypt(pieces)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _decrypt(self, pieces: list[bytes]) -> None:
        try:
            if not self.established:
                self._ssl.do_handshake()
                self.established = True
            while True:
                piece = self._ssl.read(STEP_BYTES)
                if not piece:
                    self.closed = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.closed = True

    def send(self, data: bytes) -> bytes:
        """The ciphertext for `data`."""
        pieces: list[bytes] = []
        for start in range(0, len(data), STEP_BYTES):
            self._ssl.write(data[start : start + STEP_BYTES])
            pieces.append(self._outgoing.read())
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def outgoing(self) -> bytes:
        """What TLS itself has to say: handshake, tickets, alerts."""
        return self._outgoing.read()

    def close(self) -> bytes:
        """Our close_notify; the client's is not waited for."""
        with contextlib.suppress(ssl.SSLError, ValueError):
            self._ssl.unwrap()
        return self._outgoing.read()
