"""tests/serving.py itself: a helper that hides a server's misbehaviour would make every test that uses it worthless."""

import os
import sys
from pathlib import Path

import pytest

from tests.serving import Server, ServerError

STUB = Path(__file__).with_name("stub_server.py")


def stub(manner: str, *, ready_within_s: float = 30.0, stop_within_s: float = 30.0) -> Server:
    """A Server around the stub."""
    command = (sys.executable, str(STUB), manner)
    return Server(command=command, ready_within_s=ready_within_s, stop_within_s=stop_within_s)


def is_alive(pid: int) -> bool:
    """Whether a process of this id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_gives_endpoint_and_pid_and_leaves_nothing() -> None:
    """Inside the block the server runs as its line says; after it neither process nor directory is there."""
    with stub("none") as server:
        assert server.endpoint == "127.0.0.1:40001"
        assert is_alive(server.pid)
        assert Path(str(server.ready["data"])).is_dir()
        pid, home = server.pid, server.home
    assert not is_alive(pid)
    assert not home.exists()


def test_restarts_on_the_same_data_and_port() -> None:
    """After a kill or a stop the next process gets the port and the directory of the first."""
    with stub("none") as server:
        first = (server.pid, server.endpoint, server.ready["data"])
        server.kill()
        assert not server.running
        server.restart()
        assert server.pid != first[0]
        assert (server.endpoint, server.ready["data"]) == first[1:]
        server.restart()
        assert server.running


def test_a_server_that_dies_early_is_reported_with_its_error() -> None:
    """The exit code and the end of standard error are in the report."""
    with pytest.raises(ServerError, match=r"(?s)exit code 3.*stub: dead"), stub("dead"):
        pass


def test_a_server_that_never_gets_ready_is_given_up_and_killed() -> None:
    """The wait for the line is bounded."""
    server = stub("silent", ready_within_s=0.5)
    with pytest.raises(ServerError, match="not ready within"), server:
        pass
    assert not server.running


def test_a_server_that_ignores_sigterm_is_a_failure() -> None:
    """The wait for the end is bounded, and the process is killed afterwards."""
    server = stub("stubborn", stop_within_s=0.3)
    with pytest.raises(ServerError, match="still runs"), server:
        pass
    assert not server.running


def test_a_second_line_on_standard_output_is_a_failure() -> None:
    """Standard output carries one line."""
    with pytest.raises(ServerError, match="one more line"), stub("chatty"):
        pass


def test_a_failing_block_shows_the_server_s_error() -> None:
    """The block's own error goes on, with the server's standard error as its note, and the server is gone."""
    server = stub("none")
    with pytest.raises(ZeroDivisionError) as caught, server:
        raise ZeroDivisionError
    assert "stub: none" in caught.value.__notes__[0]
    assert not server.running


def test_settings_of_the_caller_do_not_leak_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """RMQ_* of the developer's shell would change what is tested."""
    monkeypatch.setenv("RMQ_PORT", "1")
    assert "RMQ_PORT" not in stub("none").env
