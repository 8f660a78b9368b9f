"""A delivered message: acknowledged, returned, expired; which handles count."""

import pytest

from rmq.clock import ManualClock, SystemClock
from rmq.errors import ClientError, Code
from rmq.handle import Handle, HandleMaker
from rmq.message import UNIQ_KEY, Delivered
from tests.rmq.conftest import MakeRig
from tests.rmq.rig import GROUP, INVISIBLE_MS, TOPIC, Rig, bodies, request


@pytest.fixture
def held(rig: Rig) -> Delivered:
    """One message, delivered."""
    rig.send("a")
    return rig.one()


def code_of(rig: Rig, handle: str, *, topic: str = TOPIC, group: str = GROUP) -> Code | None:
    """What an ack answers, None for OK."""
    (outcome,) = rig.ack(handle, topic=topic, group=group)
    return outcome.code if outcome else None


# -- expiry --------------------------------------------------------------------------------------------------------


def test_a_message_comes_again_when_its_time_is_over_not_before(rig: Rig, held: Delivered) -> None:
    """Exactly at the end of its invisible duration: same id, same place, attempt + 1, another handle."""
    rig.advance(INVISIBLE_MS - 1)
    assert rig.receive() == []
    rig.advance(1)
    again = rig.one()
    assert again.properties == held.properties
    assert (again.queue_id, again.queue_offset, again.body) == (held.queue_id, held.queue_offset, held.body)
    assert (held.attempt, again.attempt, again.handle == held.handle) == (1, 2, False)


def test_attempts_count_up(rig: Rig, held: Delivered) -> None:
    """Each expiry is one."""
    attempts = [held.attempt]
    for _ in range(3):
        rig.advance(INVISIBLE_MS)
        attempts.append(rig.one().attempt)
    assert attempts == [1, 2, 3, 4]


def test_each_message_of_a_batch_lives_on_its_own(rig: Rig) -> None:
    """Acknowledged, extended and left alone: only the last one comes again with the batch's end."""
    rig.send(*"abc")
    acked, extended, _ = rig.receive(request(batch=3))
    rig.ack(acked.handle)
    rig.change(extended.handle, 2 * INVISIBLE_MS)
    rig.advance(INVISIBLE_MS)
    assert bodies(rig.receive(request(batch=3))) == ["c"]


def test_groups_do_not_see_each_others_leases(rig: Rig, held: Delivered) -> None:
    """What one group acknowledged is still there for another."""
    rig.ack(held.handle)
    assert bodies(rig.receive(request(group="other"))) == ["a"]


def test_more_leases_than_a_turn_ends_all_end(rig: Rig) -> None:
    """A turn ends a bounded number, the next turns the rest, with nobody asking for it."""
    rig.send(*map(str, range(1200)))
    for _ in range(1200):
        rig.receive()
    rig.advance(INVISIBLE_MS)
    ready = rig.broker._store.state.leases.subscription(GROUP, TOPIC).ready
    rig.run_while(lambda: len(ready) < 1200)
    assert sum(len(rig.receive(request(batch=32))) for _ in range(38)) == 1200


def test_a_message_comes_within_50_ms_of_its_expiry_on_the_real_clock(make_rig: MakeRig) -> None:
    """The agenda's own timer does it. The median of five, because the machine may be busy."""
    rig = make_rig(SystemClock())
    clock = SystemClock()
    rig.send("a")
    rig.one(request(invisible_ms=60))
    late_s: list[float] = []
    for _ in range(5):
        started_s = clock.monotonic_s()
        assert bodies(rig.until(rig.poll(request(poll_ms=5000, invisible_ms=60)))) == ["a"]
        late_s.append(clock.monotonic_s() - started_s - 0.060)
    assert -0.010 <= sorted(late_s)[2] <= 0.050


# -- ack -----------------------------------------------------------------------------------------------------------


def test_an_acknowledged_message_never_comes_again(rig: Rig, held: Delivered) -> None:
    """However long one waits."""
    assert code_of(rig, held.handle) is None
    rig.advance(100 * INVISIBLE_MS)
    assert rig.receive() == []


