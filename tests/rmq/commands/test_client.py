"""`rmq client`."""

import json

from tests.rmq.commands.rig import Commands, FakeServer
from tests.rmq.commands.test_group import consumer


def test_list_shows_what_each_client_is_and_does(rmq: Commands, server: FakeServer) -> None:
    """Subscriptions with their filters, and what the server renews for it."""
    server.answers["clients"] = [consumer()]
    head, row = rmq("client", "list").out.splitlines()
    assert head.split() == ["CLIENT", "TYPE", "LANGUAGE", "PEER", "GROUPS", "TOPICS", "SILENT", "STREAM", "LEASES"]
    assert "orders(a || b) refunds" in row
    assert server.asked("clients") == [("",)]


def test_list_as_json(rmq: Commands, server: FakeServer) -> None:
    """Every field."""
    server.answers["clients"] = [consumer()]
    assert json.loads(rmq("client", "list", "--group", "billing", "--json").out) == {
        "clients": [
            {
                "client_id": "c1",
                "type": "PUSH_CONSUMER",
                "language": "JAVA",
                "version": "5.0.7",
                "peer": "10.0.0.1:9",
                "groups": ["billing"],
                "subscriptions": {"orders": "a || b", "refunds": "*"},
                "topics": [],
                "silent_ms": 1500,
                "stream": True,
                "leases": 1,
            }
        ]
    }
    assert server.asked("clients") == [("billing",)]


def test_nobody_is_a_note(rmq: Commands, server: FakeServer) -> None:
    """Of anyone, or of one group."""
    assert rmq("client", "list") == (0, "", "no client is connected\n")
    assert rmq("client", "list", "--group", "g") == (0, "", "no consumer of g is connected\n")
    assert json.loads(rmq("client", "list", "--json").out) == {"clients": []}


def test_a_client_id_cannot_steer_the_terminal(rmq: Commands, server: FakeServer) -> None:
    """It is whatever a client says."""
    evil = consumer()
    evil.client_id = "c\x1b[2J"
    server.answers["clients"] = [evil]
    assert "c\\x1b[2J" in rmq("client", "list").out


def test_a_stack_is_shown_as_the_client_tells_it(rmq: Commands, server: FakeServer) -> None:
    """Line by line, and nothing in it can steer the terminal."""
    server.answers["stack"] = "main\n\tat here\x1b[2J\n\nother"
    assert rmq("client", "stack", "c1") == (0, "main\n        at here\\x1b[2J\n\nother\n", "")
    assert server.asked("stack") == [("c1",)]
    assert json.loads(rmq("client", "stack", "c1", "--json").out) == {
        "client_id": "c1",
        "stack": "main\n\tat here\x1b[2J\n\nother",
    }


def test_a_client_that_cannot_tell_is_one_line(rmq: Commands, server: FakeServer) -> None:
    """The server's own, with exit code 1."""
    server.fail("stack", "failed", "client c1 (PYTHON 5.1.2): the client did not answer within 5 s")
    assert "did not answer" in rmq.fails("client", "stack", "c1", code=1)
