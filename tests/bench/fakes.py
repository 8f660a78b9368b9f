"""A server that is none, and a stand that measures nothing: for the order of things."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.driver import Sample
from bench.servers import Server
from bench.stand import Settings, Stand


class FakeServer:
    """Notes what is done to it in `log`, a list that several may share."""

    folder = Path()
    endpoint = "127.0.0.1:1"
    launched_ns = 0

    def __init__(self, pids: list[int], name: str = "rmq", log: list[str] | None = None) -> None:
        self.name = name
        self.pids = pids
        self.backlog = 0
        self.log = [] if log is None else log

    def await_ready(self) -> None:
        self.log.append(f"{self.name} ready")

    def make_topic(self, topic: str, kind: str) -> None:
        self.log.append(f"{self.name} topic {topic} {kind}")

    def make_group(self, group: str) -> None:
        self.log.append(f"{self.name} group {group}")

    def pause(self) -> None:
        self.log.append(f"{self.name} pause")

    def resume(self) -> None:
        self.log.append(f"{self.name} resume")

    def stop(self) -> float:
        self.log.append(f"{self.name} stop")
        return 0.5

    def close(self) -> None:
        self.log.append(f"{self.name} close")


class FakeStand(Stand):
    """Its load generator answers from `answers`, by command, else with a send that went well."""

    def __init__(self, scratch: Path, settings: Settings) -> None:
        super().__init__(scratch, settings)
        self.load_average = 0.0
        self.log: list[str] = []
        self.answers: dict[str, list[Sample]] = {}
        self.flags: list[dict[str, Any]] = []

    def spawn(
        self,
        name: str,
        data: Path | None = None,
        environment: Mapping[str, str] | None = None,
        *,
        flush: str = "",
        fsync_ms: float = 0,
    ) -> Server:
        server = FakeServer([], name, self.log)
        self._spawned.append(server)
        return server

    def settle(self, seconds: float) -> None:
        if seconds:
            self.log.append(f"settle {seconds:g}")

    def run(self, server: Server, command: str, within_s: float, /, **flags: object) -> Sample:
        self.log.append(f"{server.name} {command}")
        self.flags.append(flags)
        waiting = self.answers.get(command, [])
        return waiting.pop(0) if waiting else {"sent_total": 1.0, "send_per_s": 100.0}
