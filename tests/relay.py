"""A port that passes every byte on to another one and keeps a copy: what a client and a server really said.

Owns its sockets and threads; promises that none is left when the block ends. Changes, delays and understands nothing:
`frames` reads what HTTP/2 in the clear has left in a copy.
"""

import contextlib
import socket
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from rmq_proxy.http2 import frames as http2

STEP_BYTES = 1 << 16
END_S = 10.0


class Relay:
    """Listens on 127.0.0.1 while its block runs. `up` and `down`: what each connection's client and server sent."""

    def __init__(self, port: int) -> None:
        self.server = ("127.0.0.1", port)
        self.up: list[bytearray] = []
        self.down: list[bytearray] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.sockets: list[socket.socket] = []
        self.threads = [threading.Thread(target=self.accept)]

    def __enter__(self) -> Self:
        self.threads[0].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        self.threads[0].join(END_S)
        self.listener.close()
        for one in self.sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self.threads[1:]:
            thread.join(END_S)
        for one in self.sockets:
            one.close()

    def accept(self) -> None:
        """Joins each client to the server, until the listener ends."""
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(self.server)
            self.sockets += [client, server]
            self.up.append(bytearray())
            self.down.append(bytearray())
            for source, target, copy in ((client, server, self.up[-1]), (server, client, self.down[-1])):
                self.threads.append(threading.Thread(target=pump, args=(source, target, copy)))
                self.threads[-1].start()


def pump(source: socket.socket, target: socket.socket, copy: bytearray) -> None:
    """Passes on what comes until either side is gone."""
    with contextlib.suppress(OSError):
        while data := source.recv(STEP_BYTES):
            copy += data
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def frames(copy: bytearray) -> Iterator[tuple[int, int]]:
    """Kind and flags of each whole frame of one direction."""
    data = bytes(copy).removeprefix(http2.PREFACE)
    position = 0
    while position + http2.HEAD_BYTES <= len(data):
        length, flags, _ = http2.read_head(data, position)
        position += http2.HEAD_BYTES + (length >> 8)
        if position <= len(data):
            yield length & 0xFF, flags
