"""`rmq transaction`."""

import json

import pytest

from rmq_proto import admin as pb
from tests.rmq.commands.rig import Commands, FakeServer, message

DUE_MS = 1_800_000_000_000


@pytest.fixture
def waiting(server: FakeServer) -> FakeServer:
    """A server with two transactions that have not ended; the message of the second is lost."""
    server.answers["transactions"] = [
        pb.Transaction(
            number=4, topic="orders", state="checked", checks=2, due_ms=DUE_MS, message=message(4, b"4", topic="orders")
        ),
        pb.Transaction(number=5, topic="orders", state="parked", checks=15),
    ]
    return server


def one(server: FakeServer) -> None:
    """Only the first."""
    server.answers["transactions"] = server.answers["transactions"][:1]


def test_list_shows_what_has_not_ended(rmq: Commands, waiting: FakeServer) -> None:
    """The number is what the other commands take; of a lost message there is nothing to show."""
    lines = rmq("transaction", "list", "orders", "--limit", "7").out.splitlines()
    assert lines[0].split()[:3] == ["TRANSACTION", "STATE", "CHECKS"]
    assert [line.split()[:3] for line in lines[1:]] == [["4", "checked", "2"], ["5", "parked", "15"]]
    assert "ID0-4" in lines[1]
    assert "(lost)" in lines[2]
    assert waiting.asked("transactions") == [("orders", 7, None, False)]


def test_list_as_json(rmq: Commands, waiting: FakeServer) -> None:
    """A transaction's fields and its message's; null where that is lost."""
    found = json.loads(rmq("transaction", "list", "--parked", "--json").out)["transactions"]
    assert [(each["number"], each["state"], each["checks"], each["due_ms"]) for each in found] == [
        (4, "checked", 2, DUE_MS),
        (5, "parked", 15, 0),
    ]
    assert [each["message"] and each["message"]["body_bytes"] for each in found] == [1, None]
    assert waiting.asked("transactions") == [("", 100, None, True)]


def test_nothing_is_a_note(rmq: Commands, server: FakeServer) -> None:
    """And no mistake."""
    assert rmq("transaction", "list") == (0, "", "no transaction waits for its end\n")
    assert rmq("transaction", "list", "t", "--parked") == (0, "", "no transaction of topic t is parked\n")


def test_show_tells_the_properties(rmq: Commands, waiting: FakeServer) -> None:
    """The sender's own, in order; as JSON the whole message."""
    one(waiting)
    waiting.answers["transactions"][0].message.properties.update({"b": "2", "a": "1"})
    assert rmq("transaction", "show", "4").out.splitlines()[2:] == ["a=1", "b=2"]
    assert json.loads(rmq("transaction", "show", "4", "--json").out)["number"] == 4


@pytest.mark.parametrize(
    ("verb", "question", "done", "commit"),
    [("commit", "Commit", "committed", True), ("rollback", "Roll back", "rolled back", False)],
)
def test_ending_asks_and_says_what_it_did(
    rmq: Commands, waiting: FakeServer, verb: str, question: str, done: str, commit: bool
) -> None:
    """--yes answers beforehand."""
    one(waiting)
    what = "transaction 4 of topic orders, message ID0-4"
    assert rmq.fails("transaction", verb, "4", code=2).startswith(f"{question} {what}?")
    assert waiting.asked("resolve_transaction") == []
    assert rmq("transaction", verb, "4", "--yes").out == f"{done}: {what}\n"
    assert waiting.asked("resolve_transaction") == [(4, commit)]


def test_one_that_has_ended_is_1(rmq: Commands, server: FakeServer) -> None:
    """The server says so."""
    server.fail("transactions", "not_found", "there is no transaction 9 that has not ended")
    assert rmq.fails("transaction", "commit", "9", code=1) == "there is no transaction 9 that has not ended"
