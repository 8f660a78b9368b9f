"""Java's official client over a planned restart, told to connect anew or not (reconnect_on_stop)."""

from pathlib import Path

import pytest

from tests.clients.builders import FOREIGN
from tests.clients.conftest import open_driver
from tests.clients.harness import DriverError, Producer, Session, eventually
from tests.serving import Server

[JAVA] = [language for language in FOREIGN if language.name == "java"]


def sends(producer: Producer, sent: list[str]) -> bool:
    """Whether it could; then the id is in `sent`."""
    try:
        sent.append(producer.send(b"after"))
    except DriverError:
        return False
    return True


@pytest.mark.foreign
@pytest.mark.parametrize("setting", ["true", "false"])
def test_java_goes_on_after_a_planned_restart(tmp_path: Path, setting: str) -> None:
    """Whether it was told, or only saw its connection end: it sends and consumes after the restart.

    While the server was down its channel met a closed port: for a second its sends fail at once, either way.
    """
    with Server(env={"RMQ_RECONNECT_ON_STOP": setting}) as server, open_driver(JAVA, tmp_path / "java") as process:
        session = Session(process, server.endpoint)
        producer, consumer = session.producer("moving"), session.push("moving", "moving")
        sent = [producer.send(b"before")]
        consumer.until(1)
        server.restart()
        eventually(lambda: sends(producer, sent), 30, "a send after the restart")
        assert [one.message_id for one in consumer.until(2, within_s=60)] == sent
        assert ("told 2 streams of clients to connect anew" in server.stderr()) == (setting == "true")
