"""Leases that the server renews while their push consumer lives."""

import pytest

from rmq.config import GroupSetting
from rmq.filter import ALL
from rmq.message import Delivered
from rmq.port import ReceiveRequest
from rmq.retry import RetryPolicy
from tests.rmq.conftest import MakeRig
from tests.rmq.rig import GROUP, TOPIC, Rig, bodies, request

MINUTE_MS = 60_000
TOTAL_MS = 10 * MINUTE_MS


def push(client_id: str = "pusher", group: str = GROUP) -> ReceiveRequest:
    """A push consumer's receive; its invisible duration has no say."""
    return request(group=group, client_id=client_id, auto_renew=True, invisible_ms=1)


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    """Renewal by the minute, for ten minutes; the group's back-off starts with 7 s."""
    return make_rig(renew_total_ms_max=TOTAL_MS, groups={GROUP: GroupSetting(17, (7_000, 9_000))})


def held_until(rig: Rig, limit_ms: int, step_ms: int = 500) -> tuple[int, Delivered | None]:
    """How long the message stays away, and how it then comes; None where it does not within the limit."""
    for passed_ms in range(step_ms, limit_ms + 1, step_ms):
        rig.advance(step_ms)
        if messages := rig.receive(request(group=GROUP)):
            return passed_ms, messages[0]
    return limit_ms, None


def test_a_lease_is_kept_while_its_client_lives_then_released_with_the_retry_delay(rig: Rig) -> None:
    """renew_total_ms_max after the receive the server gives up; the message comes after the group's back-off."""
    rig.send("a")
    rig.one(push())
    passed_ms, again = held_until(rig, 2 * TOTAL_MS)
    assert again is not None
    assert (passed_ms, again.attempt) == (TOTAL_MS + 7_000, 2)


def test_the_back_off_may_grow_with_each_delivery(make_rig: MakeRig) -> None:
    """Exponential: three times as long each time, up to its longest."""
    growing = RetryPolicy((), 2_000, 10_000, 3.0)
    rig = make_rig(renew_total_ms_max=TOTAL_MS, groups={GROUP: GroupSetting(17, backoff=growing)})
    rig.send("a")
    pauses = []
    for _ in range(4):
        rig.one(push())
        passed_ms, again = held_until(rig, 2 * TOTAL_MS)
        assert again is not None
        pauses.append(passed_ms - TOTAL_MS)
        rig.change(again.handle, 0, suspend=True)
    assert pauses == [2_000, 6_000, 10_000, 10_000]


def test_the_total_holds_though_it_is_no_multiple_of_the_renewal(make_rig: MakeRig) -> None:
    """The last renewal is a shorter one."""
    rig = make_rig(renew_total_ms_max=90_000, groups={GROUP: GroupSetting(17, (0,))})
    rig.send("a")
    rig.one(push())
    assert held_until(rig, TOTAL_MS)[0] == 90_000


def test_the_original_handle_acknowledges_after_renewals(rig: Rig) -> None:
    """Renewal keeps it valid; an ack may be repeated until the total is over."""
    rig.send("a")
    came = rig.one(push())
    rig.advance(5 * MINUTE_MS)
    assert rig.ack(came.handle) == [None]
    assert rig.ack(came.handle) == [None]
    assert held_until(rig, 2 * TOTAL_MS, MINUTE_MS)[1] is None


def test_a_client_that_goes_gives_its_messages_back_after_a_second(rig: Rig) -> None:
    """All of them; they were delivered, so the attempt counts."""
    rig.send("a")
    rig.one(push())
    rig.broker.offline(GROUP, "pusher")
    passed_ms, again = held_until(rig, TOTAL_MS)
    assert again is not None
    assert (passed_ms, again.attempt) == (1000, 2)


def test_an_ack_in_the_second_after_it_went_still_counts(rig: Rig) -> None:
    """The lease is not over yet."""
    rig.send("a")
    came = rig.one(push())
    rig.broker.offline(GROUP, "pusher")
    rig.advance(999)
    assert rig.ack(came.handle) == [None]
    assert held_until(rig, TOTAL_MS, MINUTE_MS)[1] is None


def test_only_the_client_that_goes_gives_back(rig: Rig) -> None:
    """Another client of the group, and the same client in another group, keep theirs."""
    rig.send(*"ab")
    rig.one(push("stays"))
    rig.one(push("goes"))
    elsewhere = rig.one(push("goes", "other"))
    rig.broker.offline(GROUP, "goes")
    rig.advance(MINUTE_MS)
    assert bodies(rig.receive(request(batch=9))) == ["b"]
    assert bodies(rig.receive(request(group="other", batch=9))) == ["b"]
    assert rig.ack(elsewhere.handle, group="other") == [None]


def test_a_client_can_go_twice_or_never_have_been_there(rig: Rig) -> None:
    """Nothing happens then, to nobody."""
    rig.send("a")
    rig.one(push())
    for client_id in ("stranger", "pusher", "pusher"):
        rig.broker.offline(GROUP, client_id)
    assert held_until(rig, TOTAL_MS)[0] == 1000


def test_a_client_that_comes_back_is_renewed_again(rig: Rig) -> None:
    """What it receives from then on; what it had given back stays given back."""
    rig.send("a")
    rig.one(push())
    rig.broker.offline(GROUP, "pusher")
    rig.broker.online(GROUP, "pusher", {TOPIC: ALL})
    rig.advance(1000)
    assert rig.one(push()).attempt == 2
    assert held_until(rig, 5 * MINUTE_MS, MINUTE_MS)[1] is None


def test_a_lease_of_a_client_that_went_while_it_polled_ends_unrenewed(rig: Rig) -> None:
    """Its poll was still in line and got the message: one auto_renew_ms, then it comes again."""
    waiting = rig.poll(ReceiveRequest(GROUP, TOPIC, "pusher", ALL, 1, 1, 5000, auto_renew=True))
    rig.broker.offline(GROUP, "pusher")
    rig.send("a")
    assert bodies(waiting.result()) == ["a"]
    assert held_until(rig, TOTAL_MS)[0] == MINUTE_MS


def test_a_changed_invisible_duration_ends_the_renewal(rig: Rig) -> None:
    """The client owns the interval from then on (a nack of a push consumer)."""
    rig.send("a")
    rig.change(rig.one(push()).handle, 5000)
    assert held_until(rig, TOTAL_MS)[0] == 5000


def test_a_simple_consumer_is_never_renewed(rig: Rig) -> None:
    """Though it is online in the same group."""
    rig.send("a")
    rig.broker.online(GROUP, "simple", {TOPIC: ALL})
    rig.one(request(client_id="simple"))
    assert held_until(rig, TOTAL_MS)[0] == 30_000
