"""Polls, connections and handshakes: what is asked of the load generator, and what becomes of its numbers."""

import asyncio
from pathlib import Path

import pytest

from bench import driver, scale
from bench.book import Line
from bench.driver import ERROR, Sample
from bench.servers import Server
from bench.stand import Settings, Stand
from bench.tools import BenchError
from tests.bench.fakes import FakeServer, FakeStand


def values(lines: list[Line]) -> list[float]:
    """In their order."""
    return [line.value for line in lines]


def test_polls_are_measured_twice(tmp_path: Path) -> None:
    """While they end all the time, with messages; and while none ends, without."""
    stand = FakeStand(tmp_path, Settings())
    busy = {"bytes_a_poll": 2048.0, "core_pct": 5.0, "e2e_ms.p50": 1.0, "e2e_ms.p99": 3.0, "e2e_lost": 0.0}
    stand.answers["polls"] = [busy, {"core_pct": 0.5}]
    assert values(asyncio.run(scale.polls_wide(stand, tmp_path))) == [2.0, 5.0, 0.5, 1.0, 3.0, 0.0]
    assert [(flags["poll"], flags.get("n")) for flags in stand.flags] == [("20s", scale.MESSAGES), ("120s", None)]
    assert stand.log.count("rmq close") == 2


def test_what_connections_cost(tmp_path: Path) -> None:
    """In the clear."""
    stand = FakeStand(tmp_path, Settings())
    stand.answers["hold"] = [{"bytes_a_conn": 5120.0, "core_pct": 0.2, "cpu_ms_a_conn": 0.3, "errors": 0.0}]
    assert values(asyncio.run(scale.connections(stand, tmp_path))) == [5.0, 0.2, 0.3]


def test_a_handshake_is_what_tls_adds(tmp_path: Path) -> None:
    """To a connection and its first call."""
    stand = FakeStand(tmp_path, Settings())
    clear = {"bytes_a_conn": 5120.0, "core_pct": 0.2, "cpu_ms_a_conn": 0.25, "errors": 0.0}
    stand.answers["hold"] = [clear, {**clear, "bytes_a_conn": 20480.0, "cpu_ms_a_conn": 1.0}]
    assert values(asyncio.run(scale.tls(stand, tmp_path))) == [20.0, 0.2, 0.75]
    assert [flags["tls"] for flags in stand.flags] == ["false", "true"]


def test_connections_that_fail_are_no_figure(tmp_path: Path) -> None:
    """Fewer than were asked for would look cheaper."""
    stand = FakeStand(tmp_path, Settings())
    stand.answers["hold"] = [{"errors": 2.0, f"{ERROR}dial: refused": 2.0}]
    with pytest.raises(BenchError, match="2 of 10000 connections failed: dial: refused"):
        asyncio.run(scale.connections(stand, tmp_path))
    assert stand.log.count("rmq close") == 1


@pytest.mark.parametrize("tls", [False, True])
def test_clients_use_tls_where_that_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls: bool) -> None:
    """In every load; what a figure says of itself is stronger."""
    told: list[object] = []

    def run(program: Path, core: int, server: Server, command: str, within_s: float, /, **flags: object) -> Sample:
        told.append(flags.get("tls"))
        return {}

    monkeypatch.setattr(driver, "run", run)
    stand = Stand(tmp_path, Settings(tls=tls))
    stand.run(FakeServer([]), "send", 1.0, topic="t")
    stand.run(FakeServer([]), "hold", 1.0, tls="false")
    assert told == ["true" if tls else None, "false"]
