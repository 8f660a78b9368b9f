"""`rmq topic`."""

import json

import pytest

from rmq_proto import admin as pb
from tests.rmq.commands.rig import Commands, FakeServer, message


def test_create_makes_a_new_topic_and_says_what_it_made(rmq: Commands, server: FakeServer) -> None:
    """Never changes one that is there."""
    result = rmq("topic", "create", "orders", "--type", "fifo", "--queues", "3")
    assert result == (0, "topic orders: FIFO, 3 queues, 0 messages\n", "")
    assert server.asked("put_topic") == [("orders", "FIFO", 3, True, False)]


def test_what_create_is_not_told_the_server_decides(rmq: Commands, server: FakeServer) -> None:
    """Empty type, no number of queues."""
    assert rmq("topic", "create", "orders").code == 0
    assert server.asked("put_topic") == [("orders", "", 0, True, False)]


def test_create_fails_where_the_topic_is_there(rmq: Commands, server: FakeServer) -> None:
    """In the server's words."""
    server.fail("put_topic", "exists", "topic orders is there already")
    assert rmq.fails("topic", "create", "orders", code=1) == "topic orders is there already"


def test_if_missing_leaves_a_topic_that_is_there_alone(rmq: Commands, server: FakeServer) -> None:
    """And makes another."""
    assert rmq("topic", "create", "orders", "--if-missing").out == "topic orders is there already\n"
    assert server.asked("put_topic") == []
    assert rmq("topic", "create", "others", "--if-missing").code == 0
    assert server.asked("put_topic") == [("others", "", 0, True, False)]


def test_list_is_a_table(rmq: Commands, server: FakeServer) -> None:
    """Without the server's own topics."""
    server.queues = [[message(0), message(1)], [message(0, queue_id=1)]]
    server.answers["topics"] = [server.topic(), pb.Topic(name="%DLQ%billing"), pb.Topic(name="%RETRY%billing")]
    result = rmq("topic", "list")
    assert result.out.splitlines() == [
        "TOPIC   TYPE    QUEUES  MESSAGES  GROUPS",
        "orders  NORMAL       2         3  billing",
    ]
    assert result.code == 0


def test_list_all_shows_the_server_s_own_topics(rmq: Commands, server: FakeServer) -> None:
    """Retries and dead letters."""
    server.answers["topics"] = [pb.Topic(name="%DLQ%billing")]
    assert "%DLQ%billing" in rmq("topic", "list", "--all").out


def test_list_as_json(rmq: Commands, server: FakeServer) -> None:
    """One document."""
    server.queues = [[message(0)]]
    found = json.loads(rmq("topic", "list", "--json").out)
    queues = [{"id": 0, "min_offset": 0, "max_offset": 1}]
    assert found == {"topics": [{"name": "orders", "type": "NORMAL", "queues": queues, "groups": ["billing"]}]}


def test_no_topics_are_a_note_and_an_empty_list(rmq: Commands, server: FakeServer) -> None:
    """Standard output stays empty for whoever counts lines."""
    server.answers["topics"] = []
    assert rmq("topic", "list") == (0, "", "there are no topics yet\n")
    assert json.loads(rmq("topic", "list", "--json").out) == {"topics": []}


def test_show_tells_queues_and_groups(rmq: Commands, server: FakeServer) -> None:
    """As text and as JSON."""
    server.queues = [[message(0), message(1)]]
    assert rmq("topic", "show", "orders").out.splitlines() == [
        "topic orders: NORMAL, 1 queues, 2 messages",
        "groups: billing",
        "QUEUE  MIN  MAX  MESSAGES",
        "    0    0    2         2",
    ]
    assert json.loads(rmq("topic", "show", "orders", "--json").out)["name"] == "orders"
    assert server.asked("topics") == [("orders",), ("orders",)]


@pytest.mark.parametrize("verb", ["show", "delete"])
def test_a_topic_that_is_not_there_is_1(rmq: Commands, server: FakeServer, verb: str) -> None:
    """Nothing is deleted."""
    server.fail("topics", "not_found", "there is no topic orders")
    assert rmq.fails("topic", verb, "orders", code=1) == "there is no topic orders"
    assert server.asked("delete_topic") == []


def test_update_changes_only_what_is_there(rmq: Commands, server: FakeServer) -> None:
    """And has to be told what."""
    assert rmq("topic", "update", "orders", "--queues", "16").out == "topic orders: NORMAL, 16 queues, 0 messages\n"
    assert server.asked("put_topic") == [("orders", "", 16, False, True)]
    assert "say what to change" in rmq.fails("topic", "update", "orders", code=2)


def test_delete_asks_on_a_terminal(rmq: Commands, server: FakeServer) -> None:
    """No means that nothing happens."""
    result = rmq("topic", "delete", "orders", typed="n\n")
    assert (result.code, result.out) == (1, "")
    assert "Delete topic orders with 0 messages? [y/N]" in result.err
    assert "rmq: nothing was changed" in result.err
    assert server.asked("delete_topic") == []
    assert rmq("topic", "delete", "orders", typed="y\n").out == "deleted topic orders\n"
    assert server.asked("delete_topic") == [("orders",)]


def test_delete_without_a_terminal_wants_yes(rmq: Commands, server: FakeServer) -> None:
    """A script that forgot it deletes nothing."""
    assert "say --yes" in rmq.fails("topic", "delete", "orders", code=2)
    assert server.asked("delete_topic") == []
    assert rmq("topic", "delete", "orders", "--yes").code == 0
    assert server.asked("delete_topic") == [("orders",)]
