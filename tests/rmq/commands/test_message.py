"""`rmq message`."""

import base64
import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from rmq_proto import admin as pb
from tests.rmq.commands.rig import NOW_MS, Commands, FakeServer, message


@pytest.fixture
def stored(server: FakeServer) -> FakeServer:
    """Ten messages on two queues, every third tagged `a`."""
    for number in range(10):
        queue = server.queues[number % 2]
        queue.append(message(len(queue), b"%d" % number, number % 2, tag="a" if number % 3 == 0 else ""))
    return server


def bodies(out: str) -> list[str]:
    """Of a JSON document of messages."""
    return [one["body"] for one in json.loads(out)["messages"]]


# -- send --------------------------------------------------------------------------------------------------------------


def test_send_hands_over_all_it_is_told(rmq: Commands, server: FakeServer) -> None:
    """And says under which id it went."""
    args = [
        "--tag",
        "a",
        "--key",
        "k1",
        "--key",
        "k2",
        "--property",
        "x=1=2",
        "--message-group",
        "m",
        "--priority",
        "3",
    ]
    assert rmq("message", "send", "orders", "hello", *args) == (0, "sent 01AB to orders\n", "")
    assert server.asked("send") == [("orders", b"hello", "a", ("k1", "k2"), {"x": "1=2"}, "m", None, 3)]


def test_send_to_a_lite_topic(rmq: Commands, server: FakeServer) -> None:
    """Of the topic that is named."""
    assert rmq("message", "send", "devices", "on", "--lite-topic", "device-1").code == 0
    assert server.asked("send")[0][-1] == "device-1"


def test_send_as_json(rmq: Commands, server: FakeServer) -> None:
    """For scripts that want the id."""
    found = json.loads(rmq("message", "send", "orders", "hello", "--json").out)
    assert found == {"topic": "orders", "message_id": "01AB", "offset": 12}


@pytest.mark.parametrize("dash", [(), ("-",)])
def test_a_body_may_come_from_standard_input(rmq: Commands, server: FakeServer, dash: tuple[str, ...]) -> None:
    """Byte for byte."""
    assert rmq("message", "send", "orders", *dash, stdin=b"\x00\xff\n").code == 0
    assert server.asked("send")[0][1] == b"\x00\xff\n"


def test_nobody_is_left_waiting_for_a_body_on_a_terminal(rmq: Commands, server: FakeServer) -> None:
    """Whoever means to type it says -."""
    result = rmq("message", "send", "orders", typed="")
    assert (result.code, "say what to send" in result.err) == (2, True)
    assert server.calls == []


def test_a_delay_counts_by_the_server_s_clock(rmq: Commands, server: FakeServer) -> None:
    """Which tests move by hand."""
    assert rmq("message", "send", "orders", "x", "--delay", "90s").code == 0
    assert server.asked("send")[0][6] == NOW_MS + 90_000


def test_a_message_for_a_certain_time(rmq: Commands, server: FakeServer) -> None:
    """Local time unless it names a zone; the tests' zone is UTC."""
    assert rmq("message", "send", "orders", "x", "--at", "2026-09-21T14:13:20").code == 0
    assert server.asked("send")[0][6] == NOW_MS


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--delay", "10"], "no duration"),
        (["--at", "soon"], "no time"),
        (["--property", "x"], "no KEY=VALUE"),
        (["--delay", "1s", "--at", "0"], "exclude each other"),
    ],
)
def test_send_refuses_what_it_does_not_understand(
    rmq: Commands, server: FakeServer, args: list[str], said: str
) -> None:
    """Nothing is sent."""
    assert said in rmq.fails("message", "send", "orders", "x", *args, code=2)
    assert server.calls == []


# -- peek --------------------------------------------------------------------------------------------------------------


def test_peek_is_a_table_of_the_first_ten(rmq: Commands, stored: FakeServer) -> None:
    """In the order in which they were stored."""
    lines = rmq("message", "peek", "orders").out.splitlines()
    assert lines[0].split() == ["STORED", "QUEUE", "OFFSET", "MESSAGE", "ID", "TAG", "KEYS", "BODY"]
    assert lines[1].split() == ["2026-09-21", "14:13:20.000+00:00", "0", "0", "ID0-0", "a", "0"]
    assert [line.split()[-1] for line in lines[1:]] == [str(number) for number in range(10)]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--first", "3"], "012"),
        (["--last", "3"], "789"),
        (["--last", "100"], "0123456789"),
        (["--filter", "a"], "0369"),
        (["--filter", "a", "--last", "3"], "369"),
        (["--sql", "TAGS = 'a'"], "0369"),
        (["--offset", "1:3"], "79"),
        (["--offset", "1:3", "--offset", "0:4"], "789"),
        (["--from", str(NOW_MS + 30)], "6789"),
        (["--from", "2026-09-21T14:13:20.040Z"], "89"),
        (["--from", "begin", "--first", "1"], "0"),
    ],
)
@pytest.mark.parametrize("scan_max", [1, 2, 100])
def test_peek_shows_what_was_asked_for(
    rmq: Commands, stored: FakeServer, args: list[str], expected: str, scan_max: int
) -> None:
    """However little the server looks at for one page."""
    stored.scan_max = scan_max
    assert "".join(bodies(rmq("message", "peek", "orders", *args, "--json").out)) == expected


