"""A server that cannot start: it ends soon, with an exit code and one line on standard error that says what to do."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from rmq.testing.process import environment
from tests.processes import started
from tests.serving import COMMAND, Server

WITHIN_S = 30
ENV = environment()


def refused(*flags: str, data: Path, port: int = 0) -> tuple[int, str]:
    """Exit code and the line; nothing else is printed, a warning about the configuration aside."""
    command = [*COMMAND, *flags, "--data", str(data), "--port", str(port)]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=WITHIN_S)
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if " WARNING " not in line]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("rmq: ")
    return done.returncode, lines[0]


def test_a_second_server_on_the_directory(tmp_path: Path) -> None:
    """Is kept out; the first serves on, and after its end the directory is free."""
    with Server(data=tmp_path / "data") as server:
        code, line = refused(data=tmp_path / "data")
        assert code == 1
        assert "in use by another broker" in line
        assert "--data" in line
        assert server.running
        server.restart()


def test_a_port_in_use(tmp_path: Path) -> None:
    """Names the port and the way out; the directory is free again at once."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        code, line = refused(data=tmp_path / "data", port=port)
    assert code == 2
    assert f"port {port} on 127.0.0.1 is in use" in line
    assert "--port" in line
    with Server(data=tmp_path / "data", port=port):
        pass


def test_a_port_of_another_server_of_ours(tmp_path: Path) -> None:
    """Two servers never share a port: half of the clients would find other messages."""
    with Server() as server:
        assert refused(data=tmp_path / "data", port=server.port)[0] == 2


def test_an_address_of_another_machine(tmp_path: Path) -> None:
    """Is nothing to listen on."""
    code, line = refused("--host", "192.0.2.1", data=tmp_path / "data")
    assert code == 2
    assert "--host" in line


def test_a_typo_in_the_configuration(tmp_path: Path) -> None:
    """The nearest right word is offered, and no directory is made."""
    path = tmp_path / "c.yaml"
    path.write_text("retention_hour: 5\n")
    code, line = refused("--config", str(path), data=tmp_path / "data")
    assert code == 2
    assert "did you mean retention_hours" in line
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "text", ["a: [", "\t", "port: 70000", "- port", "port: 1\nport: 2", "\x00", "port: &a [*a]"]
)  # fmt: skip
def test_a_configuration_that_makes_no_sense(tmp_path: Path, text: str) -> None:
    """Is one line as well."""
    path = tmp_path / "c.yaml"
    path.write_text(text)
    code, line = refused("--config", str(path), data=tmp_path / "data")
    assert code == 2
    assert str(path) in line


def newer(data: Path) -> None:
    """A store of a version to come."""
    (data / "rmq").mkdir(parents=True)
    (data / "rmq" / "format").write_text("99\n")


def a_file(data: Path) -> None:
    """The directory is a file."""
    data.write_text("")


def a_file_for_the_log(data: Path) -> None:
    """A file where the log's directory should be."""
    data.mkdir()
    (data / "commitlog").write_text("")


def a_file_for_our_own(data: Path) -> None:
    """A file where our own directory should be."""
    data.mkdir()
    (data / "rmq").write_text("")


def a_log_with_a_hole(data: Path) -> None:
    """A segment is missing."""
    (data / "commitlog").mkdir(parents=True)
    for number in (0, 2):
        (data / "commitlog" / f"{number << 20:020d}").write_bytes(bytes(1 << 20))


def a_log_of_two_sizes(data: Path) -> None:
    """A segment is cut."""
    (data / "commitlog").mkdir(parents=True)
    for number in (0, 1):
        (data / "commitlog" / f"{number << 20:020d}").write_bytes(bytes((1 << 20) - number))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (newer, "format 99"),
        (a_file, "--data"),
        (a_file_for_the_log, "commitlog"),
        (a_file_for_our_own, "rmq"),
        (a_log_with_a_hole, "gap"),
        (a_log_of_two_sizes, "different sizes"),
    ],
)
def test_a_directory_that_cannot_be_used(tmp_path: Path, make: Callable[[Path], None], said: str) -> None:
    """Exit code 1, and what is in it stays as it was."""
    data = tmp_path / "data"
    make(data)
    before = contents(data)
    code, line = refused(data=data)
    assert code == 1
    assert said in line
    assert str(data) in line or "commitlog/" in line
    assert before.items() <= contents(data).items()


def contents(data: Path) -> dict[str, bytes]:
    """Of every file."""
    files = [data] if data.is_file() else [path for path in data.rglob("*") if path.is_file()]
    return {str(path.relative_to(data)): path.read_bytes() for path in files}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_may_not_be_written(tmp_path: Path) -> None:
    """Says so."""
    data = tmp_path / "data"
    data.mkdir(mode=0o555)
    code, line = refused(data=data)
    assert code == 1
    assert str(data) in line


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, where nobody can make a directory")
def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """Root's case of the same."""
    code, line = refused(data=Path("/proc/rmq-data"))
    assert code == 1
    assert "/proc/rmq-data" in line


def missing_folder(tmp_path: Path) -> Path:
    """It would have to be made first."""
    return tmp_path / "none" / "ready"


def folder(tmp_path: Path) -> Path:
    """Not a file."""
    (tmp_path / "ready").mkdir()
    return tmp_path / "ready"


@pytest.mark.parametrize("make", [missing_folder, folder])
def test_a_ready_file_that_cannot_be_written(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    """Nobody would learn that the server is ready: it ends, and leaves nothing half done."""
    path = make(tmp_path)
    code, line = refused("--ready-file", str(path), data=tmp_path / "data")
    assert code == 2
    assert str(path) in line
    assert not path.with_name("ready.tmp").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_standard_output_that_cannot_be_written(tmp_path: Path) -> None:
    """The ready line is what the caller waits for: without it the server ends, with one line."""
    with open("/dev/full", "wb") as full:
        command = [*COMMAND, "--data", str(tmp_path / "data"), "--port", "0"]
        done = subprocess.run(command, env=ENV, stdout=full, stderr=subprocess.PIPE, text=True, timeout=WITHIN_S)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "standard output" in done.stderr


def test_closed_standard_streams_are_no_files_of_ours(tmp_path: Path) -> None:
    """A server without descriptors 0 to 2 serves and stops as any other; no file of its store takes their place."""
    ready = tmp_path / "ready"
    closing_all = "import os, sys; os.closerange(0, 3); os.execv(sys.argv[1], sys.argv[1:])"
    flags = ("--ready-file", str(ready))
    command = [sys.executable, "-c", closing_all, *COMMAND, *flags, "--data", str(tmp_path / "data"), "--port", "0"]
    with started(command, env=ENV, stdout=None, stderr=None) as process:
        wait_for(ready, process)
        assert json.loads(ready.read_text())["pid"] == process.pid
        if Path("/proc/self/fd").exists():
            assert {os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in range(3)} == {os.devnull}
        process.terminate()
        assert process.wait(WITHIN_S) == 0


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    """Until the file is there; fails when the process ends first."""
    for _ in range(WITHIN_S * 100):
        if path.exists():
            return
        try:
            code = process.wait(0.01)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(f"it ended with {code}")
    raise AssertionError("it never got ready")


def test_a_damaged_checkpoint_is_no_obstacle(tmp_path: Path) -> None:
    """It is there for a fast start only: the server says that it reads the whole log, and starts."""
    data = tmp_path / "data"
    with Server(data=data) as server:
        server.stop()
        (data / "rmq" / "checkpoint" / "data.mdb").write_bytes(b"\xff" * 16_384)
        server.restart()
        assert "checkpoint" in server.stderr()
        server.stop()
        server.restart()
