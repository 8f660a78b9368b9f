"""SQL92 filters in receive and peek: what is delivered, what is passed over, and how much a turn looks at."""

import asyncio
from collections.abc import Callable
from itertools import pairwise

import msgspec
import pytest

from rmq import browse
from rmq.adminport import Page, Start
from rmq.filter import Filter, by_sql, by_tag, reading_cost
from rmq.message import Outgoing
from rmq.port import ReceiveRequest
from rmq.scan import SCAN_MAX
from tests.rmq.conftest import MakeRig
from tests.rmq.rig import GROUP, TOPIC, Rig, bodies, outgoing, request

POLL_MS = 5000
READS_MAX = SCAN_MAX // (1 + reading_cost(1000))


def sql(expression: str) -> Filter:
    """Compiled."""
    return by_sql(expression, 100)


def asking(expression: str, *, group: str = GROUP, batch: int = 1, poll_ms: int = 0) -> ReceiveRequest:
    """A receive with a SQL92 filter."""
    return msgspec.structs.replace(request(group=group, batch=batch, poll_ms=poll_ms), filter=sql(expression))


def priced(price: int, **properties: str) -> Outgoing:
    """A message whose text and property are its price."""
    return outgoing(str(price), price=str(price), **properties)


def one_queue(rig: Rig) -> None:
    """The topic has one queue."""
    rig.broker.topics.make(TOPIC, rig.broker.message_type(TOPIC), 1)


def offset_of(rig: Rig, group: str = GROUP) -> int:
    """How far the group has got in the one queue."""
    return rig.broker._store.state.leases.subscription(group, TOPIC).ledgers[0].next


def turns(rig: Rig, done: Callable[[], bool], seen: Callable[[], int]) -> list[int]:
    """What `seen` says after each turn of the loop until it is done."""
    said = [seen()]
    while not done():
        rig.loop.call_soon(rig.loop.stop)
        rig.loop.run_forever()
        said.append(seen())
    return said


def test_only_messages_for_which_it_is_true_come(rig: Rig) -> None:
    """Unknown and incomparable are not true; what was passed over is so for good, as with tags."""
    rig.send(priced(3), priced(7), outgoing("none"), outgoing("text", price="dear"), priced(9, tag="red"))
    assert bodies(rig.receive(asking("price > 5", batch=9))) == ["7", "9"]
    assert rig.receive(request(batch=9)) == []


def test_tag_and_keys_are_properties_too(rig: Rig) -> None:
    """TAGS and KEYS, as Apache stores them."""
    rig.send(outgoing("1", tag="red", KEYS="k1 k2"), outgoing("2", tag="blue"), outgoing("3"))
    assert bodies(rig.receive(asking("TAGS = 'red' AND KEYS CONTAINS 'k2'", batch=9, group="one"))) == ["1"]
    assert bodies(rig.receive(asking("TAGS IS NULL", batch=9, group="two"))) == ["3"]


def test_a_message_that_comes_later_ends_the_poll(rig: Rig) -> None:
    """One that is not wanted does not."""
    waiting = rig.poll(asking("price > 5", poll_ms=POLL_MS))
    rig.send(priced(3))
    assert not waiting.done()
    rig.send(priced(7))
    assert bodies(waiting.result()) == ["7"]


def test_a_filter_that_changed_holds_for_what_comes_again_too(rig: Rig) -> None:
    """A message whose lease ended is passed over by a poll with another expression, for good."""
    rig.send(priced(3))
    held = rig.one(asking("price < 5"))
    rig.change(held.handle, 0)
    assert rig.receive(asking("price > 5")) == []
    assert rig.receive(request()) == []


def test_polls_of_unlike_filters_all_end_up_with_theirs(rig: Rig) -> None:
    """SQL92 and tags beside each other: what one leaves goes to the one that wants it."""
    one_queue(rig)
    cheap, dear = (rig.poll(asking(f"price {sign} 5", poll_ms=POLL_MS)) for sign in "<>")
    red = rig.poll(request(tag="red", poll_ms=POLL_MS))
    rig.send(priced(9), priced(5, tag="red"), priced(5), priced(1))
    rig.run_while(lambda: not (cheap.done() and dear.done() and red.done()))
    assert [bodies(poll.result()) for poll in (cheap, dear, red)] == [["1"], ["9"], ["5"]]


