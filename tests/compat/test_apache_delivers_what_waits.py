"""Apache 5.5.0 on an export: of delayed messages it delivers those that wait, and none again that came or was recalled.

Apache 4.9 has no such messages: it leaves them in their topic.
"""

import shutil
import time
from pathlib import Path

import pytest

from rmq_proto import v2
from rmq_store.export import export
from tests.clients.builders import UnavailableError
from tests.clients.harness import eventually
from tests.compat.apache import Apache
from tests.process import wire
from tests.process.client import Client
from tests.serving import Server

pytestmark = [pytest.mark.foreign, pytest.mark.slow]

TOPIC, GROUP = "later", "workers"
NAMES = ("came", "waits", "recalled", "waits too")
WAITS_MS = 25_000  # time for an export and a start; where it takes longer, it is due then
WITHIN_S = 90


def delayed(name: str, due_ms: int) -> v2.Message:
    """A message for a time."""
    made = wire.message(TOPIC, name.encode(), name)
    made.system_properties.delivery_timestamp.FromMilliseconds(due_ms)
    return made


def work(client: Client) -> None:
    """One delayed message is delivered and settled, one is recalled, two wait, one of them before the recalled one."""
    now_ms = time.time_ns() // 1_000_000
    dues = {name: now_ms + (1_000 if name == "came" else WAITS_MS) for name in NAMES}
    handles = {name: client.send(delayed(name, due_ms)).entries[0].recall_handle for name, due_ms in dues.items()}
    request = v2.RecallMessageRequest(recall_handle=handles["recalled"])
    request.topic.name = TOPIC
    answer = client.ask("RecallMessage", request, v2.RecallMessageResponse.FromString)
    assert answer.status.code == 20000
    received = client.receive(wire.receive(TOPIC, GROUP, poll_ms=20_000))
    assert [one.body for one in received.messages] == [b"came"]
    assert client.ack(TOPIC, GROUP, *received.handles).status.code == 20000


def test_apache_delivers_what_waits_and_nothing_again(tmp_path: Path) -> None:
    """Once each: what was delivered before lies in its queue, as our log has it, and does not come a second time."""
    with Server(data=tmp_path / "data") as server:
        client = Client(server.endpoint)
        work(client)
        client.close()
    export(tmp_path / "data", tmp_path / "out")
    home = tmp_path / "apache"
    shutil.copytree(tmp_path / "out", home / "store")
    try:
        apache = Apache("5.5.0", home / "store", home, "diskMaxUsedSpaceRatio = 95")
    except UnavailableError as reason:
        pytest.skip(f"Apache 5.5.0: {reason}")
    with apache:
        found: list[str] = []

        def has_come() -> bool:
            found[:] = [line["id"] for line in apache.ask("read", TOPIC) if line["kind"] == "message"]
            return "waits too" in found and "waits" in found

        eventually(has_come, WITHIN_S, "the messages that wait")
        assert sorted(found) == ["came", "waits", "waits too"]
