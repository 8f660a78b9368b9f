"""Exclusive groups: the last client that asks for a lite topic has it alone; places that go back to the beginning."""

import pytest

from rmq.config import GroupFlags, GroupSetting
from rmq.errors import ClientError, Code
from rmq.port import LiteStart
from rmq_store.journal import Change
from rmq_store.store import Store
from tests.rmq.conftest import MakeRig
from tests.rmq.lite import WAYS, Told, again, drain, receive, send, sync, take
from tests.rmq.rig import GROUP, INVISIBLE_MS, Rig, bodies, request


def put(rig: Rig, **flags: bool) -> None:
    """The group is so from now on."""
    rig.wait(rig.broker.admin.put_group(GROUP, 0, None, GroupFlags(**flags)))


def listening(rig: Rig) -> list[tuple[str, str]]:
    """Who is told from now on that a subscription of which lite topic has ended."""
    told = Told()
    rig.broker.asks(told)
    return told.ended


@pytest.fixture
def exclusive(disk_rig: Rig) -> Rig:
    """The group is, and a client subscribes lite topics `a` and `b`."""
    put(disk_rig, lite_exclusive=True)
    sync(disk_rig, "a", "b")
    return disk_rig


def test_the_last_client_that_subscribes_a_lite_topic_has_it(exclusive: Rig) -> None:
    """The one before is told, and gets nothing more of it, but of its others; and may take it back."""
    told = listening(exclusive)
    sync(exclusive, "a", client="second")
    assert told == [("client", "a")]
    send(exclusive, "a1", "b1")
    assert (take(exclusive), take(exclusive, client="second")) == (["b1"], ["a1"])
    sync(exclusive, "a")
    assert told[1:] == [("second", "a")]
    exclusive.advance(INVISIBLE_MS)
    assert (take(exclusive), take(exclusive, client="second")) == (["a1", "b1"], [])


def test_who_has_it_already_takes_nothing_over(exclusive: Rig) -> None:
    """Nobody is told anything, nor is a client of another group."""
    told = listening(exclusive)
    sync(exclusive, "a")
    sync(exclusive, "a", group="audit", client="auditor")
    send(exclusive, "a1")
    assert (take(exclusive), take(exclusive, group="audit", client="auditor")) == (["a1"], ["a1"])
    assert told == []


def test_a_taken_over_lease_goes_on(exclusive: Rig) -> None:
    """The next message comes to the new client when the one before is settled by whoever has it."""
    send(exclusive, "a1", "a2")
    (first,) = receive(exclusive)
    sync(exclusive, "a", client="second")
    polling = exclusive.poll(request(lite=True, poll_ms=20_000, client_id="second"))
    assert not polling.done()
    assert exclusive.ack(first.handle) == [None]
    assert bodies(exclusive.until(polling)) == ["a2"]


def test_what_the_client_before_did_not_settle_comes_to_the_new_one(exclusive: Rig) -> None:
    """After its time, in order, with an attempt more; handles of the one before are worth nothing then."""
    send(exclusive, "a1", "a2")
    (first,) = receive(exclusive)
    sync(exclusive, "a", client="second")
    assert take(exclusive, client="second") == []
    exclusive.advance(INVISIBLE_MS)
    (found,) = receive(exclusive, client="second")
    assert (found.body, found.attempt) == (b"a1", 2)
    (refused,) = exclusive.ack(first.handle)
    assert isinstance(refused, ClientError)
    exclusive.ack(found.handle)
    assert drain(exclusive, client="second") == ["a2"]


def test_a_poll_of_the_client_before_gets_nothing_of_it(exclusive: Rig) -> None:
    """It waits for what it still subscribes."""
    polling = exclusive.poll(request(lite=True, poll_ms=20_000))
    sync(exclusive, "a", client="second")
    send(exclusive, "a1")
    assert take(exclusive, client="second") == ["a1"]
    assert not polling.done()
    send(exclusive, "b1")
    assert bodies(exclusive.until(polling)) == ["b1"]


def test_a_whole_set_takes_nothing_over(exclusive: Rig) -> None:
    """A client that did not hear its notice is told again; what else it wants, and what nobody has, it gets."""
    sync(exclusive, "a", client="second")
    told = listening(exclusive)
    sync(exclusive, "a", "b", "c", action="replace")
    assert told == [("client", "a")]
    send(exclusive, "a1", "b1", "c1")
    assert (take(exclusive), take(exclusive, client="second")) == (["b1", "c1"], ["a1"])
    exclusive.broker.offline(GROUP, "second")
    sync(exclusive, "a", "b", "c", action="replace")
    assert len(told) == 1
    exclusive.advance(INVISIBLE_MS)
    assert "a1" in take(exclusive)


