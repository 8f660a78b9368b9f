"""Fixtures of the commands' tests."""

import os
import time
from collections.abc import Iterator

import pytest

from tests.rmq.commands.rig import Commands, FakeChannel, FakeServer


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No setting of the developer's shell; times are shown in UTC."""
    for name in [name for name in os.environ if name.startswith("RMQ_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def rmq(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Runs commands in this process."""
    return Commands(capsys, monkeypatch)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """What the commands' client finds instead of a server."""
    fake = FakeServer()
    monkeypatch.setattr("grpc.insecure_channel", lambda target, options: FakeChannel(fake, target))
    return fake