def test_peek_from_the_end_shows_nothing_and_says_so(rmq: Commands, stored: FakeServer) -> None:
    """It does not wait."""
    assert rmq("message", "peek", "orders", "--from", "end") == (0, "", "topic orders has no such message\n")
    assert all(call[-1] == 0 for call in stored.asked("peek"))


@pytest.mark.parametrize(
    "args",
    [
        ["--first", "1", "--last", "1"],
        ["--last", "1", "--from", "begin"],
        ["--last", "1", "--offset", "0:0"],
        ["--from", "begin", "--offset", "0:0"],
        ["--offset", "0"],
        ["--first", "0"],
    ],
)
def test_peek_refuses_contradictions(rmq: Commands, server: FakeServer, args: list[str]) -> None:
    """Before it asks the server."""
    rmq.fails("message", "peek", "orders", *args, code=2)
    assert server.calls == []


def test_a_message_as_json_has_every_field(rmq: Commands, server: FakeServer) -> None:
    """Times in ms, the body as text."""
    properties, system = {"x": "1"}, {"CLUSTER": "C"}
    more: dict[str, Any] = {"born_ms": 5, "born_host": "::1", "attempt": 2, "tag": "a", "keys": ["k"]}
    server.queues = [[message(0, "é".encode(), properties=properties, system=system, **more)]]
    assert json.loads(rmq("message", "peek", "orders", "--json").out)["messages"] == [
        {
            "topic": "orders",
            "queue_id": 0,
            "offset": 0,
            "message_id": "ID0-0",
            "tag": "a",
            "keys": ["k"],
            "properties": properties,
            "system": system,
            "body": "é",
            "body_base64": False,
            "body_bytes": 2,
            "compressed": False,
            "born_ms": 5,
            "born_host": "::1",
            "stored_ms": NOW_MS,
            "attempt": 2,
        }
    ]


def test_a_body_that_is_no_text_is_base64_and_says_so(rmq: Commands, server: FakeServer) -> None:
    """In a table it is only counted."""
    server.queues = [[message(0, b"\xff\x00")]]
    [found] = json.loads(rmq("message", "peek", "orders", "--json").out)["messages"]
    assert (base64.b64decode(found["body"]), found["body_base64"]) == (b"\xff\x00", True)
    assert "(2 bytes, not text)" in rmq("message", "peek", "orders").out


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_a_compressed_body_is_opened(rmq: Commands, server: FakeServer, compress: Callable[[bytes], bytes]) -> None:
    """Clients label both kinds alike; the size is that of what is stored."""
    packed = compress(b"hello " * 100)
    server.queues = [[message(0, packed, compressed=True)]]
    [found] = json.loads(rmq("message", "peek", "orders", "--json").out)["messages"]
    assert (found["body"], found["body_bytes"], found["compressed"]) == ("hello " * 100, len(packed), True)


def test_a_body_that_only_claims_to_be_compressed_is_shown_as_it_is(rmq: Commands, server: FakeServer) -> None:
    """Nor does half of one break anything."""
    server.queues = [
        [message(0, b"plain", compressed=True), message(1, gzip.compress(b"x" * 99)[:-9], compressed=True)]
    ]
    first, second = json.loads(rmq("message", "peek", "orders", "--json").out)["messages"]
    assert (first["body"], second["body_base64"]) == ("plain", True)


def test_a_body_cannot_steer_the_terminal_and_stays_on_its_line(rmq: Commands, server: FakeServer) -> None:
    """Escape sequences and line ends are shown, not obeyed; what is long is cut."""
    server.queues = [[message(0, b"\x1b[2Jtwo\nlines"), message(1, b"y" * 200)]]
    _, first, second = rmq("message", "peek", "orders").out.splitlines()
    assert first.endswith("\\x1b[2Jtwo\\nlines")
    assert second.endswith(" " + "y" * 77 + "...")


# -- get ---------------------------------------------------------------------------------------------------------------


def test_get_shows_a_message_whole(rmq: Commands, server: FakeServer) -> None:
    """With the lines of its body."""
    found = message(7, b"two\nlines", tag="a", keys=["k1", "k2"], properties={"x": "1"}, born_ms=NOW_MS, born_host="h")
    server.answers["find"] = [found]
    assert rmq("message", "get", "orders", "--key", "k1").out.splitlines() == [
        "message: ID0-7",
        "place: orders queue 0 offset 7",
        "born: 2026-09-21 14:13:20.000+00:00 on h",
        "stored: 2026-09-21 14:13:20.070+00:00",
        "tag: a",
        "keys: k1 k2",
        "property x: 1",
        "body: 9 bytes",
        "  two",
        "  lines",
        "",
    ]
    assert server.asked("find") == [("orders", "", "k1", 32)]


