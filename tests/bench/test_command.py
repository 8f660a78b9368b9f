"""bin/bench as it is called."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pytest

from bench import __main__ as command
from bench import machine, servers, tools
from bench.figures import FIGURES
from bench.loads import LOADS
from bench.tools import BenchError
from tests.processes import started

SEND = '{"sent_total":1,"send_per_s":100.5,"send_call_ms":{"p50":1,"p99":2},"server_cpu_s_per_100k":3,"errors":0}'


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a load generator that only says something."""
    monkeypatch.setenv("RMQ_BENCH_HOME", str(tmp_path / "home"))
    replace_loadgen(f"echo '{SEND}'")
    return tmp_path / "home"


def replace_loadgen(script: str) -> None:
    """The one for these sources."""
    path = tools.loadgen_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def bench(results: Path, *arguments: str) -> AbstractContextManager["subprocess.Popen[str]"]:
    """In a process of its own, on this checkout."""
    return started(
        [sys.executable, "-m", "bench", "--results", str(results), *arguments],
        cwd=machine.ROOT,
        env=servers.rmq_env() | {"RMQ_BENCH_HOME": os.environ["RMQ_BENCH_HOME"]},
    )


def test_the_names_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Loads first, then what is measured inside rmq."""
    assert command.main(["--list"]) == 0
    assert capsys.readouterr().out.splitlines() == [*LOADS, *FIGURES]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["send-b2"], "no send-b2; there are: send-b1, send-b32,"),
        (["--apache", "backlog"], "no backlog with --apache; there are: send-b1,"),
        (["--rounds", "0"], "argument --rounds: invalid count value: '0'"),
        (["--seconds", "-1"], "argument --seconds: invalid seconds value: '-1'"),
    ],
)
def test_a_wrong_argument_is_refused(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is started."""
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_loads_are_chosen_by_name_or_by_what_is_compared() -> None:
    """Nothing named: every load alone, the four beside Apache; a transaction is never among those."""
    assert command.chosen([], False) == list(LOADS)
    assert command.chosen([], True) == ["send-b1", "send-b32", "consume", "both"]
    assert command.chosen(["leases", "cold"], False) == ["leases", "cold"]


def test_a_missing_program_ends_it_with_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is started, no result written."""
    monkeypatch.setenv("RMQ_BENCH_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    assert command.main(["send-b1"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("bench: missing: taskset (")
    assert err.count("\n") == 1


def test_a_load_is_measured_on_a_real_server(home: Path, tmp_path: Path) -> None:
    """The table on standard output, the file with machine and commit beside it, nothing left behind."""
    with bench(tmp_path / "results", "send-b1", "--seconds", "0", "--rounds", "1") as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.splitlines()[1].split()[:4] == ["send-b1", "messages", "/s", "100"]
    (path,) = (tmp_path / "results").iterdir()
    written = json.loads(path.read_text())
    assert written["machine"]["cores"] >= 1
    assert len(written["alone"]["send-b1"]["rounds"]) == 1
    assert written["alone"]["send-b1"]["rounds"][0]["rmq"]["anonymous_mib"] > 5
    assert sorted(one.name for one in home.iterdir()) == sorted([tools.loadgen_path().parent.name, "lock"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_no_server(home: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Neither the server nor the client in the middle of a measurement, nor their folders."""
    replace_loadgen("sleep 60")
    with bench(tmp_path / "results", "send-b1") as process:
        family = until_it_measures(process)
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "stopped" in err.splitlines()[-1]
    assert psutil.wait_procs(family, timeout=30)[1] == []
    assert not (home / "scratch").exists()


def until_it_measures(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """Its children, once the load generator is among them."""
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        family = psutil.Process(process.pid).children(recursive=True)
        if any(child.name() == "sleep" for child in family):
            return family
        time.sleep(0.02)
    raise AssertionError("it has not begun to measure")


def test_rmq_is_paused_resumed_and_stopped(tmp_path: Path) -> None:
    """A paused server can be stopped like any other, and closing ends one that is paused."""
    core = machine.cores()[0]
    server = servers.Rmq(tmp_path / "one", core, "memory")
    try:
        server.await_ready()
        assert psutil.Process(server.pids[0]).cpu_affinity() == [core]
        server.pause()
        until_stopped(server.pids[0])
        assert server.stop() < 10
    finally:
        server.close()
    paused = servers.Rmq(tmp_path / "two", core, "memory")
    paused.pause()
    paused.close()
    assert not psutil.pid_exists(paused.pids[0])
    assert list(tmp_path.iterdir()) == []


def until_stopped(pid: int) -> None:
    """A signal takes a moment."""
    deadline_s = time.monotonic() + 60
    while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
        assert time.monotonic() < deadline_s, "it was not paused"
        time.sleep(0.01)


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    """The last line of its standard error."""
    server = servers.Rmq(tmp_path / "one", machine.cores()[0], "never")
    try:
        with pytest.raises(BenchError, match=r"rmq did not start: rmq: .*flush"):
            server.await_ready()
    finally:
        server.close()


def test_ports_beside_a_base_are_free_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apache takes six; one that is taken rules out the base."""
    monkeypatch.setattr(servers, "is_free", lambda port: port != 20_010)
    bases = iter([20_000, 20_001, 20_020])
    assert servers.free_base(lambda _: next(bases)) == 20_001
