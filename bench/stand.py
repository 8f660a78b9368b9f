"""Where one run measures: its servers, started when first needed, one at a time on the core, and its load generator.

Promises that `close` leaves no process behind, paused or not.
"""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from bench import driver, machine, tools
from bench.driver import ERROR, Sample
from bench.servers import Apache, Rmq, Server
from bench.tools import BenchError

RESUME_S = 1.0  # a server's own timers catch up after a pause
TOPIC_WAIT_S = 60.0


class Settings(msgspec.Struct, frozen=True):
    """How is measured; what was measured otherwise is no continuation."""

    seconds: float = 10.0  # of one measurement
    warm_first_s: float = 150.0  # Apache, with the first load
    warm_load_s: float = 30.0  # Apache, with each load
    idle_s: float = 20.0
    flush: str = "fast"  # what Apache does by default
    tls: bool = False  # the clients', to both servers; certificates are not verified
    apache: str = tools.APACHE_VERSION


class Stand:
    """`scratch` is an empty folder of the run's own."""

    def __init__(self, scratch: Path, settings: Settings) -> None:
        self.load_average = os.getloadavg()[0]  # of the last minute, before we begin
        self.scratch = scratch
        self.settings = settings
        self.server_core, self.client_core = machine.cores()
        self.servers: dict[str, Server] = {}
        self.warmed_s = 0.0
        self._spawned: list[Server] = []
        self._launches = 0
        self._primed: set[tuple[str, str]] = set()
        self._registered: set[tuple[str, str]] = set()

    def close(self) -> None:
        """Ends every server of the run."""
        for server in self._spawned:
            server.close()

    def spawn(
        self,
        name: str,
        data: Path | None = None,
        environment: Mapping[str, str] | None = None,
        *,
        flush: str = "",
        fsync_ms: float = 0,
    ) -> Server:
        """Launches one more server and does not wait for it; on `data`, if given, which stays when it goes.

        The rest is rmq's: `environment`, settings as RMQ_KEY by value, a profile of its own, a slower disk.
        """
        self._launches += 1
        folder = self.scratch / f"{name}-{self._launches}"
        core, flush = self.server_core, flush or self.settings.flush
        server: Server
        if name == Apache.name:
            server = Apache(folder, core, data)
        else:
            server = Rmq(folder, core, flush, data, environment, fsync_ms=fsync_ms)
        self._spawned.append(server)
        return server

    def discard(self, server: Server) -> None:
        """It has served its purpose."""
        server.close()
        self._spawned.remove(server)

    def server(self, name: str) -> Server:
        """The one that all loads share."""
        if name not in self.servers:
            tools.say(f"{name} starts")
            server = self.spawn(name)
            server.await_ready()
            self.servers[name] = server
        return self.servers[name]

    def only(self, name: str) -> None:
        """The core is that server's alone."""
        for other, server in self.servers.items():
            if other != name:
                server.pause()
        if name in self.servers:
            self.servers[name].resume()
            time.sleep(RESUME_S)

    def settle(self, seconds: float) -> None:
        """Leaves a server to what the load has left in it."""
        time.sleep(seconds)

    def run(self, server: Server, command: str, within_s: float, /, **flags: object) -> Sample:
        """One command of the load generator. Raises BenchError."""
        if self.settings.tls:
            flags = {"tls": "true", **flags}
        return driver.run(tools.loadgen_path(), self.client_core, server, command, within_s, **flags)

    def prime(self, name: str, topic: str) -> None:
        """Makes a topic and sends its first message. Raises BenchError."""
        if answer := self.refusal(name, topic, "normal"):
            raise BenchError(f"{name} refuses normal messages: {answer}")

    def register(self, name: str, group: str) -> None:
        """Has a group look at the topic of its name once: Apache starts a new group at the end of a queue."""
        if (name, group) not in self._registered:
            self.look(self.server(name), group)
            self._registered.add((name, group))

    def look(self, server: Server, group: str) -> None:
        """Likewise, on any server."""
        server.make_group(group)
        self.run(server, "consume", 1.0, topic=group, group=group, duration="1s", conns=1, inflight=4)

    def refusal(self, name: str, topic: str, kind: str) -> str:
        """Asks the server for messages of this kind by sending one; its answer if it does not serve them, else "".

        Makes the topic. Raises BenchError if it can't be told.
        """
        if (name, topic) in self._primed:
            return ""
        self.only(name)
        answer = self.first_send(self.server(name), topic, kind)
        if not answer:
            self._primed.add((name, topic))
        return answer

    def first_send(self, server: Server, topic: str, kind: str = "normal") -> str:
        """Likewise, on any server."""
        server.make_topic(topic, kind)
        return ask(lambda: self.run(server, "send", 10.0, topic=topic, type=kind, n=1, conns=1, inflight=1))


def ask(send: Callable[[], Sample], within_s: float = TOPIC_WAIT_S, pause_s: float = 1.0) -> str:
    """Sends until the answer is clear: a new topic's route may take a moment. Raises BenchError after `within_s`."""
    deadline_s = time.monotonic() + within_s
    while True:
        sample = send()
        said = next((key.removeprefix(ERROR) for key in sample if key.startswith(ERROR)), "")
        if sample.get("sent_total", 0.0) >= 1 or "NOT_IMPLEMENTED" in said:
            return said
        if time.monotonic() > deadline_s:
            raise BenchError(f"no clear answer: {said or 'nothing was sent'}")
        time.sleep(pause_s)
