"""Peek: pages, where they begin and end, and waiting for a first message without leaving anything behind."""

import asyncio

import pytest

from rmq.adminport import Page, Start
from rmq.filter import ALL, by_sql, by_tag
from rmq_proto import admin as pb
from rmq_proxy import adminwait
from rmq_proxy.admin import PAGE_BYTES_MAX
from rmq_proxy.rpc import GrpcCode
from tests.proxy.admin_rig import NO_TOPIC, FakeAdmin, Run, an_admin, ids, kept
from tests.proxy.rig import NOW_MS, TOPIC
from tests.proxy.transports import Maker, status_of


def test_peek(make: Maker, run: Run) -> None:
    """Messages of several queues in the order in which they were stored, with all that is known of them."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            tagged = kept(
                0, 1, b"\x1f\x8b", TAGS="red", KEYS="k1 k2", colour="blue", __SHARDINGKEY="g", __BORNHOST="pc"
            )
            tagged.sys_flag = 1
            admin.port.arrive(kept(0), kept(1), tagged)
            page = await admin.peek()
            assert ids(page) == ["id-0-0", "id-1-0", "id-0-1"]
            assert dict(page.next) == {0: 2, 1: 1}
            message = page.messages[1]
            assert (message.tag, list(message.keys), dict(message.properties)) == (
                "red",
                ["k1", "k2"],
                {"colour": "blue"},
            )
            assert dict(message.system) == {"__SHARDINGKEY": "g", "__BORNHOST": "pc"}
            assert (message.born_host, message.compressed, message.body) == ("pc", True, b"\x1f\x8b")
            plain = page.messages[0]
            assert (plain.queue_id, plain.offset, plain.born_host, plain.compressed) == (0, 0, "10.0.0.9", False)
            assert (plain.born_ms, plain.stored_ms) == (NOW_MS - 20, NOW_MS - 10)

    run(scenario())


def test_where_a_peek_begins(make: Maker, run: Run) -> None:
    """At the begin, at the end, at a time, or at offsets by queue; limit and filter go along."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            await admin.peek(from_begin=True)
            await admin.peek(from_end=True, limit=1000)
            await admin.peek(from_ms=77, filter="a || b", limit=1)
            await admin.peek(offsets={1: 5})
            assert admin.port.of("peek") == [
                (TOPIC, Start(), 32, ALL),
                (TOPIC, Start(end=True), 1000, ALL),
                (TOPIC, Start(time_ms=77), 1, by_tag("a || b")),
                (TOPIC, Start(offsets={1: 5}), 32, ALL),
            ]

    run(scenario())


def test_a_peek_by_sql(make: Maker, run: Run) -> None:
    """Instead of tags; a bad one, and both at once, are refused."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            admin.port.arrive(kept(0, colour="red"), kept(1, colour="blue"))
            assert ids(await admin.peek(sql="colour = 'blue'")) == ["id-0-1"]
            assert admin.port.of("peek") == [(TOPIC, Start(), 32, by_sql("colour = 'blue'", 9))]
            code, text = await status_of(admin.peek(sql="a ="))
            assert (GrpcCode(code).name, "character 4 of 3" in text) == ("INVALID_ARGUMENT", True)
            code, text = await status_of(admin.peek(sql="a = 1", filter="b"))
            assert (GrpcCode(code).name, "one of the two" in text) == ("INVALID_ARGUMENT", True)

    run(scenario())


def test_going_on_from_next(make: Maker, run: Run) -> None:
    """Page after page, every message comes once."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            admin.port.arrive(*(kept(at, queue) for queue in (0, 1) for at in range(5)))
            seen, page = list[str](), await admin.peek(limit=3)
            while page.messages:
                seen += ids(page)
                page = await admin.peek(offsets=page.next, limit=3)
            assert len(seen) == len(set(seen)) == 10

    run(scenario())


def test_a_page_ends_before_it_is_too_large(make: Maker, run: Run) -> None:
    """Bodies of 1 MiB: two a page, and no message is lost; one that is larger than a page comes alone."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            sizes = (1 << 20, 1 << 20, 1 << 20, 1 << 20, PAGE_BYTES_MAX + 1, 5)
            admin.port.arrive(*(kept(at, at % 2, b"x" * size) for at, size in enumerate(sizes)))
            pages, following = list[list[int]](), {0: 0, 1: 0}
            admin.port.queues = [  # offsets count from 0 in each queue
                [kept(i, queue, m.body) for i, m in enumerate(admin.port.queues[queue])] for queue in (0, 1)
            ]
            while (page := await admin.peek(offsets=following)).messages:
                pages.append([len(message.body) for message in page.messages])
                following = dict(page.next)
            assert sorted(size for sizes_ in pages for size in sizes_) == sorted(sizes)
            assert all(len(sizes_) == 1 or sum(sizes_) < PAGE_BYTES_MAX for sizes_ in pages)
            assert [PAGE_BYTES_MAX + 1] in pages

    run(scenario())


def test_a_peek_that_need_not_wait(make: Maker, run: Run) -> None:
    """Messages are there: the answer comes at once, and nothing is watched."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            admin.port.arrive(kept(0))
            assert ids(await admin.peek(wait_ms=20_000)) == ["id-0-0"]
            assert not admin.port.of("watch")

    run(scenario())


