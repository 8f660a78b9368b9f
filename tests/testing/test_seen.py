"""What a test sees, over pages that are made up: order, paging, bodies, names that are not there; and the report."""

import gzip
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from rmq.testing import Lease
from rmq.testing.report import TEXT_CHARS_MAX, report, shown
from rmq.testing.seen import Views, inflate, message_of
from rmq_proto import admin as pb


class Shelf(Views):
    """Topics of one queue each, read two messages at a time, and one group."""

    def __init__(self, stored: Mapping[str, Sequence[pb.Message]], leases: Sequence[pb.Lease] = ()) -> None:
        self.stored = stored
        self.leased = leases

    def _page(self, topic: str, offsets: Mapping[int, int] | None) -> pb.PeekResponse | None:
        if topic not in self.stored:
            return None
        begin = offsets[0] if offsets else 0
        end = min(begin + 2, len(self.stored[topic]))
        return pb.PeekResponse(messages=self.stored[topic][begin:end], next={0: end})

    def _topics(self) -> Sequence[pb.Topic]:
        return [
            pb.Topic(name=name, type="NORMAL", queues=[pb.Queue(max_offset=len(stored))])
            for name, stored in self.stored.items()
        ]

    def _groups(self, name: str, leases: bool) -> Sequence[pb.Group]:
        if name not in ("", "billing") or not self.leased:
            return ()
        topic = pb.GroupTopic(topic="orders", lag_messages=2, leased=1, ready=len(self.leased) - 1)
        if leases:
            topic.leases.extend(self.leased)
        return [pb.Group(name="billing", attempts_max=17, topics=[topic], clients=["c1"])]


class Gone(Shelf):
    def _topics(self) -> Sequence[pb.Topic]:
        raise ConnectionError("nothing listens there")


def stored(number: int, body: bytes = b"", **more: Any) -> pb.Message:
    """A message of topic orders."""
    return pb.Message(topic="orders", offset=number, body=body or b"%d" % number, stored_ms=number, **more)


def test_messages_are_all_of_them_in_the_order_in_which_they_came() -> None:
    """However many pages that takes, and although a page may begin before the last one's end."""
    shelf = Shelf({"orders": [stored(number) for number in (1, 0, 2, 4, 3)]})
    assert [message.text for message in shelf.messages("orders")] == ["0", "1", "2", "3", "4"]


def test_a_name_that_is_not_there_has_nothing() -> None:
    """Nothing was sent to it, nothing is held: that is an answer, no error."""
    shelf = Shelf({})
    assert (shelf.messages("a"), shelf.dead_letters("a"), shelf.leases("a")) == ([], [], [])
    assert (shelf.topics(), shelf.groups()) == ({}, {})


def test_a_message_is_as_its_sender_gave_it() -> None:
    """Compressed on the way or not; of the stored properties only the sender's."""
    system = {"__SHARDINGKEY": "customer-1", "TIMER_DELIVER_MS": "1800000000000", "CLUSTER": "c"}
    message = message_of(
        stored(7, gzip.compress(b"text"), compressed=True, tag="t", keys=["k"], properties={"p": "v"}, system=system)
    )
    assert (message.body, message.text, message.tag, message.keys) == (b"text", "text", "t", ("k",))
    assert (message.properties, message.message_group, message.delivery_ms) == ({"p": "v"}, "customer-1", 1800000000000)


def test_a_dead_letter_knows_where_it_was_sent_to() -> None:
    """Its topic is the group's own."""
    dead = pb.Message(topic="%DLQ%billing", body=b"x", system={"DLQ_ORIGIN_TOPIC": "orders"})
    (message,) = Shelf({"%DLQ%billing": [dead]}).dead_letters("billing")
    assert (message.topic, message.origin_topic) == ("%DLQ%billing", "orders")
    assert message_of(stored(0)).origin_topic == "orders"


@pytest.mark.parametrize(
    "packed", [gzip.compress(b"text"), zlib.compress(b"text"), b"text"], ids=["gzip", "zlib", "plain"]
)
def test_a_compressed_body_is_shown_as_it_was(packed: bytes) -> None:
    """Gzip by gRPC clients, zlib by 4.x clients; a body that only says that it is compressed stays."""
    assert inflate(packed) == b"text"


def test_leases_tell_who_holds_what() -> None:
    """Ready ones included: nobody acknowledged them."""
    lease = pb.Lease(queue_id=1, offset=2, message_id="01A", attempt=3, due_ms=4, client_id="c1")
    assert Shelf({}, [lease]).leases("billing") == [Lease("orders", 1, 2, "01A", 3, 4, "c1")]
    group = Shelf({}, [lease]).groups()["billing"]
    assert (group.new, group.unacked, group.clients) == (2, 1, ("c1",))


def test_the_report_shows_the_last_messages_and_what_is_held() -> None:
    """A line each, with what a person looks for."""
    messages = [stored(n, message_id=f"id-{n}", tag="new", keys=["k"], properties={"p": "v"}) for n in range(12)]
    leases = [
        pb.Lease(message_id="id-10", attempt=1, due_ms=5, client_id="c1"),
        pb.Lease(message_id="id-11", attempt=2),
    ]
    lines = report(Shelf({"orders": messages, "bills": []}, leases)).splitlines()
    assert lines[:3] == ["topic orders (NORMAL): 12 messages", "  ... 2 older ones", "  id-2 tag=new keys=k p=v '2'"]
    assert lines[12:] == [
        "topic bills (NORMAL): 0 messages",
        "group billing: 2 un-acked, 2 never delivered",
        "  orders id-10 attempt 1, leased held for c1",
        "  orders id-11 attempt 2, to be delivered again",
    ]


def test_the_report_is_bounded() -> None:
    """In topics, leases, characters."""
    many = {f"topic-{n}": [stored(m, b"x" * 500, properties={"p": "y" * 900}) for m in range(20)] for n in range(40)}
    text = report(Shelf(many, [pb.Lease(message_id=str(n)) for n in range(50)]))
    assert len(text) < TEXT_CHARS_MAX + 50
    assert text.endswith("characters more")
    few = report(Shelf(dict.fromkeys(many, ()), [pb.Lease(message_id=str(n)) for n in range(50)]))
    assert "... 20 topics more" in few
    assert few.endswith("... 30 more")


def test_the_report_of_a_server_that_is_gone_says_so() -> None:
    """It never raises: the test's own failure matters more."""
    assert report(Gone({})) == "the server cannot be asked: nothing listens there"
    assert report(Shelf({})) == "no topics"


def test_bodies_are_shown_in_one_line() -> None:
    """Text as text, the rest as bytes, the begin of what is long."""
    assert shown("a\nü".encode()) == "'a\\nü'"
    assert shown(b"\xff\x00") == "b'\\xff\\x00'"
    assert shown(b"x" * 1000).endswith("... (1000 bytes)")