def test_what_a_client_may_not_have_counts_to_no_limit(make_rig: MakeRig) -> None:
    """Neither of its own, nor of lite topics."""
    rig = make_rig(lite_subscriptions_max=2, lite_topics_max=3)
    put(rig, lite_exclusive=True)
    sync(rig, "a", "b", client="second")
    sync(rig, "c")
    sync(rig, "a", "c", action="replace")
    with pytest.raises(ClientError) as caught:
        sync(rig, "a", "b")
    assert caught.value.code is Code.LITE_SUBSCRIPTION_QUOTA_EXCEEDED
    send(rig, "a1", "b1", "c1")
    assert (take(rig), take(rig, client="second")) == (["c1"], ["a1", "b1"])


@WAYS
def test_who_has_a_lite_topic_outlives_the_server(exclusive: Rig, way: str) -> None:
    """And that the group is exclusive: nobody who had it before gets anything of it."""
    send(exclusive, "a1", "a2")
    (first,) = receive(exclusive)
    sync(exclusive, "a", client="second")
    again(exclusive, way)
    told = listening(exclusive)
    assert (take(exclusive), take(exclusive, client="second")) == ([], [])
    assert exclusive.ack(first.handle) == [None]
    assert (take(exclusive), take(exclusive, client="second")) == ([], ["a2"])
    sync(exclusive, "a", "b", action="replace")
    sync(exclusive, "a", client="third")
    assert told == [("client", "a"), ("second", "a")]


def test_a_group_that_becomes_exclusive(rig: Rig) -> None:
    """What its clients share they share until one of them subscribes it by name: the others lose it."""
    sync(rig, "a")
    sync(rig, "a", client="second")
    sync(rig, "a", client="third")
    put(rig, lite_exclusive=True)
    told = listening(rig)
    sync(rig, "a", action="replace")
    assert told == []
    sync(rig, "a", client="second")
    assert told == [("client", "a"), ("third", "a")]
    put(rig, lite_exclusive=False)
    sync(rig, "a")
    assert len(told) == 2
    send(rig, "a1")
    assert take(rig) == ["a1"]


def test_the_configuration_makes_a_group_exclusive(disk_rig: Rig) -> None:
    """And where it says nothing of that, the group stays as it is."""
    for flags in (GroupFlags(lite_exclusive=True), GroupFlags()):
        disk_rig.restart(groups={GROUP: GroupSetting(17, flags=flags)})
        info = disk_rig.broker.admin.group_info(GROUP)
        assert info.flags == GroupFlags(
            orderly=False, lite_exclusive=True, lite_reset_on_takeover=False, lite_reset_on_unsubscribe=False
        )


def test_a_takeover_may_read_all_again(exclusive: Rig) -> None:
    """From the beginning, what was open is done; unless the client says where from."""
    put(exclusive, lite_reset_on_takeover=True)
    send(exclusive, "a1", "a2", "a3")
    (first,) = receive(exclusive)
    exclusive.ack(first.handle)
    (second,) = receive(exclusive)
    sync(exclusive, "a", client="second")
    assert drain(exclusive, client="second") == ["a1", "a2", "a3"]
    assert exclusive.ack(second.handle) == [None]
    sync(exclusive, "a", start=LiteStart("tail", 1))
    assert drain(exclusive) == ["a3"]
    sync(exclusive, "a")
    sync(exclusive, "c")
    assert take(exclusive) == []


def test_an_unsubscription_may_go_back_to_the_beginning(rig: Rig) -> None:
    """One by name; who subscribes it still reads all again, too. A whole set without it moves nothing."""
    put(rig, lite_reset_on_unsubscribe=True)
    sync(rig, "a", "b")
    sync(rig, "a", client="second")
    send(rig, "a1", "b1")
    assert drain(rig) == ["a1", "b1"]
    polling = rig.poll(request(lite=True, poll_ms=20_000, client_id="second"))
    sync(rig, "a", "x", action="remove")
    assert bodies(rig.until(polling)) == ["a1"]
    sync(rig, action="replace")
    sync(rig, "b")
    assert take(rig) == []


def test_what_is_taken_over_is_nobodys_before_it_is_the_new_ones(
    exclusive: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a crash leaves of the call, no two clients of the group have it."""
    apply, held = Store.apply, list[int]()

    def look(store: Store, change: Change) -> None:
        apply(store, change)
        ((group,),) = [list(groups.values()) for groups in store.state.lites.groups.values()]
        held.append(max(len(place.clients) for place in group.places.values()))

    monkeypatch.setattr(Store, "apply", look)
    sync(exclusive, "a", client="second")
    assert held
    assert max(held) == 1
