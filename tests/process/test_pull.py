"""A consumer that keeps count itself, against a whole server: what it must not ask, and what a kill -9 leaves it.

RocketMQ 5.5.0's proxy answers UNIMPLEMENTED to these four calls, and no official client sends them (2026-11): this is
the proto's own word, told by a client of raw messages.
"""

from collections.abc import Callable

import pytest

from rmq_proto import v2
from tests.process import wire
from tests.process.client import Client
from tests.serving import Server

Change = Callable[[v2.PullMessageRequest], object]


def pulling(topic: str, offset: int = 0, *, group: str = "g", poll_ms: int = 0) -> v2.PullMessageRequest:
    """All of queue 0 from there on."""
    request = v2.PullMessageRequest(offset=offset, batch_size=32)
    request.group.name = group
    request.message_queue.topic.name = topic
    wire.set_ms(request.long_polling_timeout, poll_ms)
    return request


def pull(client: Client, request: v2.PullMessageRequest) -> tuple[int, list[bytes], int | None]:
    """Code, bodies, next offset (None where none was said)."""
    answers = client.listing("PullMessage", request.SerializeToString())
    first, *rest = (v2.PullMessageResponse.FromString(answer) for answer in answers)
    assert first.WhichOneof("content") == "status"
    assert first.status.message
    next_offset = rest.pop().next_offset if rest else None
    return first.status.code, [one.message.body for one in rest], next_offset


def update(client: Client, topic: str, offset: int, *, group: str = "g", queue_id: int = 0) -> int:
    """Commits; the code."""
    request = v2.UpdateOffsetRequest(offset=offset)
    request.group.name = group
    request.message_queue.topic.name, request.message_queue.id = topic, queue_id
    return client.ask("UpdateOffset", request, v2.UpdateOffsetResponse.FromString).status.code


def committed(client: Client, topic: str, *, group: str = "g", queue_id: int = 0) -> tuple[int, int]:
    """Code and offset."""
    request = v2.GetOffsetRequest()
    request.group.name = group
    request.message_queue.topic.name, request.message_queue.id = topic, queue_id
    answer = client.ask("GetOffset", request, v2.GetOffsetResponse.FromString)
    return answer.status.code, answer.offset


def query(client: Client, topic: str, policy: int, ms: int = 0, *, queue_id: int = 0) -> tuple[int, int]:
    """Code and offset."""
    request = v2.QueryOffsetRequest()
    setattr(request, "query_offset_policy", policy)  # noqa: B010  # a number that the enum's type may not admit
    request.message_queue.topic.name, request.message_queue.id = topic, queue_id
    wire.set_ms(request.timestamp, ms)
    answer = client.ask("QueryOffset", request, v2.QueryOffsetResponse.FromString)
    return answer.status.code, answer.offset


def fill(client: Client, topic: str, *bodies: bytes) -> None:
    """Into queue 0 of a new topic, in one call."""
    messages = [wire.message(topic, body, f"id-{number}") for number, body in enumerate(bodies)]
    assert client.send(*messages).status.code == 20000


def test_a_consumer_that_keeps_count(dev: Client, topic: str) -> None:
    """Where to begin, what is there, how far it is: all four calls as one uses them."""
    fill(dev, topic, b"a", b"b", b"c")
    assert committed(dev, topic) == (40404, 0)
    assert (query(dev, topic, v2.BEGINNING), query(dev, topic, v2.END)) == ((20000, 0), (20000, 3))
    assert query(dev, topic, v2.TIMESTAMP, 10**12) == (20000, 0)
    assert pull(dev, pulling(topic)) == (20000, [b"a", b"b", b"c"], 3)
    assert update(dev, topic, 2) == 20000
    assert committed(dev, topic) == (20000, 2)
    assert pull(dev, pulling(topic, 2)) == (20000, [b"c"], 3)
    assert pull(dev, pulling(topic, 3, poll_ms=300)) == (40401, [], 3)


def test_a_deadline_nearer_than_the_poll_is_kept(dev: Client, topic: str) -> None:
    """The answer comes before the client gives up."""
    fill(dev, topic, b"a")
    dev.timeout_s = 2.0
    assert pull(dev, pulling(topic, 1, poll_ms=20_000)) == (40401, [], 1)


def filtering(kind: int, text: str) -> Change:
    """A filter."""

    def change(request: v2.PullMessageRequest) -> None:
        setattr(request.filter_expression, "type", kind)  # noqa: B010  # as above
        request.filter_expression.expression = text

    return change


