"""TLS on a connection's bytes: ciphertext in, plain bytes out, and back. Sans-I/O.

Far lighter for many idle connections than a TLS layer of the loop: nothing is buffered but a record that is not whole.
"""

import contextlib
import ssl

READ_BYTES = 256 * 1024
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
        self._incoming.write(data)
        pieces: list[bytes] = []
        try:
            if not self.established:
                self._ssl.do_handshake()
                self.established = True
            while True:
                piece = self._ssl.read(READ_BYTES)
                if not piece:
                    self.closed = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.closed = True
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def send(self, data: bytes) -> bytes:
        """The ciphertext for `data`."""
        self._ssl.write(data)
        return self._outgoing.read()

    def outgoing(self) -> bytes:
        """What TLS itself has to say: handshake, tickets, alerts."""
        return self._outgoing.read()

    def close(self) -> bytes:
        """Our close_notify; the client's is not waited for."""
        with contextlib.suppress(ssl.SSLError, ValueError):
            self._ssl.unwrap()
        return self._outgoing.read()
