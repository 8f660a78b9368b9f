"""`rmq health` and `rmq wait`."""

import json
import socket

import pytest

from rmq_proxy.admin_client import AdminError, ErrorKind
from tests.rmq.commands.rig import Commands, FakeServer


def test_a_server_that_serves_is_0(rmq: Commands, server: FakeServer) -> None:
    """One line."""
    assert rmq("health") == (0, "localhost:8081 is serving\n", "")
    assert json.loads(rmq("health", "--json").out) == {"endpoint": "localhost:8081", "serving": True, "problem": ""}


@pytest.mark.parametrize("kind", ["down", "not_ours", "busy", "failed"])
def test_a_server_that_does_not_is_1(rmq: Commands, server: FakeServer, kind: ErrorKind) -> None:
    """Whatever the reason: containers know 0 and 1 only."""
    server.fail("health", kind, "nothing listens; start one")
    assert rmq.fails("health", code=1) == "nothing listens; start one"
    result = rmq("health", "--json")
    assert (result.code, json.loads(result.out)["problem"]) == (1, "nothing listens; start one")


def test_a_server_that_shuts_down_is_1(rmq: Commands, server: FakeServer) -> None:
    """It answers, but does not serve."""
    server.answers["health"] = False
    assert rmq.fails("health", code=1) == "localhost:8081 is shutting down; start it again"


def test_an_endpoint_that_is_none_is_no_answer(rmq: Commands, server: FakeServer) -> None:
    """A mistake is not a sick server, and waiting does not help."""
    assert "is no endpoint" in rmq.fails("health", "--endpoint", "a b", code=2)
    assert "is no endpoint" in rmq.fails("wait", "--endpoint", "a b", code=2)


def test_wait_goes_on_until_it_serves(rmq: Commands, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through everything that happens while a server starts."""
    answers: list[object] = [AdminError("down", "d"), AdminError("not_ours", "n"), AdminError("busy", "b"), False, True]
    monkeypatch.setattr("rmq.commands.health.PAUSE_S", 0.001)

    def answer(_verb: str, _own: object) -> object:
        found = answers.pop(0)
        if isinstance(found, AdminError):
            raise found
        return found

    monkeypatch.setattr(server, "answer", answer)
    assert rmq("wait", "--timeout", "30") == (0, "localhost:8081 is serving\n", "")
    assert answers == []


def test_wait_says_in_the_end_what_was_wrong(rmq: Commands) -> None:
    """With the real client, on a port where nobody is."""
    said = rmq.fails("wait", "--endpoint", "127.0.0.1:1", "--timeout", "0.1", code=1)
    assert said.startswith("not serving after 0.1 s: nothing listens at 127.0.0.1:1")


def test_wait_keeps_its_time_with_a_server_that_says_nothing(rmq: Commands) -> None:
    """Each question is bounded by what is left."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
        assert "not serving after 0.2 s" in rmq.fails("wait", "--endpoint", endpoint, "--timeout", "0.2", code=1)