BAD: dict[str, tuple[Change, int, int | None]] = {
    "an offset before the begin": (lambda r: setattr(r, "offset", -1), 40019, 0),
    "an offset behind the end": (lambda r: setattr(r, "offset", 2), 40019, 1),
    "the greatest offset": (lambda r: setattr(r, "offset", 2**63 - 1), 40019, 1),
    "a queue that is not there": (lambda r: setattr(r.message_queue, "id", 8), 40400, None),
    "any queue": (lambda r: setattr(r.message_queue, "id", -1), 40400, None),
    "no batch": (lambda r: setattr(r, "batch_size", 0), 40000, None),
    "a negative poll": (lambda r: wire.set_ms(r.long_polling_timeout, -1), 40018, None),
    "a filter of separators": (filtering(v2.TAG, "||"), 40010, None),
    "a SQL filter that ends too early": (filtering(v2.SQL, "a > "), 40010, None),
    "a filter type from the future": (filtering(77, "a"), 40010, None),
    "no group": (lambda r: r.group.Clear(), 40003, None),
    "a system group": (lambda r: setattr(r.group, "name", "CID_RMQ_SYS_TRANS"), 40003, None),
    "no queue": (lambda r: r.message_queue.Clear(), 40002, None),
    "where delayed messages wait": (
        lambda r: setattr(r.message_queue.topic, "name", "rmq_sys_wheel_timer"),
        40002,
        None,
    ),
    "the journal": (lambda r: setattr(r.message_queue.topic, "name", "rmq_sys_rmq_journal"), 40002, None),
}


@pytest.mark.parametrize(("change", "code", "nearest"), BAD.values(), ids=BAD.keys())
def test_a_bad_pull_is_refused(dev: Client, topic: str, change: Change, code: int, nearest: int | None) -> None:
    """At once, with a status that says why; where the offset is at fault, with one to go on from."""
    fill(dev, topic, b"a")
    request = pulling(topic, poll_ms=20_000)
    change(request)
    assert pull(dev, request) == (code, [], nearest)


GOOD: dict[str, Change] = {
    "the greatest batch": lambda r: setattr(r, "batch_size", 2**31 - 1),
    "a poll for ever": lambda r: wire.set_ms(r.long_polling_timeout, 10**15),
    "a SQL filter": filtering(v2.SQL, "TAGS IS NULL"),
    "another broker's name": lambda r: setattr(r.message_queue.broker, "name", "elsewhere"),
}


@pytest.mark.parametrize("change", GOOD.values(), ids=GOOD.keys())
def test_an_odd_pull_is_served(dev: Client, topic: str, change: Change) -> None:
    """What is at a limit, is lowered to it, or decides nothing."""
    fill(dev, topic, b"a")
    request = pulling(topic)
    change(request)
    assert pull(dev, request) == (20000, [b"a"], 1)


def test_bad_offsets_are_refused(dev: Client, topic: str) -> None:
    """Commits and queries of what is not there change nothing."""
    fill(dev, topic, b"a")
    assert [update(dev, topic, offset) for offset in (-1, 2, 2**63 - 1)] == [40019] * 3
    assert (update(dev, topic, 0, queue_id=8), update(dev, "none-of-it", 0)) == (40400, 40402)
    assert (update(dev, topic, 0, group=""), update(dev, topic, 0, group="CID_RMQ_SYS_X")) == (40003, 40003)
    assert (committed(dev, topic)[0], committed(dev, topic, queue_id=-1)[0]) == (40404, 40400)
    assert (committed(dev, "none-of-it")[0], committed(dev, topic, group=" ")[0]) == (40402, 40003)
    assert (query(dev, topic, 77)[0], query(dev, topic, v2.END, queue_id=8)[0]) == (40000, 40400)
    assert query(dev, "none-of-it", v2.BEGINNING)[0] == 40402


def test_profile_strict_makes_nothing_for_offsets(strict: Client, topic: str) -> None:
    """As for a receive: neither group nor topic."""
    for group, code in (("g", 40403), ("bystander", 40402)):
        assert pull(strict, pulling(topic, group=group)) == (code, [], None)
    assert (update(strict, "bystander", 0), committed(strict, "bystander")[0]) == (40403, 40403)


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_a_killed_server_has_what_was_committed(transport: str) -> None:
    """Kill -9 right behind each answer: the offset is there, and so is what lies behind it."""
    with Server("--topic", "t", env={"RMQ_TRANSPORT": transport}) as server:
        client = Client(server.endpoint)
        fill(client, "t", *(b"%d" % number for number in range(9)))
        for offset in (4, 9, 2):
            assert update(client, "t", offset) == 20000
            server.kill()
            client.close()
            server.restart()
            client = Client(server.endpoint)
            assert committed(client, "t") == (20000, offset)
        assert pull(client, pulling("t", 2))[1:] == ([b"%d" % number for number in range(2, 9)], 9)
        client.close()
