"""`rmq doctor`: what each check says of a machine that is fit, and of one that is not."""

import json
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rmq.commands import checks
from rmq.commands.checks import Finding
from rmq.config import Config
from rmq_proto import admin as pb
from tests.rmq.commands.rig import Commands, FakeServer
from tests.rmq.commands.storerig import a_store
from tests.serving import Server

ORDER = ["system", "port", "names", "apache", "data", "space", "fsync", "clock", "limits", "memory", "proxy"]


def said(finding: Finding) -> str:
    """State and text."""
    return f"{finding.state}: {finding.found}; {finding.advice}"


# -- the command -------------------------------------------------------------------------------------------------------


def test_one_line_a_check_and_nothing_left_behind(rmq: Commands, tmp_path: Path) -> None:
    """On the machine that runs the tests."""
    result = rmq("doctor", "--data", str(tmp_path / "data"), "--port", "0")
    assert [line.split()[1] for line in result.out.splitlines()] == ORDER
    assert {line.split()[0] for line in result.out.splitlines()} <= {"ok", "warn", "fail"}
    assert list(tmp_path.iterdir()) == []


def test_as_json(rmq: Commands, tmp_path: Path) -> None:
    """The same for programs."""
    found = json.loads(rmq("doctor", "--data", str(tmp_path), "--port", "0", "--json").out)
    assert [one["check"] for one in found["checks"]] == ORDER
    assert found["checks"][1] == {"check": "port", "state": "ok", "found": "a free one is picked", "advice": ""}


