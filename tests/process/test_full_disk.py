"""A disk that is full: sends are refused, all else goes on, and when there is space again so do sends.

Two ways to get there. `scarce`: less is free than disk_free_min_bytes, which any user can bring about with a file that
is reserved and not written; on a file system of its own where that may be made, which needs root. `exhausted`: not a
byte is free on such a one.
"""

import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rmq_proto import v2
from tests.process import wire
from tests.process.client import Client
from tests.process.conftest import complaints
from tests.serving import Server

MIB = 1 << 20
BODY = bytes(64 << 10)
SENDS_MAX = 400  # of 64 KiB: more than all that can be reserved when the disk gets full
OWN_BYTES = 48 * MIB
SHARED_LEFT_BYTES, SHARED_BYTES = 256 * MIB, 512 * MIB  # much, for others write to the same file system meanwhile


class Place:
    """A data directory, the room that is to be left, and a file that takes what remains."""

    def __init__(self, folder: Path, free_min_bytes: int, fill: Callable[[Path], None]) -> None:
        self.data = folder / "data"
        self.free_min_bytes = free_min_bytes
        self._filler = folder / "filler"
        self._fill = fill

    def fill(self) -> None:
        """From now on the disk is full."""
        self._fill(self._filler)

    def free(self) -> None:
        """As before."""
        self._filler.unlink()


def reserve(filler: Path, size: int) -> None:
    """Takes space without writing."""
    fd = os.open(filler, os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(fd, 0, size)
    os.close(fd)


def exhaust(filler: Path) -> None:
    """Writes until nothing more fits."""
    with filler.open("wb", buffering=0) as out:
        for size in (MIB, 4096, 1):
            try:
                while out.write(bytes(size)):
                    pass
            except OSError:
                continue


@contextmanager
def own_file_system(folder: Path) -> Iterator[bool]:
    """A small one, where it may be made: nobody else writes there. Else False, and an ordinary folder."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={OWN_BYTES}", "none", str(folder)]
    mounted = os.geteuid() == 0 and not subprocess.run(command, capture_output=True).returncode
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(params=["scarce", "exhausted"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Where there is still space."""
    folder = tmp_path / "disk"
    with own_file_system(folder) as mounted:
        if request.param == "exhausted":
            if not mounted:
                pytest.skip("needs the right to mount a file system")
            yield Place(folder, 0, exhaust)
            return
        left_bytes, filler_bytes = (
            (OWN_BYTES // 2, OWN_BYTES * 3 // 4) if mounted else (SHARED_LEFT_BYTES, SHARED_BYTES)
        )
        free_bytes = shutil.disk_usage(folder).free
        if not hasattr(os, "posix_fallocate") or (free_bytes < 2 * SHARED_BYTES and not mounted):
            pytest.skip("needs posix_fallocate and a GiB of free space")
        yield Place(folder, free_bytes - left_bytes, functools.partial(reserve, size=filler_bytes))


@pytest.fixture(params=["durable", "fast"])
def server(place: Place, request: pytest.FixtureRequest) -> Iterator[Server]:
    """In that place, with small steps of reservation."""
    env = {
        "RMQ_SEGMENT_BYTES": "4MiB",
        "RMQ_RESERVE_BYTES": "1MiB",
        "RMQ_DISK_FREE_MIN_BYTES": str(place.free_min_bytes),
        "RMQ_CHECKPOINT_INTERVAL_MS": "50",
        "RMQ_POLL_MS_MIN": "0",
    }
    with Server("--flush", request.param, data=place.data, env=env) as running:
        yield running


def send_until_refused(client: Client, first: int) -> tuple[list[str], v2.Status]:
    """The ids of those that were stored, and what the first one that was not got."""
    for number in range(first, first + SENDS_MAX):
        status = client.send(wire.message("t", BODY, str(number))).status
        if status.code != 20000:
            return [str(n) for n in range(first, number)], status
    raise AssertionError("nothing is ever refused")


def take(client: Client, group: str, batch: int = 32) -> dict[str, str]:
    """Message id -> handle."""
    messages = client.receive(wire.receive("t", group, batch=batch)).messages
    return {m.system_properties.message_id: m.system_properties.receipt_handle for m in messages}


def take_all(client: Client, group: str) -> list[str]:
    """The ids of all that a group gets, each acknowledged."""
    found: list[str] = []
    while handles := take(client, group):
        assert client.ack("t", group, *handles.values()).status.code == 20000
        found.extend(handles)
    return found


def test_a_full_disk_stops_sends_only(server: Server, place: Place) -> None:
    """A clear no, the same each time; receive and ack go on; with space sends go on; after a kill all is as it was."""
    client = Client(server.endpoint)
    sent = [str(n) for n in range(20)]
    assert client.send(*(wire.message("t", b"small", key) for key in sent)).status.code == 20000
    held = take(client, "g", batch=10)
    place.fill()
    more, refusal = send_until_refused(client, len(sent))
    sent += more
    assert refusal.code == 50001
    assert "disk full" in refusal.message
    for _ in range(20):
        assert client.send(wire.message("t", BODY, "refused")).status.code == 50001
    assert client.ack("t", "g", *held.values()).status.code == 20000
    acked = [*held, *take_all(client, "g")]
    assert sorted(acked, key=int) == sent

    place.free()
    assert client.send(wire.message("t", BODY, "again")).status.code == 20000
    client.close()
    assert complaints(server) == []
    server.kill()
    server.restart()
    client = Client(server.endpoint)
    assert take_all(client, "g") == ["again"]
    assert sorted(take_all(client, "another")) == sorted([*sent, "again"])
    client.close()


@pytest.mark.crash
def test_a_server_starts_on_a_full_disk(server: Server, place: Place) -> None:
    """After a kill as after a stop: consuming goes on, sends are refused until there is space."""
    client = Client(server.endpoint)
    assert client.send(wire.message("t", b"small", "0")).status.code == 20000
    place.fill()
    sent, _ = send_until_refused(client, 1)
    client.close()
    server.kill()
    server.restart()
    server.restart()
    client = Client(server.endpoint)
    assert client.send(wire.message("t", BODY, "refused")).status.code == 50001
    assert sorted(take_all(client, "g"), key=int) == ["0", *sent]
    place.free()
    assert client.send(wire.message("t", BODY, "again")).status.code == 20000
    client.close()
    server.restart()
    client = Client(server.endpoint)
    assert take_all(client, "g") == ["again"]
    client.close()