def test_an_ack_can_be_repeated(rig: Rig, held: Delivered) -> None:
    """OK again, in one call or two, until the lease would have ended; then its handle means nothing any more."""
    assert rig.ack(held.handle, held.handle) == [None, None]
    rig.advance(INVISIBLE_MS - 1)
    assert code_of(rig, held.handle) is None
    rig.advance(1)
    assert code_of(rig, held.handle) is Code.INVALID_RECEIPT_HANDLE


def test_each_handle_has_its_own_outcome(rig: Rig) -> None:
    """In the order of the request: a bad one does not spoil the others."""
    rig.send(*"ab")
    first, second = rig.receive(request(batch=2))
    outcomes = rig.ack(first.handle, "garbage", second.handle)
    assert [outcome.code if outcome else None for outcome in outcomes] == [None, Code.INVALID_RECEIPT_HANDLE, None]


def test_a_handle_is_dead_once_its_lease_ended(rig: Rig, held: Delivered) -> None:
    """Whether the message waits, was delivered again or was acknowledged since: the new delivery is not touched."""
    rig.advance(INVISIBLE_MS)
    assert code_of(rig, held.handle) is Code.INVALID_RECEIPT_HANDLE
    again = rig.one()
    assert code_of(rig, held.handle) is Code.INVALID_RECEIPT_HANDLE
    assert code_of(rig, again.handle) is None
    assert code_of(rig, held.handle) is Code.INVALID_RECEIPT_HANDLE


@pytest.mark.parametrize("text", ["", "x", "=" * 44, "ü", "A" * 44, "A" * 49, "\x00", "A" * 100_000])
def test_garbage_is_no_handle(rig: Rig, held: Delivered, text: str) -> None:
    """Every verb answers INVALID_RECEIPT_HANDLE and leaves the delivery alone."""
    assert code_of(rig, text) is Code.INVALID_RECEIPT_HANDLE
    for verb in (lambda: rig.change(text, 0), lambda: rig.bury(text)):
        with pytest.raises(ClientError) as caught:
            verb()
        assert caught.value.code is Code.INVALID_RECEIPT_HANDLE
    assert code_of(rig, held.handle) is None


@pytest.mark.parametrize(("topic", "group"), [("other", GROUP), (TOPIC, "other"), ("nowhere", "nobody")])
def test_a_handle_is_valid_for_its_group_and_topic_only(rig: Rig, held: Delivered, topic: str, group: str) -> None:
    """Although the other group holds the same message, or nothing at all. No name that is made up costs memory."""
    rig.receive(request(group="other"))
    assert code_of(rig, held.handle, topic=topic, group=group) is Code.INVALID_RECEIPT_HANDLE
    assert ("nobody", "nowhere") not in rig.broker._pop._makers._makers
    assert code_of(rig, held.handle) is None


def test_a_handle_with_one_character_changed_is_no_handle(rig: Rig, held: Delivered) -> None:
    """Wherever it is."""
    for place, character in enumerate(held.handle):
        changed = held.handle[:place] + ("A" if character != "A" else "B") + held.handle[place + 1 :]
        assert code_of(rig, changed) is Code.INVALID_RECEIPT_HANDLE


def test_a_well_made_handle_of_what_was_never_delivered_is_no_handle(rig: Rig, held: Delivered) -> None:
    """Made with the right checksum: the lease table decides."""
    maker = HandleMaker(GROUP, TOPIC)
    for queue_id, offset, sequence in ((0, 0, 1), (0, 5, 1), (77, 0, 1), (2**32 - 1, 2**64 - 1, 2**64 - 1)):
        text = maker.text(Handle(queue_id, offset, sequence, 2**63))
        assert code_of(rig, text) is Code.INVALID_RECEIPT_HANDLE
    assert code_of(rig, held.handle) is None


def test_a_handle_carries_its_fields() -> None:
    """Made and read again, to the largest numbers."""
    maker = HandleMaker(GROUP, TOPIC)
    for handle in (Handle(0, 0, 0, 0), Handle(2**32 - 1, 2**64 - 1, 2**64 - 1, 2**64 - 1, suspended=True)):
        assert maker.parse(maker.text(handle)) == handle


# -- change of the invisible duration ------------------------------------------------------------------------------


