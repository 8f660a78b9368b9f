"""`rmq message trace` and `rmq message verify`."""

import json
import zlib

from rmq.message import TRACE_TOPIC
from rmq_proto import admin as pb
from tests.rmq.commands.rig import NOW_MS, Commands, FakeServer, Result, message

SENT = f"Pub\x01{NOW_MS - 3}\x01R\x01P\x01orders\x01ID0-0\x01\x01\x01h\x015\x013\x010\x01\x01true\x02"
TAKEN = f"SubBefore\x01{NOW_MS + 20}\x01R\x01billing\x01REQ\x01ID0-0\x010\x01\x02"
DONE = "SubAfter\x01REQ\x01ID0-0\x0112\x01false\x01\x014\x02"
HOLDINGS = [
    pb.Holding(group="audit", state="WAITING"),
    pb.Holding(
        group="billing", state="LEASED", attempt=2, leased_ms=NOW_MS + 30, due_ms=NOW_MS + 60_000, client_id="c1"
    ),
    pb.Holding(group="refunds", state="READY", attempt=1),
    pb.Holding(group="returns", state="ACKED", attempt=1),
    pb.Holding(group="shipping", state="SETTLED"),
]


def copy(*groups: pb.Holding, topic: str = "orders", due_ms: int = 0) -> pb.Copy:
    """Of one message, whose id is ID0-0."""
    return pb.Copy(message=message(0, b"", topic=topic), body_bytes=5, sent_to="orders", due_ms=due_ms, groups=groups)


def told(text: str, *, compressed: bool = False) -> pb.Message:
    """A trace message; clients compress what is long."""
    body = zlib.compress(text.encode()) if compressed else text.encode()
    return message(0, body, topic=TRACE_TOPIC, born_host="10.0.0.1", compressed=compressed)


def rows(result: Result) -> list[list[str]]:
    """The table's cells without its head; columns are two blanks or more apart."""
    assert result.code == 0, result.err
    return [[cell for cell in line.split("  ") if cell] for line in result.out.splitlines()[1:]]


def test_a_trace_tells_by_time_what_the_server_and_the_clients_know(rmq: Commands, server: FakeServer) -> None:
    """Each row says who told it; what is so now comes last."""
    server.answers |= {"locate": [copy(*HOLDINGS)], "find": [told(SENT), told(TAKEN + DONE, compressed=True)]}
    result = rmq("message", "trace", "ID0-0")
    stamp = "2026-09-21 14:13:20"
    assert [[cell.strip() for cell in row] for row in rows(result)] == [
        ["2026-09-21 14:13:19.997+00:00", "sent", "P", "10.0.0.1", "3 ms", "SUCCESS", "client"],
        [f"{stamp}.000+00:00", "stored", "orders 0@0", "5 bytes", "server"],
        [f"{stamp}.020+00:00", "delivered", "billing", "10.0.0.1", "attempt 1", "client"],
        [
            f"{stamp}.030+00:00",
            "leased",
            "billing",
            "c1",
            "attempt 2, until 2026-09-21 14:14:20.000+00:00",
            "server",
        ],
        [f"{stamp}.032+00:00", "consumed", "billing", "10.0.0.1", "12 ms", "FAILED attempt 1", "client"],
        ["now", "WAITING", "audit", "not delivered yet", "server"],
        ["now", "READY", "refunds", "attempt 1, to be delivered again", "server"],
        [
            "now",
            "ACKED",
            "returns",
            "attempt 1, acknowledged, settled once those before it in its message group are",
            "server",
        ],
        ["now", "SETTLED", "shipping", "server"],
    ]
    assert "keeps neither which nor when" in result.err
    assert "no client has told" not in result.err
    assert server.asked("locate") == [("ID0-0", "")]
    assert server.asked("find") == [(TRACE_TOPIC, "", "ID0-0", 1000)]


def test_what_nobody_told_is_said(rmq: Commands, server: FakeServer) -> None:
    """Not even the trace topic may be there: no client ever wrote a trace."""
    server.answers["locate"] = [copy()]
    server.fail("find", "not_found")
    result = rmq("message", "trace", "ID0-0", "--topic", "orders", "--trace-topic", "mine")
    assert [row[1].strip() for row in rows(result)] == ["stored"]
    assert "official gRPC clients write no trace records" in result.err
    assert "SETTLED" not in result.err
    assert (server.asked("locate"), server.asked("find")[0][0]) == ([("ID0-0", "orders")], "mine")


