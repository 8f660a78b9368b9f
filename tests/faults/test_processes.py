"""Real servers: one whose disk fails, and one that is stopped and goes on."""

import contextlib
import errno
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process import wire
from tests.process.client import Client, Refused
from tests.process.conftest import complaints
from tests.serving import Server
from tests.sim.faults import SYNC, WRITE

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "tests.faults.failing_server", "serve")
SENDS_MAX = 60
STOPPED_S = 1.5  # longer than the lease, and than the poll has left
INVISIBLE_MS = 1000


def paths() -> str:
    """For a process that does not know of pytest's."""
    return ":".join(str(ROOT / part) for part in ("", "store", "proxy", "proto"))


def sent_until_refused(client: Client) -> Iterator[str]:
    """Ids of messages, each as it is acknowledged."""
    for number in range(SENDS_MAX):
        if client.send(wire.message("t", b"%d" % number, str(number))).status.code == 20000:
            yield str(number)


@pytest.mark.crash
@pytest.mark.parametrize(
    ("kind", "text"), [(SYNC, "fsync of the commit log failed"), (WRITE, "cannot write the commit")]
)
def test_a_disk_that_fails_ends_the_server(tmp_path: Path, kind: str, text: str) -> None:
    """Exit code 1, one line that says why; what was acknowledged before is there, afterwards nothing was."""
    data = tmp_path / "data"
    env = {"FAULT": f"{kind} 12 {errno.EIO}", "PYTHONPATH": paths(), "RMQ_CHECKPOINT_INTERVAL_MS": "3600000"}
    acknowledged: list[str] = []
    with Server("--topic", "t", "--group", "g", command=COMMAND, env=env, data=data) as server:
        client = Client(server.endpoint)
        with contextlib.suppress(Refused):
            acknowledged.extend(sent_until_refused(client))
        assert server.wait(15) == 1
        client.close()
        lines = [line for line in server.log.splitlines() if line.startswith("rmq: ")]
        assert len(lines) == 1
        assert text in lines[0]
    assert 0 < len(acknowledged) < SENDS_MAX
    with Server(env={"RMQ_POLL_MS_MIN": "0"}, data=data) as server:
        client = Client(server.endpoint)
        found: list[str] = []
        while messages := client.receive(wire.receive("t", "g", batch=32)).messages:
            found += [m.system_properties.message_id for m in messages]
        assert set(acknowledged) <= set(found)
        client.close()


def test_a_server_that_was_stopped_goes_on(tmp_path: Path) -> None:
    """SIGSTOP, longer than a lease and a poll, then SIGCONT: the poll is answered, the message comes again."""
    env = {"RMQ_POLL_MS_MIN": "0", "RMQ_INVISIBLE_MS_MIN": "1000"}
    with Server("--flush", "fast", env=env, data=tmp_path / "data") as server:
        client = Client(server.endpoint)
        assert client.send(wire.message("t", b"once")).status.code == 20000
        first = client.receive(wire.receive("t", "g", invisible_ms=INVISIBLE_MS))
        assert first.bodies == [b"once"]
        poll = client.poll(wire.receive("empty", "g", poll_ms=1000))
        assert client.send(wire.message("other")).status.code == 20000  # behind the poll on the same connection
        os.kill(server.pid, signal.SIGSTOP)
        try:
            time.sleep(STOPPED_S)  # what is tested is that time passes
        finally:
            os.kill(server.pid, signal.SIGCONT)
        answer = poll.result()
        assert (answer.code, answer.messages) == (40401, [])
        again = client.receive(wire.receive("t", "g", poll_ms=5000, invisible_ms=30_000))
        assert again.bodies == [b"once"]
        assert [m.system_properties.delivery_attempt for m in again.messages] == [2]
        assert client.ack("t", "g", *first.handles).status.code != 20000
        assert client.ack("t", "g", *again.handles).status.code == 20000
        assert client.receive(wire.receive("t", "g")).bodies == []
        client.close()
        assert complaints(server) == []
