"""A server in a process of its own: starts it, waits until it is ready, stops, kills, restarts it.

Owns the process and a temporary directory (its settings, what it says on standard error, its data where `data` names
no other place). Promises that no wait is unbounded, that the process ends with the one that started it, and that every
failure shows what the server said. The process runs this Python with this sys.path: the same rmq.
"""

import importlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import msgspec

from rmq.config import Config
from rmq.testing.connection import Connection, step_ms
from rmq.testing.options import file_of

COMMAND = (sys.executable, "-m", "rmq.testing")
READY_WITHIN_S = 20.0
STOP_WITHIN_S = 5.0
LOG_SHOWN_BYTES = 16_384
NOT_STARTED = "the rmq server does not run: use `with`, or start()"
READY_FIELDS = {"pid", "endpoint", "data", "flush", "profile"}


class ServerError(Exception):
    """The server did not do what a server does; the text ends with what it said."""


class Server(Connection):
    """One server over all its lives; see rmq.testing.server. `command` gets `--config FILE`."""

    def __init__(
        self,
        config: Config,
        *,
        ready_within_s: float = READY_WITHIN_S,
        stop_within_s: float = STOP_WITHIN_S,
        command: Sequence[str] = COMMAND,
    ) -> None:
        super().__init__("")
        self._config = config
        self._ready_within_s = ready_within_s
        self._stop_within_s = stop_within_s
        self._command = tuple(command)
        self._home: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._advanced_ms = 0
        self._end_is_known = False
        self._last_words = ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self.stop()
            return
        with suppress(ServerError):
            self.end()  # what it still has to say is part of the log
        error.add_note(f"log of the rmq server:\n{self._log_end()}")
        self._discard()

    @property
    def endpoint(self) -> str:
        """HOST:PORT, as clients take it. The port stays over restarts."""
        self._started()
        return self._endpoint

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._started().pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def home(self) -> Path:
        """The temporary directory, which goes with the server."""
        if self._home is None:
            raise ServerError(NOT_STARTED)
        return Path(self._home.name)

    @property
    def data(self) -> Path | None:
        """Where the server keeps its messages; None: nowhere, they are in memory."""
        if self._config.flush == "memory":
            return None
        return self.home / "data" if self._data_is_ours else Path(self._config.data).absolute()

    @property
    def log(self) -> str:
        """What the server wrote to standard error so far, over all its lives."""
        return self._log_path.read_text(errors="replace") if self._home is not None else self._last_words

    def start(self) -> Self:
        """Starts the server and waits until clients can connect. Raises ServerError."""
        if self.running:
            raise ServerError("the rmq server runs already: stop() it first")
        if self._home is None:
            self._home = tempfile.TemporaryDirectory(prefix="rmq-test-")
        try:
            self._launch()
        except BaseException:
            self._discard()
            raise
        return self

    def stop(self) -> None:
        """Ends the server as SIGTERM does and removes what it left.

        Raises ServerError where it does not end well, or has ended by itself before.
        """
        try:
            if self.running:
                self.end()
            elif self._process is not None and not self._end_is_known:
                raise self._failure(f"the rmq server had ended by itself with exit code {self._process.returncode}")
        finally:
            self._discard()

    def end(self) -> None:
        """Ends the server as SIGTERM does; `restart` begins its next life. Raises ServerError."""
        process = self._started()
        self.close()
        process.terminate()
        code = self.wait(self._stop_within_s)
        rest = self._stdout().read()
        expected = 0 if os.name == "posix" else code  # Windows knows no such signal
        if code != expected or rest:
            raise self._failure(f"the rmq server ended with exit code {code} and said {rest!r} on standard output")

    def kill(self) -> None:
        """Ends the server at once, without a last word."""
        self.close()
        self._started().kill()
        self.wait(self._stop_within_s)

    def restart(self) -> None:
        """The next life, on the same port and data, the clock where it was moved to. Ends first what still runs."""
        if self.running:
            self.end()
        self._let_go()
        self._launch()

    def wait(self, within_s: float) -> int:
        """Waits for the process to end; its exit code. Raises ServerError where it does not."""
        try:
            code = self._started().wait(within_s)
        except subprocess.TimeoutExpired:
            raise self._failure(f"the rmq server still runs after {within_s:g} s") from None
        self._end_is_known = True
        return code

    def advance(self, *, hours: float = 0, minutes: float = 0, seconds: float = 0, ms: int = 0) -> int:
        """As Connection.advance."""
        now_ms = super().advance(hours=hours, minutes=minutes, seconds=seconds, ms=ms)
        self._advanced_ms += step_ms(hours, minutes, seconds, ms)
        return now_ms

    def reset(self) -> None:
        """Deletes every topic and group, but for those of the configuration.

        A server that keeps its data is restarted on an empty directory instead, which takes longer and which clients
        notice. Raises ServerError where `data` was given: what is there is not the test's to delete.
        """
        if self._config.flush == "memory":
            super().reset()
            return
        if not self._data_is_ours:
            raise ServerError(
                f"reset would delete what is in {self._config.data}; leave out `data`, or take flush memory"
            )
        self.kill()
        shutil.rmtree(self.home / "data")
        self.restart()

    # -- one life ----------------------------------------------------------------------------------------------------

    @property
    def _data_is_ours(self) -> bool:
        return self._config.data == Config().data

    @property
    def _log_path(self) -> Path:
        return self.home / "stderr"

    def _launch(self) -> None:
        data = str(self.data or self.home / "data")
        settings = self.home / "settings.json"
        settings.write_text(file_of(msgspec.structs.replace(self._config, data=data)))
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, "--config", str(settings)],
                cwd=self.home,
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._end_is_known = False
        importlib.import_module("rmq_proxy.admin_client")  # while the server starts: both take a fifth of a second
        self._endpoint = self._ready_endpoint()
        self._config = msgspec.structs.replace(self._config, port=self.port)
        if self._advanced_ms:
            self.admin.advance(self._advanced_ms)

    def _ready_endpoint(self) -> str:
        line = self._first_line()
        if not line.endswith(b"\n"):
            code = self.wait(self._stop_within_s)
            raise self._failure(f"the rmq server ended with exit code {code} before it was ready")
        try:
            ready = json.loads(line)
            complete = ready["pid"] == self.pid and set(ready) >= READY_FIELDS
        except (ValueError, LookupError, TypeError):
            complete = False
        if not complete:
            raise self._failure(f"what the rmq server says is no line of a server that is ready: {line!r}")
        return str(ready["endpoint"])

    def _first_line(self) -> bytes:
        """A thread reads it: a pipe has no portable wait with a limit."""
        lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        stdout = self._stdout()
        reader = threading.Thread(target=lambda: lines.put(stdout.readline()), name="rmq-ready", daemon=True)
        reader.start()
        try:
            return lines.get(timeout=self._ready_within_s)
        except queue.Empty:
            self._started().kill()
            reader.join(self._stop_within_s)
            raise self._failure(f"the rmq server was not ready within {self._ready_within_s:g} s") from None

    def _failure(self, text: str) -> ServerError:
        return ServerError(f"{text}; its log:\n{self._log_end()}")

    def _log_end(self) -> str:
        return self.log[-LOG_SHOWN_BYTES:]

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise ServerError(NOT_STARTED)
        return self._process

    def _stdout(self) -> IO[bytes]:
        stdout = self._started().stdout
        assert stdout is not None
        return stdout

    def _let_go(self) -> None:
        """Closes the pipes of a process that has ended."""
        with self._started():
            pass

    def _discard(self) -> None:
        self.close()
        if self._process is not None:
            self._process.kill()
            self._let_go()
            self._process = None
        if self._home is not None:
            self._last_words = self.log
            self._home.cleanup()
            self._home = None


def environment() -> Mapping[str, str]:
    """This process's, without RMQ_* and with its sys.path: settings of the shell would change what is tested."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RMQ_")}
    return {**kept, "PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path)}
