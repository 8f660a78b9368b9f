"""A server in a process of its own: starts, shows, moves in time, dies, comes back, and leaves nothing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

import rmq.testing
from rmq.testing import Server, ServerError
from rmq.testing.options import config_of
from rmq.testing.process import environment
from rmq_proxy.admin_client import AdminError
from tests.processes import started

SERVE = "print(READY, flush=True); time.sleep(60)"
STOPS = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); "
READY = '{"pid": %d, "endpoint": "127.0.0.1:4", "data": "", "flush": "memory", "profile": "dev"}'


def stub(program: str, *, ready_within_s: float = 30.0, stop_within_s: float = 30.0) -> Server:
    """A server that is only a few lines of Python."""
    command = (sys.executable, "-c", f"import os, signal, sys, time\nREADY = {READY!r} % os.getpid()\n{program}")
    return Server(config_of({}), command=command, ready_within_s=ready_within_s, stop_within_s=stop_within_s)


def eventually(true: Callable[[], object], within_s: float = 30.0) -> None:
    """Waits until `true` says so."""
    deadline_s = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline_s, f"not within {within_s} s"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process of this id runs."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    """One for all tests that leave it running."""
    groups = {"two-tries": {"attempts_max": 2, "retry_ms": [1000]}}
    with rmq.testing.server(topics={"declared": "NORMAL:2"}, groups=groups) as running:
        yield running


@pytest.fixture
def server(shared: Server) -> Server:
    """Cleaned."""
    shared.reset()
    return shared


def test_it_shows_what_was_sent(server: Server) -> None:
    """Decoded, in order, with what the sender said of it."""
    first = server.send("orders", "one", tag="t", keys=["k1", "k2"], properties={"p": "v"})
    server.send("orders", b"\xff")
    one, two = server.messages("orders")
    assert (one.text, one.tag, one.keys, one.properties, one.message_id) == (
        "one",
        "t",
        ("k1", "k2"),
        {"p": "v"},
        first,
    )
    assert (two.body, two.tag, two.keys, two.properties) == (b"\xff", "", (), {})
    assert server.topics()["orders"].messages == 2


def test_it_tells_where_it_is(server: Server) -> None:
    """As clients take it, and in its parts."""
    assert server.endpoint == f"{server.host}:{server.port}"
    assert server.host == "127.0.0.1"
    assert is_alive(server.pid)
    assert server.data is None


def test_reset_leaves_the_declared_topics_and_groups(server: Server) -> None:
    """Empty, and with what was declared of them."""
    server.send("declared", "x")
    server.send("orders", "x")
    server.reset()
    assert {name: (topic.queues, topic.messages) for name, topic in server.topics().items()} == {"declared": (2, 0)}
    assert {name: group.attempts_max for name, group in server.groups().items()} == {"two-tries": 2}


def test_time_moves_as_far_as_the_test_says(server: Server) -> None:
    """Forward only; the server's clock answers."""
    before_ms = server.advance()
    moved_ms = server.advance(hours=1, minutes=1, seconds=1.5, ms=1) - before_ms
    assert 3_661_501 <= moved_ms < 3_671_501
    with pytest.raises(ValueError, match="only moves forward"):
        server.advance(seconds=-1)


def test_another_process_may_look_too(server: Server) -> None:
    """`connect` takes a server that somebody else started."""
    server.send("orders", "one")
    with rmq.testing.connect(server.endpoint) as other:
        assert [message.text for message in other.messages("orders")] == ["one"]
        other.reset()
    assert server.messages("orders") == []


def test_a_server_that_is_not_there_is_one_clear_line() -> None:
    """Whatever is asked: only a name that is not there has nothing."""
    with rmq.testing.server() as server:
        endpoint = server.endpoint
        assert server.leases("nobody") == []
    with rmq.testing.connect(endpoint) as gone:
        asked = (gone.topics, lambda: gone.messages("orders"), lambda: gone.leases("billing"), gone.reset)
        for ask in asked:
            with pytest.raises(AdminError, match="nothing listens") as caught:
                ask()
            assert "\n" not in str(caught.value)
        assert gone.log == ""


def test_it_leaves_nothing() -> None:
    """Neither process nor directory; what it said is still there to read."""
    with rmq.testing.server(flush="fast", log_level="debug") as server:
        pid, home = server.pid, server.home
        assert server.data == home / "data"
        assert server.data.is_dir()
        assert server.running
    assert not is_alive(pid)
    assert not home.exists()
    assert not server.running
    with pytest.raises(ServerError, match="does not run"):
        _ = server.endpoint


def test_data_of_the_caller_s_stays(tmp_path: Path) -> None:
    """For the next server; reset refuses to delete it."""
    with rmq.testing.server(flush="fast", data=tmp_path / "data") as server:
        server.send("orders", "one")
        with pytest.raises(ServerError, match="would delete"):
            server.reset()
    with rmq.testing.server(flush="fast", data=tmp_path / "data") as server:
        assert [message.text for message in server.messages("orders")] == ["one"]


