"""`rmq dlq`."""

import json

import pytest

from rmq_proto import admin as pb
from tests.rmq.commands.rig import Commands, FakeServer, message


@pytest.fixture
def letters(server: FakeServer) -> FakeServer:
    """A server on which group billing has two dead letters."""
    origin = {"DLQ_ORIGIN_TOPIC": "orders"}
    server.answers["groups"] = [pb.Group(name="billing")]
    server.answers["dead_letters"] = [message(n, b"%d" % n, topic="%DLQ%billing", system=origin) for n in range(2)]
    return server


def test_list_shows_where_each_died(rmq: Commands, letters: FakeServer) -> None:
    """The oldest first, as the server tells them."""
    lines = rmq("dlq", "list", "billing", "--limit", "7").out.splitlines()
    assert lines[0].split() == ["DEAD", "SINCE", "MESSAGE", "ID", "TOPIC", "TAG", "KEYS", "BODY"]
    assert [line.split()[2:] for line in lines[1:]] == [["ID0-0", "orders", "0"], ["ID0-1", "orders", "1"]]
    assert letters.asked("dead_letters") == [("billing", 7)]


def test_list_as_json(rmq: Commands, letters: FakeServer) -> None:
    """A message's fields and the topic that it died in."""
    found = json.loads(rmq("dlq", "list", "billing", "--json").out)["dead_letters"]
    assert [(one["message_id"], one["origin_topic"]) for one in found] == [("ID0-0", "orders"), ("ID0-1", "orders")]


def test_no_dead_letters_are_a_note(rmq: Commands, letters: FakeServer) -> None:
    """And no mistake, unlike a group that is not there."""
    letters.answers["dead_letters"] = []
    assert rmq("dlq", "list", "billing") == (0, "", "group billing has no dead letters\n")
    letters.fail("groups", "not_found", "there is no group billing")
    assert rmq.fails("dlq", "list", "billing", code=1) == "there is no group billing"


def test_replay_of_all_asks(rmq: Commands, letters: FakeServer) -> None:
    """It says how many, and --yes answers beforehand."""
    letters.answers["replay"] = 2
    assert rmq.fails("dlq", "replay", "billing", code=2).startswith("Deliver 2 dead letters of group billing again?")
    assert letters.asked("replay") == []
    assert rmq("dlq", "replay", "billing", "--yes").out == "delivered 2 dead letters of group billing again\n"
    assert letters.asked("replay") == [("billing", ())]


def test_replay_of_some_does_not_ask(rmq: Commands, letters: FakeServer) -> None:
    """They were named."""
    letters.answers["replay"] = 2
    assert rmq("dlq", "replay", "billing", "--id", "A", "--id", "B").code == 0
    assert letters.asked("replay") == [("billing", ("A", "B"))]


def test_an_id_that_is_no_dead_letter_is_1(rmq: Commands, letters: FakeServer) -> None:
    """The others were delivered."""
    letters.answers["replay"] = 1
    said = rmq.fails("dlq", "replay", "billing", "--id", "A", "--id", "B", code=1)
    assert said == "delivered 1 of 2 again: the others are no dead letters of billing"


def test_replay_of_nothing_is_no_mistake(rmq: Commands, letters: FakeServer) -> None:
    """And asks nothing."""
    letters.answers["dead_letters"] = []
    assert rmq("dlq", "replay", "billing") == (0, "", "group billing has no dead letters\n")
    assert letters.asked("replay") == []