def test_the_servers_own_copies_are_named(rmq: Commands, server: FakeServer) -> None:
    """A delayed one that waits and one that does not any more, a dead letter, one that was carried on."""
    timer = "rmq_sys_wheel_timer"
    server.answers["locate"] = [
        copy(topic="%DLQ%billing"),
        copy(topic="%RETRY%billing"),
        copy(topic=timer, due_ms=NOW_MS),
        copy(topic=timer),
    ]
    told_rows = [[cell.strip() for cell in row][1:] for row in rows(rmq("message", "trace", "ID0-0"))]
    assert told_rows == [
        ["dead letter", "billing", "%DLQ%billing 0@0", "5 bytes", "server"],
        ["carried on", "billing", "%RETRY%billing 0@0", "5 bytes", "server"],
        ["delayed", "orders", "until 2026-09-21 14:13:20.000+00:00", "server"],
        ["delayed", "orders", "delivered or recalled", "server"],
    ]


def test_a_trace_as_json(rmq: Commands, server: FakeServer) -> None:
    """Every field under a stable name, a cost that nobody told as null."""
    server.answers |= {"locate": [copy(HOLDINGS[1])], "find": [told(SENT + TAKEN)]}
    document = json.loads(rmq("message", "trace", "ID0-0", "--json").out)
    [stored] = document["copies"]
    assert "body" not in stored
    assert (stored["topic"], stored["body_bytes"], stored["sent_to"], stored["due_ms"]) == ("orders", 5, "orders", 0)
    assert stored["groups"] == [
        {
            "group": "billing",
            "state": "LEASED",
            "attempt": 2,
            "leased_ms": NOW_MS + 30,
            "due_ms": NOW_MS + 60_000,
            "client_id": "c1",
        }
    ]
    sent, delivered = document["events"]
    assert sent == {
        "event": "sent",
        "time_ms": NOW_MS - 3,
        "group": "P",
        "topic": "orders",
        "status": "SUCCESS",
        "cost_ms": 3,
        "attempt": 0,
        "client": "10.0.0.1",
    }
    assert (delivered["cost_ms"], delivered["attempt"]) == (None, 1)


def test_a_message_that_is_gone_may_still_be_told_of(rmq: Commands, server: FakeServer) -> None:
    """Retention took it, its trace is there; of one that is nowhere the exit code is 1."""
    server.answers["find"] = [told(SENT)]
    assert [row[1].strip() for row in rows(rmq("message", "trace", "ID0-0"))] == ["sent"]
    server.answers["find"] = []
    assert rmq.fails("message", "trace", "ID0-0", code=1) == (
        "message ID0-0 is not stored here, and no client has told of it"
    )


def test_a_server_that_cannot_search_is_one_line(rmq: Commands, server: FakeServer) -> None:
    """Other errors than a missing trace topic end the command."""
    server.fail("find", "busy", "64 searches are waiting; ask again later")
    assert "ask again later" in rmq.fails("message", "trace", "ID0-0", code=2)


def test_a_trace_cannot_steer_the_terminal(rmq: Commands, server: FakeServer) -> None:
    """It is whatever a client writes."""
    server.answers["find"] = [told(SENT.replace("\x01P\x01", "\x01\x1b[2J\x01"))]
    assert "\\x1b[2J" in rmq("message", "trace", "ID0-0").out


def test_a_verified_message_is_one_line(rmq: Commands, server: FakeServer) -> None:
    """Who consumed what; each argument arrives."""
    result = rmq("message", "verify", "ID1", "--group", "billing", "--client", "c1", "--topic", "orders")
    assert result == (0, "client c1 has consumed ID1 of topic orders\n", "")
    assert server.asked("verify") == [("billing", "ID1", "c1", "orders")]


def test_a_listener_that_fails_is_exit_code_1(rmq: Commands, server: FakeServer) -> None:
    """With what the client said, if anything; as JSON, too."""
    failed = pb.VerifyMessageResponse(client_id="c1", topic="orders", status="FAILED_TO_CONSUME_MESSAGE")
    server.answers["verify"] = failed
    assert (
        rmq.fails("message", "verify", "ID1", "--group", "g", code=1) == "client c1 answered FAILED_TO_CONSUME_MESSAGE"
    )
    failed.text = "no"
    assert rmq.fails("message", "verify", "ID1", "--group", "g", code=1).endswith("MESSAGE: no")
    result = rmq("message", "verify", "ID1", "--group", "g", "--json")
    assert result.code == 1
    assert json.loads(result.out) == {
        "message_id": "ID1",
        "group": "g",
        "client_id": "c1",
        "topic": "orders",
        "status": "FAILED_TO_CONSUME_MESSAGE",
        "text": "no",
    }


def test_a_verified_message_as_json(rmq: Commands, server: FakeServer) -> None:
    """And nothing else on standard output."""
    assert json.loads(rmq("message", "verify", "ID1", "--group", "g", "--json").out)["status"] == "OK"


def test_a_group_must_be_named(rmq: Commands, server: FakeServer) -> None:
    """A message is consumed as some group's."""
    assert "--group" in rmq.fails("message", "verify", "ID1", code=2)