@pytest.mark.crash
def test_after_a_kill_it_comes_back_with_port_data_and_time() -> None:
    """What was acknowledged is there; a stop does the same; reset empties a server that keeps its data."""
    with rmq.testing.server(flush="fast", topics=["declared"]) as server:
        server.send("orders", "one")
        now_ms = server.advance(hours=24)
        endpoint, pid = server.endpoint, server.pid
        server.kill()
        assert not server.running
        server.restart()
        assert (server.endpoint, server.pid != pid) == (endpoint, True)
        assert [message.text for message in server.messages("orders")] == ["one"]
        assert server.advance() >= now_ms
        server.restart()
        assert "orders" in server.topics()
        server.reset()
        assert set(server.topics()) == {"declared"}


def test_one_that_cannot_start_says_why(server: Server) -> None:
    """The server's own line is in the error, and nothing is left."""
    second = rmq.testing.server(port=server.port)
    with pytest.raises(ServerError, match=r"(?s)exit code 2 before it was ready.*port \d+ .*in use"), second:
        pass
    assert not second.running


def test_one_that_says_nothing_is_given_up() -> None:
    """The wait is bounded, and the process ended."""
    command = ("sh", "-c", "echo here >&2; exec sleep 60")  # which is quick to say it
    server = Server(config_of({}), command=command, ready_within_s=1, stop_within_s=30)
    with pytest.raises(ServerError, match=r"(?s)not ready within 1 s.*here"):
        server.start()
    assert not server.running


@pytest.mark.parametrize("line", ["ready", "[]", '{"pid": 1}', READY % 1])
def test_one_that_says_something_else_is_not_taken_for_ready(line: str) -> None:
    """Another program's line, or that of another process."""
    with pytest.raises(ServerError, match="no line of a server that is ready"):
        stub(f"print({line!r}, flush=True); time.sleep(60)").start()


def test_one_that_does_not_stop_is_a_failure_and_is_ended() -> None:
    """The wait for its end is bounded."""
    server = stub(f"signal.signal(signal.SIGTERM, signal.SIG_IGN); {SERVE}", stop_within_s=0.5).start()
    with pytest.raises(ServerError, match=r"still runs after 0\.5 s"):
        server.stop()
    assert not server.running


def test_a_second_line_on_standard_output_is_a_failure() -> None:
    """Standard output carries one line."""
    with pytest.raises(ServerError, match="said b'more"), stub(f"{STOPS}READY += '\\nmore'; {SERVE}"):
        pass


def test_one_that_ended_by_itself_is_a_failure() -> None:
    """Else a crash would only show as what clients make of it."""
    server = stub("print(READY, flush=True); print('oh', file=sys.stderr); sys.exit(7)").start()
    eventually(lambda: not server.running)
    with pytest.raises(ServerError, match=r"(?s)ended by itself with exit code 7.*oh"):
        server.stop()


def test_an_end_that_was_waited_for_is_none() -> None:
    """The test knows."""
    with stub("print(READY, flush=True); sys.exit(7)") as server:
        assert server.wait(10) == 7


def test_a_failing_block_s_error_carries_what_the_server_said() -> None:
    """The block's own error goes on."""
    with pytest.raises(ZeroDivisionError) as caught, stub(f"print('here', file=sys.stderr); {SERVE}"):
        raise ZeroDivisionError
    assert caught.value.__notes__ == ["log of the rmq server:\nhere\n"]


def test_starting_twice_is_refused() -> None:
    """The first one would be lost."""
    with stub(STOPS + SERVE) as server, pytest.raises(ServerError, match="runs already"):
        server.start()


def test_it_runs_the_caller_s_rmq_without_the_shell_s_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """RMQ_* of the developer's shell would change what is tested; sys.path says which rmq is tested."""
    monkeypatch.setenv("RMQ_PORT", "1")
    monkeypatch.setattr(sys, "path", ["", "/some/where"])
    assert "RMQ_PORT" not in environment()
    assert environment()["PYTHONPATH"] == f"{os.getcwd()}{os.pathsep}/some/where"


def test_it_ends_with_the_process_that_started_it() -> None:
    """Even where that had no time to say so."""
    program = "import rmq.testing, time; s = rmq.testing.server().start(); print(s.pid, flush=True); time.sleep(60)"
    with started([sys.executable, "-c", program], env=environment(), stderr=None) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.send_signal(signal.SIGKILL)
    eventually(lambda: not is_alive(pid))


def test_one_that_does_not_end_with_its_parent_is_made_to() -> None:
    """It may hang where no signal reaches it."""
    program = """
import signal
import rmq.testing.__main__ as child
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child.GRACE_S = 0.1
child.end_with_stdin()
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment(), stdin=subprocess.DEVNULL, timeout=30)
    assert done.returncode == 1
