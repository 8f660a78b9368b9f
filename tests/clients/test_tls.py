"""The official Java and Go clients as they come, which is with TLS, beside the same clients without it."""

import dataclasses
from contextlib import ExitStack
from pathlib import Path

import pytest

from rmq_proxy.http2.frames import PREFACE
from tests.clients.builders import FOREIGN, WITHOUT_TLS, Language
from tests.clients.conftest import open_driver
from tests.clients.harness import Session
from tests.relay import Relay
from tests.serving import Server

TLS_HANDSHAKE = 22
TOPIC = "tls-or-not"
SETTINGS = {"default": {}, "off": WITHOUT_TLS}
FIRST_BYTES = {"default": {TLS_HANDSHAKE}, "off": {PREFACE[0]}}


def each() -> dict[str, tuple[str, Language]]:
    """A name, then the setting and the client with it."""
    wanted = [language for language in FOREIGN if language.name in ("java", "go")]
    return {
        f"{language.name}-{setting}": (setting, dataclasses.replace(language, env=env))
        for language in wanted
        for setting, env in SETTINGS.items()
    }


@pytest.mark.foreign
def test_default_tls_and_none_on_one_port(server: Server, tmp_path: Path) -> None:
    """Four clients of one server and port send one message each; a simple and a push consumer of each get all four."""
    with ExitStack() as running:
        relays, sessions = {}, {}
        for name, (_, language) in each().items():
            driver = running.enter_context(open_driver(language, tmp_path / name))
            relays[name] = running.enter_context(Relay(server.port))
            sessions[name] = Session(driver, f"127.0.0.1:{relays[name].port}")
        pushes = {name: session.push(f"{name}-pushed", TOPIC) for name, session in sessions.items()}
        sent = {session.producer(TOPIC).send(name.encode()) for name, session in sessions.items()}
        for name, session in sessions.items():
            consumer = session.simple(f"{name}-simple", TOPIC)
            messages = consumer.gather(len(sent))
            assert {message.message_id for message in messages} == sent
            for message in messages:
                consumer.ack(message.receipt)
            assert {message.message_id for message in pushes[name].until(len(sent))} == sent
        for name, (setting, _) in each().items():
            assert {copy[0] for copy in relays[name].up} == FIRST_BYTES[setting]