def test_a_failed_check_is_1(rmq: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """A warning is not."""
    warning, failure = Finding("a", "warn", "found", "do this"), Finding("b", "fail", "bad")
    monkeypatch.setattr(checks, "run", lambda config: iter([warning]))
    assert rmq("doctor") == (0, "warn  a        found; do this\n", "")
    monkeypatch.setattr(checks, "run", lambda config: iter([warning, failure]))
    result = rmq("doctor")
    assert (result.code, result.out.splitlines()[1]) == (1, "fail  b        bad")
    assert json.loads(rmq("doctor", "--json").out)["ok"] is False


def test_settings_come_from_where_serve_takes_them(rmq: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong one is the same line."""
    monkeypatch.setenv("RMQ_FLUSH", "memory")
    checked = [one["check"] for one in json.loads(rmq("doctor", "--port", "0", "--json").out)["checks"]]
    assert "fsync" not in checked
    assert "port is 'x'" in rmq.fails("doctor", "--port", "x", code=2)


# -- what else runs here -----------------------------------------------------------------------------------------------


def test_a_port_that_is_free() -> None:
    """Nobody listens, and we may bind it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.getsockname()[1]
    assert said(checks.port(Config(port=number))) == f"ok: port {number} is free; "


def test_a_port_that_something_else_has() -> None:
    """Whatever it is."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.getsockname()[1]
        finding = checks.port(Config(port=number))
    assert finding.state == "fail"
    assert finding.found.startswith(f"port {number} is taken: ")
    assert "another --port" in finding.advice


def test_a_port_on_an_address_that_is_not_here() -> None:
    """Of the documentation's network."""
    assert checks._free("192.0.2.1", 8081, "port 8081").state == "fail"


def test_a_port_that_an_rmq_serves(server: FakeServer) -> None:
    """Nothing is wrong."""
    assert said(checks.port(Config())) == "ok: rmq 9.9 (process 7) serves on port 8081; "
    checks.port(Config(host="::1", port=5))
    checks.port(Config(host="0.0.0.0"))
    assert server.endpoints == ["127.0.0.1:8081", "[::1]:5", "127.0.0.1:8081"]


def test_a_server_that_found_damage_is_a_warning(server: FakeServer) -> None:
    """With what to do about it; it serves all the same."""
    server.answers["describe"] = pb.Server(version="9.9", pid=7, data="/data", damaged=3)
    finding = checks.port(Config())
    assert finding.state == "warn"
    assert finding.found.endswith("serves on port 8081, and found 3 damaged places in its store")
    assert "rmq store check /data, then rmq store repair" in finding.advice


@pytest.mark.parametrize(("addresses", "state"), [(["127.0.0.1", "::1"], "ok"), (["10.0.0.1"], "warn"), (None, "warn")])
def test_what_localhost_is(monkeypatch: pytest.MonkeyPatch, addresses: list[str] | None, state: str) -> None:
    """Clients are told this name."""

    def resolve(*_: object, **__: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        if addresses is None:
            raise socket.gaierror(-2, "unknown")
        return [(0, 0, 0, "", (address, 8081)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert checks.names().state == state


def test_a_running_apache_is_found_by_its_class(tmp_path: Path) -> None:
    """In the command line of a java process."""
    commands = {
        "17": b"/usr/bin/java\0-Xmx1g\0org.apache.rocketmq.proxy.ProxyStartup\0",
        "18": b"/usr/bin/java\0org.example.Main\0",
        "19": b"grep\0org.apache.rocketmq.\0",
        "20": b"",
    }
    for pid, line in commands.items():
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cmdline").write_bytes(line)
    (tmp_path / "21").mkdir()  # it has ended
    assert list(checks._apache_processes(tmp_path)) == [17]


def test_an_apache_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its process, else by its ports."""
    monkeypatch.setattr(checks, "_answers", lambda number: number == 9876)
    monkeypatch.setattr(checks, "_apache_processes", lambda: iter([18, 17]))
    assert said(checks.apache()).startswith("warn: Apache RocketMQ runs: process 17, 18; stop it")
    monkeypatch.setattr(checks, "_apache_processes", lambda: iter([]))
    assert "ports 9876 (name server)" in said(checks.apache())
    monkeypatch.setattr(checks, "_answers", lambda number: False)
    assert checks.apache().state == "ok"


# -- disk --------------------------------------------------------------------------------------------------------------


def test_a_data_directory_that_is_there_or_to_be_made(tmp_path: Path) -> None:
    """Nothing is made."""
    assert checks.data(Config(data=str(tmp_path))).found == f"{tmp_path} can be used"
    assert "not there yet" in checks.data(Config(data=str(tmp_path / "a" / "b"))).found
    assert list(tmp_path.iterdir()) == []


def test_a_data_directory_that_is_a_file(tmp_path: Path) -> None:
    """Or lies below one."""
    (tmp_path / "file").touch()
    assert checks.data(Config(data=str(tmp_path / "file"))).state == "fail"
    assert checks.data(Config(data=str(tmp_path / "file" / "data"))).state == "fail"


def test_a_data_directory_in_use(tmp_path: Path) -> None:
    """By another process."""
    with Server(data=tmp_path / "data"):
        assert said(checks.data(Config(data=str(tmp_path / "data")))).startswith("warn: ")


def test_a_lock_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    """It is a link to itself."""
    a_store(tmp_path)
    (tmp_path / "lock").symlink_to("lock")
    finding = checks.data(Config(data=str(tmp_path)))
    assert (finding.state, finding.found.startswith("cannot read")) == ("warn", True)


@pytest.mark.parametrize(("free", "state"), [(100 << 30, "ok"), (500 << 20, "warn"), (100 << 20, "fail")])
def test_free_space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, state: str) -> None:
    """What has to stay free, and room to begin."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: _Usage(free))
    assert checks.space(Config(data=str(tmp_path))).state == state


class _Usage:
    def __init__(self, free: int) -> None:
        self.free = free


@pytest.mark.parametrize(
    ("kind", "took_ms", "state"), [("ext4", 0.5, "ok"), ("ext4", 25.0, "warn"), ("tmpfs", 0.1, "warn")]
)
def test_fsync(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, took_ms: float, state: str) -> None:
    """Slow ones, and those that mean nothing."""
    monkeypatch.setattr(checks, "_fsync_ms", lambda folder, now_s: (took_ms, 2 * took_ms))
    monkeypatch.setattr(checks, "_kind_of", lambda folder: kind)
    assert checks.fsync(Config(data=str(tmp_path))).state == state


def test_fsync_is_measured_where_the_data_will_be(tmp_path: Path) -> None:
    """By a clock that says what it is told: 1 ms each."""
    ticks = iter(range(1000))
    assert checks._fsync_ms(tmp_path, lambda: next(ticks) / 1000) == pytest.approx((1.0, 1.0))
    assert list(tmp_path.iterdir()) == []
    assert checks.fsync(Config(data="/proc/nowhere")).state == "fail"


def test_the_file_system_is_the_innermost_mount(tmp_path: Path) -> None:
    """Of those above the folder."""
    mounts = tmp_path / "mounts"
    mounts.write_text("a / ext4 rw 0 0\nb /srv xfs rw 0 0\nc /srv/mem tmpfs rw 0 0\nd /srv/memory ext4 rw 0 0\n")
    kinds = [checks._kind_of(Path(folder), mounts) for folder in ("/x", "/srv/x", "/srv/mem", "/srv/mem/x")]
    assert kinds == ["ext4", "xfs", "tmpfs", "tmpfs"]
    assert checks._kind_of(Path("/"), tmp_path / "none") == ""


# -- clock, limits, memory, environment --------------------------------------------------------------------------------


def test_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set, and kept right."""
    monkeypatch.setattr(checks, "_clock_state", lambda: 0)
    assert checks.clock().state == "ok"
    monkeypatch.setattr(checks, "_clock_state", lambda: checks.CLOCK_UNSYNCHRONISED)
    assert "NTP" in said(checks.clock())
    monkeypatch.setattr(checks, "FIRST_DAY_MS", 1 << 60)
    assert checks.clock().state == "fail"


def test_the_state_of_the_clock_is_a_number() -> None:
    """Of those that adjtimex(2) lists."""
    assert checks._clock_state() in range(6)


@pytest.mark.parametrize(
    ("limits", "state", "words"),
    [
        ({resource.RLIMIT_NOFILE: (30_000, 30_000)}, "ok", "30000 open files"),
        ({resource.RLIMIT_NOFILE: (-1, -1)}, "ok", "no limit"),
        ({resource.RLIMIT_NOFILE: (1024, 30_000)}, "ok", "a server raises its own limit from 1024"),
        ({resource.RLIMIT_NOFILE: (1024, 4096)}, "warn", "allow 17920: ulimit -Hn, or lower connections_max (16384)"),
        ({resource.RLIMIT_FSIZE: (1 << 20, -1)}, "fail", "a file may have 1.0 MiB"),
    ],
)
def test_limits(monkeypatch: pytest.MonkeyPatch, limits: dict[int, tuple[int, int]], state: str, words: str) -> None:
    """Of open files, and of a file's size."""
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits.get(which, (-1, -1)))
    finding = checks.files(Config())
    assert (finding.state, words in said(finding)) == (state, True)


def test_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's, or what is left of the control group's."""
    info, group = tmp_path / "meminfo", tmp_path / "group"
    assert checks._memory_left(info, group) is None
    info.write_text("MemTotal: 9 kB\nMemAvailable: 1048576 kB\n")
    assert checks._memory_left(info, group) == 1 << 30
    group.mkdir()
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("5\n")
    assert checks._memory_left(info, group) == 1 << 30
    (group / "memory.max").write_text("1000\n")
    assert checks._memory_left(info, group) == 995
    for left, state in ((None, "ok"), (1 << 30, "ok"), (1 << 20, "warn")):
        monkeypatch.setattr(checks, "_memory_left", lambda found=left: found)
        assert checks.memory(Config()).state == state
    monkeypatch.setattr(checks, "_memory_left", lambda: 200 << 20)
    assert checks.memory(Config(flush="memory")).state == "warn"


def test_a_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless localhost is excepted."""
    assert checks.proxy().state == "ok"
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    assert "no_proxy=localhost" in said(checks.proxy())
    monkeypatch.setenv("no_proxy", "localhost,10.0.0.0/8")
    assert checks.proxy().state == "ok"


def test_another_system_than_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is not tested."""
    monkeypatch.setattr(sys, "platform", "darwin")
    assert checks.system().state == "warn"


def test_as_a_process_it_takes_no_second(tmp_path: Path) -> None:
    """Nothing waits for what is not there; the bound is generous for a busy machine."""
    command = [sys.executable, "-m", "rmq", "doctor", "--port", "0", "--data", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == len(ORDER)
