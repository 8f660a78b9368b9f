"""The start and the end of a server as its supervisor sees them: ready line, ready file, signals, exit codes."""

import json
import os
import random
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.process import wire
from tests.process.client import Client
from tests.process.conftest import complaints
from tests.process.test_refusals import ENV, WITHIN_S, wait_for
from tests.processes import started
from tests.serving import COMMAND, Server

POLLS = 200
TRIES = 3
SIGNALS = pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=lambda s: signal.Signals(s).name)


@SIGNALS
def test_a_signal_ends_it_within_a_second(signum: signal.Signals) -> None:
    """With 200 polls waiting. Whoever else wants the processor may take that second, but not each time."""
    assert any(ended_by(signum) < 1.0 for _ in range(TRIES))


def ended_by(signum: signal.Signals) -> float:
    """The seconds that it takes; each poll is answered whole: no message, and the server's time. Exit code 0."""
    with Server("--flush", "fast") as server:
        client = Client(server.endpoint)
        polls = [client.poll(wire.receive(f"t{i % 20}", f"g{i % 20}", poll_ms=20_000)) for i in range(POLLS)]
        assert client.send(wire.message("other")).status.code == 20000  # came after them on the same connection
        os.kill(server.pid, signum)
        began_s = time.monotonic()
        assert server.wait(WITHIN_S) == 0
        took_s = time.monotonic() - began_s
        answers = [poll.result() for poll in polls]
        assert {(answer.code, len(answer.messages), answer.whole) for answer in answers} == {(40401, 0, True)}
        client.close()
        assert complaints(server) == []
    return took_s


def test_what_waits_for_its_fsync_at_the_end_is_answered_or_not_but_never_lost() -> None:
    """Sends in flight at a SIGTERM: what was answered OK is there after the restart."""
    with Server(env={"RMQ_POLL_MS_MIN": "0"}) as server:
        client = Client(server.endpoint)
        sends = {str(i): client.sending(wire.message("t", b"%d" % i)) for i in range(300)}
        sends["50"].result(WITHIN_S)
        server.stop()
        stored = {body for body, send in sends.items() if send.exception(WITHIN_S) is None}
        client.close()
        server.restart()
        client = Client(server.endpoint)
        found: set[str] = set()
        while bodies := client.receive(wire.receive("t", "g")).bodies:
            found.update(body.decode() for body in bodies)
        client.close()
        assert stored <= found


@pytest.mark.crash
@SIGNALS
def test_a_signal_while_it_starts_ends_it(tmp_path: Path, signum: signal.Signals) -> None:
    """At any moment: soon, and the directory can be used afterwards.

    SIGINT from our first line on: before that the interpreter takes it for an exception, which it prints or swallows.
    """
    seed = random.SystemRandom().getrandbits(32)
    print("seed", seed)
    rng = random.Random(seed)
    data, began_s = tmp_path / "data", time.monotonic()
    with Server(data=data) as server:
        start_s = time.monotonic() - began_s
        server.stop()
    for _ in range(6):
        command = [*COMMAND, "--data", str(data), "--port", "0"]
        with started(command, env=ENV) as process:
            try:
                out, error = process.communicate(timeout=rng.random() * start_s)
            except subprocess.TimeoutExpired:
                if signum == signal.SIGINT:
                    wait_until_ours(process)
                process.send_signal(signum)
                out, error = process.communicate(timeout=WITHIN_S)
        assert "Traceback" not in error
        assert process.returncode in (0, -signum, 128 + signum)
        assert out.count("\n") <= 1
    with Server(data=data):
        pass


def wait_until_ours(process: "subprocess.Popen[str]") -> None:
    """Until SIGINT is not the interpreter's own exception any more: the kernel shows which signals a process catches.

    Nothing catches SIGINT before the interpreter does and after our first line; then there is a library of ours, soon.
    """
    folder = Path(f"/proc/{process.pid}")
    end_s, interpreter_s_own = time.monotonic() + WITHIN_S, False
    while folder.exists() and process.poll() is None:
        caught = int((folder / "status").read_text().partition("SigCgt:")[2].split()[0], 16)
        if caught & 1 << (signal.SIGTERM - 1):
            return  # the loop's
        if caught & 1 << (signal.SIGINT - 1):
            interpreter_s_own = True
        elif interpreter_s_own or "msgspec" in (folder / "maps").read_text():
            return
        assert time.monotonic() < end_s
        time.sleep(0.001)


def test_one_line_on_standard_output_names_the_server(tmp_path: Path) -> None:
    """As JSON; with --port 0 it tells the port, which serves both loopbacks."""
    with Server("--profile", "strict", "--flush", "fast", data=tmp_path / "d") as server:
        expected = {"pid": server.pid, "data": str(tmp_path / "d"), "flush": "fast", "profile": "strict"}
        told = {key: value for key, value in server.ready.items() if key != "tls"}
        assert told == {**expected, "endpoint": f"127.0.0.1:{server.port}"}
        assert len(str(server.ready["tls"])) in (0, 64)  # none where certificates cannot be made
        assert server.port > 0
        client = Client(server.endpoint)
        assert client.send(wire.message("t")).status.code == 40402
        client.close()
        if socket.has_ipv6 and Path("/proc/net/if_inet6").exists():
            socket.create_connection(("::1", server.port), timeout=5).close()
        server.stop()  # fails if there was a second line


def test_the_ready_file_appears_when_clients_are_served_and_goes_at_the_end(tmp_path: Path) -> None:
    """Whole, with the same line; a stale one of a killed server is never seen after the start."""
    path = tmp_path / "ready"
    with Server("--ready-file", str(path)) as server:
        assert json.loads(path.read_text()) == server.ready
        server.kill()
        assert path.exists()
        server.restart()
        assert json.loads(path.read_text()) == server.ready
        server.stop()
        assert not path.exists()


def test_who_sees_the_ready_file_can_send_at_once(tmp_path: Path) -> None:
    """The first try succeeds."""
    path = tmp_path / "ready"
    command = [*COMMAND, "--data", str(tmp_path / "data"), "--port", "0", "--ready-file", str(path)]
    with started(command, env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(path, process)
        client = Client(json.loads(path.read_text())["endpoint"])
        assert client.send(wire.message("t")).status.code == 20000
        client.close()


def test_a_stale_ready_file_goes_even_if_the_start_fails(tmp_path: Path) -> None:
    """Who waits for it must not find a server that is not there."""
    path = tmp_path / "ready"
    path.write_text("{}\n")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        command = [*COMMAND, "--data", str(tmp_path / "data"), "--port", port, "--ready-file", str(path)]
        done = subprocess.run(command, env=ENV, capture_output=True, timeout=WITHIN_S)
    assert done.returncode == 2
    assert not path.exists()


def test_memory_leaves_no_file(tmp_path: Path) -> None:
    """Profile memory: no directory is made, and the line says none."""
    with Server("--flush", "memory", data=tmp_path / "d") as server:
        assert server.ready["data"] == ""
        client = Client(server.endpoint)
        assert client.send(wire.message("t")).status.code == 20000
        assert client.receive(wire.receive("t", "g", poll_ms=2000)).bodies == [b"hello"]
        client.close()
        server.stop()
        assert not (tmp_path / "d").exists()
