"""Earlier releases of the Python client, which read the server's settings each in a way of its own."""

from pathlib import Path

import pytest

from tests.clients.builders import OLD_PYTHONS, Language
from tests.clients.conftest import open_driver
from tests.clients.harness import Session
from tests.serving import Server


@pytest.mark.foreign
@pytest.mark.parametrize("language", OLD_PYTHONS, ids=lambda language: language.name)
def test_an_earlier_release_sends_and_consumes(language: Language, server: Server, tmp_path: Path) -> None:
    """Producer, simple consumer and push consumer start, and each does its work."""
    topic = language.name.replace(".", "-")
    with open_driver(language, tmp_path) as process:
        session = Session(process, server.endpoint)
        producer, simple, push = session.producer(topic), session.simple("simple", topic), session.push("push", topic)
        message_id = producer.send(b"as ever", tag="t")
        [message] = simple.gather(1)
        simple.ack(message.receipt)
        [pushed] = push.until(1)
        assert (message.message_id, message.body) == (pushed.message_id, pushed.body) == (message_id, b"as ever")
