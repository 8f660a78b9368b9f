"""Time under test: a day passes at once, and when the call returns all that was due in it has happened, in order."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from rmq import message as m
from rmq.adminport import Start
from rmq.config import GroupSetting, TopicSetting
from rmq.filter import by_sql
from rmq.message import MessageType
from tests.rmq.conftest import MakeRig
from tests.rmq.fifo import attempts, grouped
from tests.rmq.rig import GROUP, SMALL, TOPIC, Rig, bodies, outgoing, request

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    """A group whose messages have two attempts."""
    return make_rig(groups={GROUP: GroupSetting(2)}, topics={"ranks": TopicSetting(MessageType.PRIORITY, 4)})


def advance(rig: Rig, ms: int) -> None:
    """As the admin service and `rmq.testing` do; it has all happened when the answer is there."""
    before_ms = rig.clock.wall_ms()
    assert rig.wait(rig.broker.admin.advance(ms)) == before_ms + ms


def later(rig: Rig, name: str, delay_ms: int, **properties: str) -> None:
    """One delayed message."""
    rig.send(outgoing(name, **{m.TIMER_DELIVER_MS: str(rig.clock.wall_ms() + delay_ms), **properties}))


def test_delayed_messages_are_stored_in_the_order_of_their_times(rig: Rig) -> None:
    """Those of a later day are not."""
    for name, hours in (("c", 23), ("a", 1), ("d", 25), ("b", 2)):
        later(rig, name, hours * HOUR_MS)
    advance(rig, DAY_MS)
    page = rig.broker.admin.peek(TOPIC, Start(), 9)
    assert [kept.body for kept in sorted(page.messages, key=lambda one: one.position)] == [b"a", b"b", b"c"]
    advance(rig, DAY_MS)
    assert sorted(bodies(rig.receive(request(batch=9)))) == ["a", "b", "c", "d"]


def test_on_a_disk_the_answer_waits_until_what_came_due_can_be_received(make_rig: MakeRig, tmp_path: Path) -> None:
    """Safe by the flush profile; a receive right behind it finds it."""
    rig = make_rig(flush="durable", data=str(tmp_path / "data"), **SMALL)
    later(rig, "a", HOUR_MS)
    moved = rig.broker.admin.advance(DAY_MS)
    assert isinstance(moved, asyncio.Future)
    rig.loop.run_until_complete(moved)
    received = rig.broker.receive(request())
    assert not isinstance(received, asyncio.Future)
    assert bodies(received) == ["a"]


def test_a_poll_with_a_filter_stays_and_gets_what_it_waits_for(rig: Rig) -> None:
    """It waits in real time, of which none has passed; SQL92 sees the message as it was sent."""
    wanted = msgspec.structs.replace(request(poll_ms=600_000, batch=9), filter=by_sql("price > 5", 100))
    later(rig, "cheap", HOUR_MS, price="3")
    later(rig, "dear", 2 * HOUR_MS, price="7")
    waiting = rig.poll(wanted)
    advance(rig, HOUR_MS)
    assert not waiting.done()
    advance(rig, DAY_MS)
    assert bodies(rig.until(waiting)) == ["dear"]


def test_a_message_group_goes_on_where_it_was(rig: Rig) -> None:
    """Its first message again before its second, though that one waited all day."""
    rig.send(*grouped("a1", "a2", "b1"))
    first = rig.receive(request(batch=9))
    assert bodies(first) == ["a1", "b1"]
    rig.ack(first[1].handle)
    advance(rig, DAY_MS)
    assert attempts(rig.receive(request(batch=9, fifo=True))) == [("a1", 2), ("a2", 1)]


def test_leases_run_out_and_attempts_are_used_up(rig: Rig) -> None:
    """Ready again after the first day, a dead letter after the second; what is acknowledged is not."""
    rig.send("a", "b")
    assert len(rig.receive(request(batch=9))) == 2
    advance(rig, DAY_MS)
    again = rig.receive(request(batch=9))
    assert attempts(again) == [("a", 2), ("b", 2)]
    rig.ack(again[1].handle)
    advance(rig, DAY_MS)
    assert bodies(rig.receive(request(f"%DLQ%{GROUP}", "auditor", batch=9))) == ["a"]
    assert rig.receive(request(batch=9)) == []


def test_more_leases_than_a_turn_ends_end_before_the_call_returns(rig: Rig) -> None:
    """However many; and the higher priorities come first again."""
    rig.send(
        *(outgoing(f"{n % 4}", topic="ranks", **{m.PRIORITY: str(n % 4), m.UNIQ_KEY: str(n)}) for n in range(1200))
    )
    while rig.receive(request("ranks")):
        pass
    advance(rig, DAY_MS)
    (found,) = rig.broker.admin.group_info(GROUP).topics
    assert (found.topic, found.ready, found.leased) == ("ranks", 1200, 0)
    assert bodies(rig.receive(request("ranks", batch=32))) == ["3"] * 32
