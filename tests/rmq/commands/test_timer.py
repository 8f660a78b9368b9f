"""`rmq timer`."""

import json

import pytest

from rmq_proto import admin as pb
from tests.rmq.commands.rig import Commands, FakeServer, message


@pytest.fixture
def waiting(server: FakeServer) -> FakeServer:
    """A server on which two delayed messages wait."""
    server.answers["timers"] = [
        pb.Timer(number=n, due_ms=1_800_000_000_000, message=message(n, b"%d" % n, topic="orders")) for n in (4, 5)
    ]
    return server


def one(server: FakeServer) -> None:
    """Only the first."""
    server.answers["timers"] = server.answers["timers"][:1]


def test_list_shows_what_waits(rmq: Commands, waiting: FakeServer) -> None:
    """The number is what show and cancel take."""
    lines = rmq("timer", "list", "orders", "--limit", "7").out.splitlines()
    assert lines[0].split() == ["TIMER", "DUE", "TOPIC", "MESSAGE", "ID", "TAG", "KEYS", "BODY"]
    assert [(line.split()[0], line.split()[3]) for line in lines[1:]] == [("4", "orders"), ("5", "orders")]
    assert waiting.asked("timers") == [("orders", 7, None)]


def test_list_as_json(rmq: Commands, waiting: FakeServer) -> None:
    """A timer's fields and its message's."""
    found = json.loads(rmq("timer", "list", "--json").out)["timers"]
    assert [(one["number"], one["due_ms"], one["message"]["body_bytes"]) for one in found] == [
        (4, 1_800_000_000_000, 1),
        (5, 1_800_000_000_000, 1),
    ]


def test_nothing_that_waits_is_a_note(rmq: Commands, server: FakeServer) -> None:
    """And no mistake."""
    assert rmq("timer", "list") == (0, "", "no delayed message waits\n")
    assert rmq("timer", "list", "t") == (0, "", "no delayed message waits for topic t\n")


def test_show_tells_the_properties(rmq: Commands, waiting: FakeServer) -> None:
    """The sender's own, in order; as JSON the whole message."""
    one(waiting)
    waiting.answers["timers"][0].message.properties.update({"b": "2", "a": "1"})
    assert rmq("timer", "show", "4").out.splitlines()[2:] == ["a=1", "b=2"]
    assert json.loads(rmq("timer", "show", "4", "--json").out)["number"] == 4
    assert waiting.asked("timers") == [("", 32, 4), ("", 32, 4)]


def test_cancel_asks_and_says_what_it_ended(rmq: Commands, waiting: FakeServer) -> None:
    """--yes answers beforehand."""
    one(waiting)
    assert rmq.fails("timer", "cancel", "4", code=2).startswith("Cancel delayed message ID0-4 of topic orders?")
    assert waiting.asked("cancel_timer") == []
    assert rmq("timer", "cancel", "4", "--yes").out == "cancelled delayed message ID0-4 of topic orders\n"
    assert waiting.asked("cancel_timer") == [(4,)]


def test_one_that_does_not_wait_is_1(rmq: Commands, server: FakeServer) -> None:
    """The server says so."""
    server.fail("timers", "not_found", "there is no delayed message 9 that waits")
    assert rmq.fails("timer", "show", "9", code=1) == "there is no delayed message 9 that waits"
