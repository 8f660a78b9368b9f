"""A server that lives many short lives on one store: the nest's other side, for an event loop.

Owns the nest's process and a temporary directory with the store and its log. Every wait is bounded.
"""

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from rmq.testing.process import environment
from tests.crash.nest import Order

WITHIN_S = 60.0


class Server:
    """`async with`: one store under one set of settings; with `plant`, a bug."""

    def __init__(self, flush: str, env: Mapping[str, str], plant: str = "") -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="rmq-crash-")
        self.home = Path(self._folder.name)
        self._flags = ["--flush", flush, "--port", "0", "--data", str(self.home / "data")]
        self._env = dict(env)
        self._plant = plant
        self._nest: asyncio.subprocess.Process | None = None
        self._said: asyncio.Queue[dict[str, object]] = asyncio.Queue()
        self._reading: asyncio.Task[None] | None = None
        self.ended = asyncio.Event()  # the life under way is over
        self.status = 0  # of the last life, as os.waitpid has it

    async def __aenter__(self) -> Self:
        pipe = asyncio.subprocess.PIPE
        command = [sys.executable, "-m", "tests.crash.nest"]
        self._nest = await asyncio.create_subprocess_exec(*command, env=environment(), stdin=pipe, stdout=pipe)
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        assert self._nest is not None
        assert self._nest.stdin is not None
        self._nest.stdin.close()
        await asyncio.wait_for(self._nest.wait(), WITHIN_S)
        if self._reading is not None:
            await self._reading
        if error is not None:
            error.add_note(f"log of the server:\n{self.log[-16_384:]}")
        self._folder.cleanup()

    @property
    def log(self) -> str:
        """What it wrote to standard error in all its lives."""
        path = self.home / "stderr"
        return path.read_text(errors="replace") if path.exists() else ""

    async def _read(self) -> None:
        assert self._nest is not None
        assert self._nest.stdout is not None
        async for line in self._nest.stdout:
            if not line.strip():
                continue
            said: dict[str, object] = json.loads(line)
            if "ended" in said:
                self.status = int(str(said["ended"]))
                self.ended.set()
            self._said.put_nowait(said)
        self.ended.set()

    def launch(self, point: str = "", kth: int = 1, env: Mapping[str, str] | None = None) -> None:
        """Begins a life, with further settings; the one before has ended."""
        self.ended.clear()
        while not self._said.empty():
            self._said.get_nowait()
        settings = {**self._env, **(env or {})}
        order = Order(self._flags, settings, str(self.home / "stderr"), point, kth, self._plant)
        self._order(msgspec.json.encode(order))

    def _order(self, line: bytes) -> None:
        assert self._nest is not None
        assert self._nest.stdin is not None
        self._nest.stdin.write(line + b"\n")

    async def endpoint(self) -> str:
        """HOST:PORT when clients can connect; "" where it died before."""
        said = await asyncio.wait_for(self._said.get(), WITHIN_S)
        return str(said.get("endpoint", ""))

    @property
    def killed(self) -> bool:
        """Whether the last life ended with SIGKILL, and not in any other way."""
        return os.WIFSIGNALED(self.status) and os.WTERMSIG(self.status) == signal.SIGKILL

    async def kill(self) -> None:
        """SIGKILL, unless it is dead already."""
        self._order(b"kill")
        await asyncio.wait_for(self.ended.wait(), WITHIN_S)

    async def stop(self) -> None:
        """SIGTERM; it must end well."""
        self._order(b"stop")
        await asyncio.wait_for(self.ended.wait(), WITHIN_S)
        assert os.waitstatus_to_exitcode(self.status) == 0, f"it ended with status {self.status}: {self.log[-4096:]}"
