"""The admin port over a real broker: reading messages page by page, by id and by key, and waiting for news."""

import asyncio

import pytest

from rmq.adminport import Page, Start
from rmq.browse import BODIES_BYTES_MAX, SCAN_MAX
from rmq.errors import Code
from rmq.filter import by_tag
from tests.rmq.admin_rig import (
    DLQ,
    RETRY,
    admin,
    bury_all,
    find,
    make,
    refused,
    replay,
    texts,
)
from tests.rmq.conftest import MakeRig
from tests.rmq.rig import TOPIC, Rig, outgoing, request

# -- peek and watch ----------------------------------------------------------------------------------------------------


def test_a_peek_reads_all_queues_in_the_order_of_sending(rig: Rig) -> None:
    """And takes nothing from anyone."""
    make(rig, queues=3)
    for name in "abcdefg":
        rig.send(name)
    page = admin(rig).peek(TOPIC, Start(), 100)
    assert "".join(texts(page)) == "abcdefg"
    assert page.next == {0: 3, 1: 2, 2: 2}
    assert admin(rig).peek(TOPIC, Start(offsets=page.next), 100) == Page([], page.next)
    assert len(rig.receive(request(batch=32))) == 7


@pytest.mark.parametrize("limit", [1, 2, 3, 50])
def test_pages_follow_each_other_without_a_gap(rig: Rig, limit: int) -> None:
    """In order over all of them, whatever their size, gone messages or not."""
    make(rig, queues=3)
    expected = [f"m{number}" for number in range(50)]
    for name in expected:
        rig.send(name)
    found: list[str] = []
    page = admin(rig).peek(TOPIC, Start(), limit)
    while page.messages:
        assert len(page.messages) <= limit
        found += texts(page)
        page = admin(rig).peek(TOPIC, Start(offsets=page.next), limit)
    assert found == expected


def test_a_peek_filters_and_looks_at_a_bounded_number(make_rig: MakeRig) -> None:
    """A page may be short, with more behind it."""
    rig = make_rig(topic_queues=1)
    for _ in range(SCAN_MAX // 500 + 1):
        rig.send(*[outgoing("x", tag="common")] * 500)
    rig.send(outgoing("needle", tag="rare"))
    page = admin(rig).peek(TOPIC, Start(), 10, by_tag("rare"))
    assert page == Page([], {0: SCAN_MAX})
    assert texts(admin(rig).peek(TOPIC, Start(offsets=page.next), 10, by_tag("rare || other"))) == ["needle"]


def test_a_page_ends_with_the_message_that_fills_it(make_rig: MakeRig) -> None:
    """At least one message, however large."""
    rig = make_rig(topic_queues=2, message_bytes_max=8 << 20)
    half = "x" * (BODIES_BYTES_MAX // 2)
    rig.send(half)
    rig.send(half)
    rig.send(half * 3)
    rig.send("small")
    first = admin(rig).peek(TOPIC, Start(), 10)
    assert len(first.messages) == 2
    second = admin(rig).peek(TOPIC, Start(offsets=first.next), 10)
    assert [len(one.body) for one in second.messages] == [3 * len(half)]
    assert texts(admin(rig).peek(TOPIC, Start(offsets=second.next), 10)) == ["small"]


def test_a_queue_that_is_not_named_is_not_read_unless_the_rest_is_wanted(rig: Rig) -> None:
    """What goes on from a page sees queues that were added since."""
    make(rig, queues=1)
    rig.send("a")
    end = admin(rig).peek(TOPIC, Start(end=True), 1).next
    rig.wait(admin(rig).put_topic(TOPIC, None, 2))
    for name in "bc":
        rig.send(name)
    assert sorted(texts(admin(rig).peek(TOPIC, Start(offsets=end, rest=True), 9))) == ["b", "c"]
    named = admin(rig).peek(TOPIC, Start(offsets=end), 9)
    assert (len(named.messages), list(named.next)) == (1, [0])


def test_who_watches_hears_of_the_next_message(rig: Rig) -> None:
    """Once; and who has left leaves nothing behind."""
    make(rig)
    first, second = admin(rig).watch(TOPIC), admin(rig).watch(TOPIC)
    second.cancel()
    rig.turn()
    rig.send("a")
    assert first.done()
    assert admin(rig)._browser._watchers == {}


# -- find --------------------------------------------------------------------------------------------------------------


def test_a_message_is_found_by_id_and_by_key(rig: Rig) -> None:
    """The newest first; an id is no key, nor the reverse."""
    make(rig)
    rig.send(outgoing("a", KEYS="red id-b"), outgoing("b", KEYS="red blue"), outgoing("c"))
    assert find(rig, message_id="id-b") == [(TOPIC, "b")]
    assert find(rig, key="red") == [(TOPIC, "b"), (TOPIC, "a")]
    assert find(rig, key="id-b") == [(TOPIC, "a")]
    assert find(rig, key="id-c") == []
    assert find(rig, message_id="red") == []
    assert texts(rig.wait(admin(rig).find(TOPIC, key="red", limit=1))) == ["b"]


def test_an_id_is_found_wherever_the_message_lives_on(rig: Rig) -> None:
    """In dead letters and retries of the topic's groups, by the topic's name or by their own."""
    make(rig)
    bury_all(rig, "a")
    assert find(rig, message_id="id-a") == [(DLQ, "a"), (TOPIC, "a")]
    assert find(rig, DLQ, message_id="id-a") == [(DLQ, "a")]
    replay(rig)
    assert find(rig, message_id="id-a") == [(RETRY, "a"), (DLQ, "a"), (TOPIC, "a")]
    assert find(rig, RETRY, message_id="id-a") == [(RETRY, "a")]


def test_a_dead_letter_of_another_topic_is_not_found(rig: Rig) -> None:
    """Although its group reads this one, too."""
    make(rig)
    bury_all(rig, "a")
    make(rig, topic="other")
    rig.receive(request(topic="other"))
    assert find(rig, "other", message_id="id-a") == []


def test_a_search_can_be_left_and_has_a_limit(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it the caller is told so."""
    make(rig)
    rig.send("a")
    monkeypatch.setattr("rmq_store.keyindex.SEARCHES_MAX", 1)
    search = admin(rig).find(TOPIC, key="a")
    assert refused(lambda: admin(rig).find(TOPIC, key="a"))[0] is Code.TOO_MANY_REQUESTS
    assert isinstance(search, asyncio.Future)
    search.cancel()
    rig.turn()
    assert find(rig, message_id="id-a") == [(TOPIC, "a")]


def test_an_index_that_cannot_be_used_is_told_in_one_line(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the server's fault."""
    make(rig)
    rig.send("a")

    def broken(position: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(rig.broker._store.keys, "_read_at", broken)
    code, text = refused(lambda: find(rig, message_id="id-a"))
    assert (code, "no space left" in text) == (Code.INTERNAL_SERVER_ERROR, True)


def test_a_stop_ends_a_search(make_rig: MakeRig) -> None:
    """It is cancelled."""
    rig = make_rig()
    make(rig)
    rig.send("a")
    search = admin(rig).find(TOPIC, key="a")
    rig.restart()
    assert isinstance(search, asyncio.Future)
    assert search.cancelled()
