"""A server in a process of its own, for users' tests: what a Connection can, and its life from start to stop.

Owns the settings that the process gets, its port and how far its time was moved, over all its lives. The process runs
this Python with this sys.path: the same rmq.
"""

import importlib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from rmq.config import Config
from rmq.testing.connection import Connection, step_ms
from rmq.testing.options import file_of
from rmq.testing.process import Process, ServerError, environment

COMMAND = (sys.executable, "-m", "rmq.testing")
READY_WITHIN_S = 20.0
STOP_WITHIN_S = 20.0


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
        self._command = command
        self._process = Process(environment(), ready_within_s=ready_within_s, stop_within_s=stop_within_s)
        self._advanced_ms = 0

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self.stop()
        else:
            self.close()
            self._process.note(error)
            self._process.discard()

    @property
    def endpoint(self) -> str:
        """HOST:PORT, as clients take it. The port stays over restarts."""
        _ = self.pid
        return self._endpoint

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process.running

    @property
    def home(self) -> Path:
        """The temporary directory, which goes with the server."""
        return self._process.home

    @property
    def data(self) -> Path | None:
        """Where the server keeps its messages; None: nowhere, they are in memory."""
        if self._config.flush == "memory":
            return None
        return self.home / "data" if self._data_is_ours else Path(self._config.data).absolute()

    @property
    def log(self) -> str:
        """What the server wrote to standard error so far, over all its lives."""
        return self._process.log

    def start(self) -> Self:
        """Starts the server and waits until clients can connect. Raises ServerError."""
        if self.running:
            raise ServerError("the rmq server runs already: stop() it first")
        try:
            self._process.open()
            self._launch()
        except BaseException:
            self._process.discard()
            raise
        return self

    def stop(self) -> None:
        """Ends the server as SIGTERM does and removes what it left; nothing where it does not run.

        Raises ServerError where it does not end well, or has ended by itself before.
        """
        self.close()
        try:
            if self._endpoint:
                self._process.end()
        finally:
            self._endpoint = ""
            self._process.discard()

    def kill(self) -> None:
        """Ends the server at once, without a last word; `restart` begins its next life."""
        self.close()
        self._process.kill()

    def restart(self) -> None:
        """The next life, on the same port and data, the clock where it was moved to. Ends first what still runs."""
        self.close()
        if self.running:
            self._process.end()
        self._launch()

    def wait(self, within_s: float) -> int:
        """Waits for the process to end by itself; its exit code. Raises ServerError where it does not."""
        return self._process.wait(within_s)

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

    @property
    def _data_is_ours(self) -> bool:
        return self._config.data == Config().data

    def _launch(self) -> None:
        settings = self.home / "settings.json"
        data = str(self.data or self.home / "data")
        settings.write_text(file_of(msgspec.structs.replace(self._config, data=data)))
        self._process.launch([*self._command, "--config", str(settings)])
        importlib.import_module("rmq_proxy.admin_client")  # while the server starts: both take a fifth of a second
        self._endpoint = str(self._process.until_ready()["endpoint"])
        self._config = msgspec.structs.replace(self._config, port=self.port)
        if self._advanced_ms:
            self.admin.advance(self._advanced_ms)
