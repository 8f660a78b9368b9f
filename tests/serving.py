"""A real server in a process of its own, for every test that needs one.

    with Server("--flush", "fast") as server:
        connect(server.endpoint)
        server.kill()
        server.restart()  # same data, same port

Owns the process and a temporary directory (its data, unless `data` is given, and its standard error). Promises that
nothing outlives the `with` block, that no wait is unbounded, and that a failing block shows the server's
standard error.
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

COMMAND = (sys.executable, "-m", "rmq", "serve")
STDERR_SHOWN_BYTES = 16_384


class ServerError(AssertionError):
    """The server did not do what a server does; the text ends with its standard error."""


class Server:
    """`flags` go to `rmq serve`; of the caller's environment all but RMQ_* is kept, and `env` is added."""

    def __init__(
        self,
        *flags: str,
        env: Mapping[str, str] | None = None,
        data: Path | None = None,
        port: int = 0,
        command: Sequence[str] = COMMAND,
        ready_within_s: float = 20.0,
        stop_within_s: float = 5.0,
    ) -> None:
        self.flags = flags
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("RMQ_")} | dict(env or {})
        self.command = tuple(command)
        self.ready_within_s = ready_within_s
        self.stop_within_s = stop_within_s
        self.port = port
        self.home = Path()  # a directory of its own once the block is entered
        self.data = data
        self.ready: dict[str, object] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._home = tempfile.TemporaryDirectory(prefix="rmq-test-")
        self.home = Path(self._home.name)
        self.data = self.data or self.home / "data"
        try:
            self.start()
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None and self.running:
                self.stop()
            elif kind is not None:
                print(f"standard error of the server:\n{self.stderr()}", file=sys.stderr)
        finally:
            self._discard()

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._started().pid

    @property
    def endpoint(self) -> str:
        """HOST:PORT as the server says it."""
        return str(self.ready["endpoint"])

    def start(self) -> None:
        """Starts the process and waits for its line; keeps what the line says in `ready`."""
        assert not self.running
        command = [*self.command, *self.flags, "--port", str(self.port), "--data", str(self.data)]
        with self._stderr_path.open("ab") as stderr:
            self._process = subprocess.Popen(
                command, cwd=self.home, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr
            )
        self.ready = self._read_ready_line()
        self.port = int(self.endpoint.rpartition(":")[2])

    def stop(self) -> None:
        """SIGTERM: the process has to end by itself, in time, with exit code 0 and nothing more on stdout."""
        process = self._started()
        process.send_signal(signal.SIGTERM)
        code = self._ended_within(self.stop_within_s, "SIGTERM")
        rest = self._stdout().read()
        if code != 0 or rest:
            raise ServerError(f"after SIGTERM: exit code {code}, standard output {rest!r}\n{self.stderr()}")

    def kill(self) -> None:
        """SIGKILL: no last word."""
        self._started().kill()
        self._ended_within(self.stop_within_s, "SIGKILL")

    def restart(self) -> None:
        """Starts again on the same data and port; stops first what still runs."""
        if self.running:
            self.stop()
        self._stdout().close()
        self.start()

    def wait(self, within_s: float) -> int:
        """Waits for the process to end by itself; returns its exit code."""
        return self._ended_within(within_s, "nothing from us")

    def stderr(self) -> str:
        """The end of what the server wrote to standard error, over all its starts."""
        data = self._stderr_path.read_bytes() if self._stderr_path.exists() else b""
        return data[-STDERR_SHOWN_BYTES:].decode(errors="replace")

    @property
    def _stderr_path(self) -> Path:
        return self.home / "stderr"

    def _started(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    def _stdout(self) -> IO[bytes]:
        stdout = self._started().stdout
        assert stdout is not None
        return stdout

    def _read_ready_line(self) -> dict[str, object]:
        line = self._read_line(time.monotonic() + self.ready_within_s)
        try:
            ready = json.loads(line)
            missing = {"pid", "endpoint", "data", "flush", "profile"} - set(ready)
        except ValueError:
            raise ServerError(f"not a line of JSON: {line!r}\n{self.stderr()}") from None
        if missing or ready["pid"] != self.pid:
            raise ServerError(f"the line lacks {sorted(missing)} or names another pid: {line!r}\n{self.stderr()}")
        return dict(ready)

    def _read_line(self, deadline_s: float) -> bytes:
        line = b""
        fd = self._stdout().fileno()
        while not line.endswith(b"\n"):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not select.select([fd], [], [], left_s)[0]:
                raise ServerError(f"not ready within {self.ready_within_s} s\n{self.stderr()}")
            byte = os.read(fd, 1)
            if not byte:
                code = self._ended_within(self.stop_within_s, "closing its standard output")
                raise ServerError(f"ended with exit code {code} before it was ready\n{self.stderr()}")
            line += byte
        return line

    def _ended_within(self, within_s: float, after: str) -> int:
        try:
            return self._started().wait(within_s)
        except subprocess.TimeoutExpired:
            raise ServerError(f"still running {within_s} s after {after}\n{self.stderr()}") from None

    def _discard(self) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            self._stdout().close()
        self._home.cleanup()