def test_a_peek_waits_for_a_message(make: Maker, run: Run) -> None:
    """From the end: the answer is what arrives, and the watcher is gone."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            admin.port.arrive(kept(0))
            waiting = admin.waiting(from_end=True)
            await admin.watching()
            admin.port.arrive(kept(0, 1))
            page = await waiting
            assert (ids(page), dict(page.next)) == (["id-1-0"], {0: 1, 1: 1})
            assert not admin.port.watchers

    run(scenario())


def test_a_waiting_peek_goes_on_over_what_it_does_not_want(make: Maker, run: Run) -> None:
    """What the filter leaves out does not end the wait, and a look that did not reach the end is followed by others."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            admin.port.scan_max = 2
            admin.port.arrive(*(kept(at, TAGS="blue") for at in range(7)))
            waiting = admin.waiting(filter="red")
            await admin.watching()
            admin.port.arrive(kept(7, TAGS="blue"))
            await admin.port.until(lambda: len(admin.port.of("watch")) == 2)
            admin.port.arrive(*(kept(at, TAGS="blue") for at in range(8, 12)), kept(12, TAGS="red"))
            page = await waiting
            assert (ids(page), page.next[0]) == (["id-0-12"], 13)

    run(scenario())


def test_a_wait_ends(make: Maker, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its time, or just before the call's deadline: no messages, and where to go on."""
    monkeypatch.setattr(adminwait, "RESERVE_S", 29.8)

    async def scenario() -> None:
        async with an_admin(make) as admin:
            admin.port.arrive(kept(0, TAGS="blue"))
            page = await admin.peek(filter="red", wait_ms=1)
            assert (ids(page), dict(page.next)) == ([], {0: 1, 1: 0})
            request = pb.PeekRequest(topic=TOPIC, filter="red", wait_ms=20_000)
            page = await admin.ask("Peek", request, pb.PeekResponse.FromString, timeout_s=30)
            assert (ids(page), page.next[0]) == ([], 1)
            assert not admin.port.watchers

    run(scenario())


def test_a_wait_is_bounded(make: Maker, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a client wants to wait, the server's own limit ends it."""
    monkeypatch.setattr(adminwait, "WAIT_MS_MAX", 1)

    async def scenario() -> None:
        async with an_admin(make) as admin:
            assert ids(await admin.peek(wait_ms=2**60)) == []

    run(scenario())


def test_a_client_that_goes_leaves_no_watcher(make: Maker, run: Run) -> None:
    """Its call is cancelled: nobody waits for the topic any more."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            waiting = admin.waiting()
            await admin.watching()
            waiting.cancel()
            await admin.port.until(lambda: not admin.port.watchers)
            ends = await admin.server.gate.ends()
            assert ends[-1][1] is GrpcCode.CANCELLED

    run(scenario())


def test_a_client_that_goes_in_the_middle_of_a_long_look(run: Run) -> None:
    """A wait that has more to look at stops looking."""

    async def scenario() -> None:
        fake = FakeAdmin()
        fake.scan_max = 1
        fake.arrive(*(kept(at, TAGS="blue") for at in range(9)))
        answer = adminwait.Waits(fake).add(TOPIC, by_tag("red"), 32, Page([], {0: 0, 1: 0}), None, 20_000)
        answer.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
        assert (len(fake.of("peek")), fake.watchers) == (1, set())

    run(scenario())


def test_waits_are_counted(make: Maker, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit a Peek that would wait is RESOURCE_EXHAUSTED, until another has ended."""
    monkeypatch.setattr(adminwait, "WAITS_MAX", 1)

    async def scenario() -> None:
        async with an_admin(make) as admin:
            waiting = admin.waiting()
            await admin.watching()
            code, text = await admin.refused("Peek", pb.PeekRequest(topic=TOPIC, wait_ms=1))
            assert (code, "without wait_ms" in text) == ("RESOURCE_EXHAUSTED", True)
            admin.port.arrive(kept(0))
            await waiting
            assert ids(await admin.peek(wait_ms=1, from_end=True)) == []

    run(scenario())


def test_a_topic_that_goes_ends_the_wait(make: Maker, run: Run) -> None:
    """The wait hears of it in the broker's own words: when it looks, or from the watcher itself."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            for how in ("look", "watcher"):
                waiting = admin.waiting()
                await admin.watching()
                (watcher,) = admin.port.watchers
                if how == "look":
                    admin.port.answers["peek"] = NO_TOPIC
                    watcher.set_result(None)
                else:
                    watcher.set_exception(NO_TOPIC)
                code, text = await status_of(waiting)
                assert (code, text) == (GrpcCode.NOT_FOUND, NO_TOPIC.text)
                admin.port.answers.clear()
            waiting = admin.waiting()
            await admin.watching()
            for watcher in tuple(admin.port.watchers):
                watcher.cancel()
            assert ids(await waiting) == []

    run(scenario())


def test_shutdown_ends_all_waits(make: Maker, run: Run) -> None:
    """They are answered with no message, and none waits any more."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            waiting = admin.waiting()
            await admin.watching()
            admin.rig.service.end_waits()
            assert ids(await waiting) == []
            assert ids(await admin.peek(wait_ms=20_000)) == []
            assert not admin.port.watchers

    run(scenario())