def test_a_selective_filter_gets_through_a_long_backlog_in_bounded_turns(rig: Rig) -> None:
    """A record read in vain counts as several entries; the poll goes on by itself to the one message at the end."""
    one_queue(rig)
    for _ in range(4):
        rig.send(*(priced(3) for _ in range(READS_MAX)))
    rig.send(priced(7))
    waiting = rig.broker.receive(asking("price > 5", poll_ms=POLL_MS))
    assert isinstance(waiting, asyncio.Future)
    offsets = turns(rig, waiting.done, lambda: offset_of(rig))
    assert 0 < max(later - earlier for earlier, later in pairwise(offsets)) <= READS_MAX
    assert bodies(waiting.result()) == ["7"]


def test_many_groups_with_a_backlog_share_a_turn(rig: Rig) -> None:
    """However many scan, a turn looks at SCAN_MAX entries and what the last take of it began with; all get theirs."""
    one_queue(rig)
    for _ in range(3):
        rig.send(*(priced(3) for _ in range(READS_MAX)))
    rig.send(priced(7))
    answers = [rig.broker.receive(asking("price > 5", group=f"g{n}", poll_ms=POLL_MS)) for n in range(20)]
    assert rig.broker._pop.looked <= 2 * SCAN_MAX, "all but the first wait for their turn"
    polls = [answer for answer in answers if isinstance(answer, asyncio.Future)]
    looked = turns(rig, lambda: all(poll.done() for poll in polls), lambda: rig.broker._pop.looked)
    assert max(later - earlier for earlier, later in pairwise(looked)) <= 2 * SCAN_MAX
    assert [bodies(poll.result()) for poll in polls] == [["7"]] * 20


def test_large_records_are_looked_at_in_smaller_numbers(rig: Rig) -> None:
    """Reading is what takes the time."""
    one_queue(rig)
    size = 1 << 20
    rig.send(*(outgoing("x" * size, price="3") for _ in range(9)))
    assert rig.receive(asking("price > 5")) == []
    assert offset_of(rig) == SCAN_MAX // (1 + reading_cost(size)) + 1


def test_what_comes_again_is_looked_at_in_bounded_numbers_too(rig: Rig) -> None:
    """Messages that are ready again and not wanted any more."""
    one_queue(rig)
    rig.send(*(priced(3) for _ in range(2 * READS_MAX)))
    while held := rig.receive(request(batch=32)):
        for message in held:
            rig.broker.change_invisible(GROUP, TOPIC, message.handle, 20_000, suspend=False)
    rig.advance(20_000)
    leases = rig.broker._store.state.leases
    assert leases.open_count == 2 * READS_MAX
    assert rig.receive(asking("price > 5")) == []
    assert leases.open_count == READS_MAX


def test_a_poll_that_waits_its_turn_loses_nothing_by_the_end(rig: Rig) -> None:
    """Server's end while scans go on: every poll is answered, with no message."""
    one_queue(rig)
    rig.send(*(priced(3) for _ in range(3 * READS_MAX)))
    polls = [rig.poll(asking("price > 5", group=f"g{n}", poll_ms=POLL_MS)) for n in range(3)]
    rig.broker.end_polls()
    assert [poll.result() for poll in polls] == [[], [], []]


@pytest.mark.parametrize(("wanted", "looked"), [(sql("price > 5"), 0), (by_tag("red"), 1)])
def test_a_peek_looks_at_a_bounded_number(make_rig: MakeRig, wanted: Filter, looked: int) -> None:
    """A page may be short, with more behind it; what has to be read counts as several."""
    rig = make_rig(topic_queues=1)
    for _ in range(browse.SCAN_MAX // 500 + 1):
        rig.send(*(outgoing("cheap", price="3") for _ in range(500)))
    rig.send(outgoing("dear", price="7", tag="red"))
    page = rig.broker.admin.peek(TOPIC, Start(), 10, wanted)
    expected = browse.SCAN_MAX if looked else -(-browse.SCAN_MAX // (1 + reading_cost(1000)))
    assert page == Page([], {0: expected})
    while not page.messages:
        page = rig.broker.admin.peek(TOPIC, Start(offsets=page.next), 10, wanted)
    assert [message.body for message in page.messages] == [b"dear"]