def test_a_change_counts_from_now_under_a_new_handle(rig: Rig, held: Delivered) -> None:
    """Later or earlier than before; the old handle is dead, the new one acknowledges."""
    rig.advance(20_000)
    changed = rig.change(held.handle, 40_000)
    assert code_of(rig, held.handle) is Code.INVALID_RECEIPT_HANDLE
    rig.advance(39_999)
    assert rig.receive() == []
    changed = rig.change(changed, 5_000)
    rig.advance(4_999)
    assert code_of(rig, changed) is None
    rig.advance(60_000)
    assert rig.receive() == []


def test_after_a_change_the_message_comes_with_the_next_attempt(rig: Rig, held: Delivered) -> None:
    """At its new time."""
    rig.change(held.handle, 5_000)
    rig.advance(5_000)
    assert rig.one().attempt == 2


def test_a_change_to_0_returns_the_message_at_once(rig: Rig, held: Delivered) -> None:
    """Without a tick of the clock; the handle that it answers is dead."""
    changed = rig.change(held.handle, 0)
    assert code_of(rig, changed) is Code.INVALID_RECEIPT_HANDLE
    assert rig.one().attempt == 2


def test_a_suspended_delivery_does_not_count(rig: Rig, held: Delivered) -> None:
    """The next one has the same attempt; also many times over."""
    handle = held.handle
    for _ in range(20):
        rig.change(handle, 1000, suspend=True)
        rig.advance(1000)
        again = rig.one()
        assert again.attempt == 1
        handle = again.handle
    rig.change(handle, 0)
    assert rig.one().attempt == 2


def test_a_delivery_is_suspended_once(rig: Rig, held: Delivered) -> None:
    """Suspended again, or changed otherwise, it takes nothing off the deliveries before it."""
    rig.change(held.handle, 0)
    handle = rig.one().handle
    for suspend in (True, True, False, True):
        handle = rig.change(handle, 1000, suspend=suspend)
    rig.advance(1000)
    assert rig.one().attempt == 2


@pytest.mark.parametrize("verb", ["change", "bury"])
def test_a_settled_message_cannot_be_changed(rig: Rig, held: Delivered, verb: str) -> None:
    """Only an ack may be repeated."""
    rig.ack(held.handle)
    with pytest.raises(ClientError) as caught:
        rig.change(held.handle, 0) if verb == "change" else rig.bury(held.handle)
    assert caught.value.code is Code.INVALID_RECEIPT_HANDLE


# -- robustness ----------------------------------------------------------------------------------------------------


def test_a_read_that_fails_loses_nothing(rig: Rig, held: Delivered, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file descriptor left, say: the receive fails, a poll fails, and the messages come once it works again."""
    rig.send(*"bc")
    rig.receive(request(batch=2))
    rig.advance(INVISIBLE_MS)
    whole = rig.broker._store.read
    calls = 0

    def fails_at_the_third(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OSError("too many open files")
        return whole(*arguments)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(rig.broker._store, "read", fails_at_the_third)
    with pytest.raises(OSError, match="open files"):
        rig.receive(request(batch=9))
    assert sorted(bodies(rig.receive(request(batch=9)))) == ["a", "b", "c"]
    assert held.properties[UNIQ_KEY] == "id-a"


def test_a_poll_whose_read_fails_hears_of_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It alone: the poll behind it gets the message."""
    first, second = (rig.poll(request(poll_ms=5000)) for _ in range(2))
    whole = rig.broker._store.read

    def fails_once(*_: object) -> object:
        monkeypatch.setattr(rig.broker._store, "read", whole)
        raise OSError("too many open files")

    monkeypatch.setattr(rig.broker._store, "read", fails_once)
    rig.send("a")
    assert isinstance(first.exception(), OSError)
    assert bodies(second.result()) == ["a"]


def test_moving_a_manual_clock_moves_the_agenda(make_rig: MakeRig) -> None:
    """A clock that runs: after a tick the timer is set by the clock's new time, not by the old one's."""
    clock = ManualClock()
    rig = make_rig(clock)
    rig.send("a")
    rig.one(request(invisible_ms=3_600_000))
    waiting = rig.poll(request(poll_ms=5000))
    clock.advance(ms=3_600_000 - 100)
    rig.broker.tick()
    assert bodies(rig.until(waiting)) == ["a"]