def test_get_shows_bytes_in_hex(rmq: Commands, server: FakeServer) -> None:
    """Of a body that is no text."""
    server.answers["find"] = [message(7, b"\xff\x00")]
    assert rmq("message", "get", "orders", "--id", "ID0-7").out.splitlines()[-3:-1] == [
        "body: 2 bytes, not text",
        "  ff 00",
    ]


def test_get_as_json(rmq: Commands, server: FakeServer) -> None:
    """All that were found."""
    server.answers["find"] = [message(1, b"b"), message(0, b"a")]
    assert bodies(rmq("message", "get", "orders", "--key", "k", "--limit", "2", "--json").out) == ["b", "a"]
    assert server.asked("find") == [("orders", "", "k", 2)]


def test_a_message_that_is_not_there_is_1(rmq: Commands, server: FakeServer) -> None:
    """With --json an empty document as well."""
    assert rmq.fails("message", "get", "orders", "--id", "X", code=1) == "topic orders has no message with id X"
    result = rmq("message", "get", "orders", "--key", "k", "--json")
    assert (result.code, json.loads(result.out)) == (1, {"messages": []})


def test_get_wants_an_id_or_a_key(rmq: Commands, server: FakeServer) -> None:
    """One of the two."""
    assert "--id ID or --key KEY" in rmq.fails("message", "get", "orders", code=2)
    assert "--id ID or --key KEY" in rmq.fails("message", "get", "orders", "--id", "X", "--key", "k", code=2)


# -- tail --------------------------------------------------------------------------------------------------------------


def test_tail_shows_what_comes_after_it_began(rmq: Commands, stored: FakeServer) -> None:
    """One line each, until there were enough."""
    stored.comes = [message(5, b"new", tag="a", keys=["k1", "k2"]), message(5, b"newer", 1)]
    result = rmq("message", "tail", "orders", "--count", "2")
    assert result.out.splitlines() == [
        "2026-09-21 14:13:20.050+00:00 0@5 ID0-5 tag=a keys=k1,k2 new",
        "2026-09-21 14:13:20.051+00:00 1@5 ID1-5 newer",
    ]
    assert result.code == 0


def test_tail_as_json_is_a_document_a_line(rmq: Commands, server: FakeServer) -> None:
    """It has no end."""
    server.comes = [message(0, b"a"), message(1, b"b")]
    out = rmq("message", "tail", "orders", "--count", "2", "--json").out
    assert [json.loads(line)["body"] for line in out.splitlines()] == ["a", "b"]


def test_tail_ends_when_its_time_is_up(rmq: Commands, stored: FakeServer) -> None:
    """0, but 1 where it was to wait for messages that did not come."""
    assert rmq("message", "tail", "orders", "--timeout", "0.01") == (0, "", "")
    assert rmq("message", "tail", "orders", "--timeout", "0.01", "--count", "1") == (1, "", "")


def test_tail_passes_its_filter_on(rmq: Commands, server: FakeServer) -> None:
    """To each question."""
    for option in (["--filter", "a"], ["--sql", "TAGS = 'a'"]):
        server.comes = [message(0, b"x"), message(1, b"y", tag="a")]
        assert rmq("message", "tail", "orders", *option, "--count", "1").out.endswith("y\n")


@pytest.mark.parametrize("verb", ["peek", "tail"])
def test_tags_and_sql_exclude_each_other(rmq: Commands, server: FakeServer, verb: str) -> None:
    """A usage error."""
    outcome = rmq("message", verb, "orders", "--filter", "a", "--sql", "a = 1")
    assert (outcome.code, "--filter and --sql exclude each other" in outcome.err) == (2, True)


def test_tail_notices_a_queue_that_was_added(rmq: Commands, server: FakeServer) -> None:
    """Its first message included."""
    server.queues = [[]]
    begun: list[object] = []

    class Growing(list[pb.Message]):
        """Once a wait was in vain the topic has another queue with a message."""

        def __bool__(self) -> bool:
            begun.append(None)
            if len(begun) == 2:
                server.queues.append([message(0, b"there", 1)])
            return False

    server.comes = Growing()
    assert rmq("message", "tail", "orders", "--count", "1").out.endswith("1@0 ID1-0 there\n")


def test_an_interrupt_is_the_ordinary_end_of_tail(rmq: Commands, server: FakeServer) -> None:
    """0, and nothing more is said."""
    server.answers["peek"] = KeyboardInterrupt()
    assert rmq("message", "tail", "orders") == (0, "", "")


@pytest.mark.parametrize("verb", ["peek", "tail"])
def test_a_topic_that_is_not_there_is_1(rmq: Commands, server: FakeServer, verb: str) -> None:
    """In the server's words."""
    server.fail("topics", "not_found", "there is no topic orders")
    server.fail("peek", "not_found", "there is no topic orders")
    assert rmq.fails("message", verb, "orders", code=1) == "there is no topic orders"
