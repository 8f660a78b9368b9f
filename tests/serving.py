"""A real `rmq serve` with the flags and the environment that a test wants, for tests of the command itself.

    with Server("--flush", "fast") as server:
        connect(server.endpoint)
        server.kill()
        server.restart()  # same data, same port

Unlike rmq.testing.server, whose process this is underneath, it has the command's own defaults: durable, in the real
time. Owns a directory for data, unless `data` is given; what the server said is there to read until the block ends.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rmq.testing.process import Process, ServerError, environment

__all__ = ["COMMAND", "Server", "ServerError"]

COMMAND = (sys.executable, "-m", "rmq", "serve")


class Server(Process):
    """`flags` go to `rmq serve`; of the caller's environment all but RMQ_* is kept, and `env` is added."""

    def __init__(
        self,
        *flags: str,
        env: Mapping[str, str] | None = None,
        data: Path | None = None,
        port: int = 0,
        command: Sequence[str] = COMMAND,
        ready_within_s: float = 30.0,
        stop_within_s: float = 30.0,
    ) -> None:
        self.env = {**environment(), **(env or {})}
        super().__init__(self.env, ready_within_s=ready_within_s, stop_within_s=stop_within_s)
        self.flags = flags
        self.command = command
        self.data = data
        self.port = port
        self.ready: Mapping[str, object] = {}  # what its line says, in its latest life

    def __enter__(self) -> Self:
        self.open()
        try:
            self.start()
        except BaseException:
            self.discard()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if error is not None:
                self.note(error)
            elif self.running:
                self.end()
        finally:
            self.discard()

    @property
    def endpoint(self) -> str:
        """HOST:PORT as the server says it."""
        return str(self.ready["endpoint"])

    def start(self) -> None:
        """Begins a life and waits until clients can connect. Raises ServerError."""
        self.data = self.data or self.home / "data"
        self.launch([*self.command, *self.flags, "--port", str(self.port), "--data", str(self.data)])
        self.ready = self.until_ready()
        self.port = int(self.endpoint.rpartition(":")[2])

    def stop(self) -> None:
        """SIGTERM, as Process.end; data and log stay until the block ends."""
        self.end()

    def restart(self) -> None:
        """Starts again on the same data and port; ends first what still runs."""
        if self.running:
            self.end()
        self.start()

    def stderr(self) -> str:
        """What the server wrote to standard error, over all its lives."""
        return self.log
