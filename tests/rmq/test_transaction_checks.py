"""Checks of transactions: who is asked, when, how often; and what people see of it and can do."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rmq import message as m
from rmq.adminport import TransactionState
from rmq.clock import SystemClock
from rmq.errors import ClientError, Code
from rmq.message import Delivered
from rmq_store import halves
from rmq_store.halves import PARKED_MS
from tests.rmq.rig import SMALL, TOPIC, Rig, config, outgoing, request
from tests.rmq.test_transaction import begin, code_of, damage, end, half, taken

CHECKS_MAX = 4


class Producers:
    """A ClientPort whose producers are there or not, and which remembers what it was to ask."""

    def __init__(self) -> None:
        self.topics = {TOPIC}
        self.asked: list[tuple[str, str]] = []  # body and transaction id
        self.messages: list[Delivered] = []

    def check_transaction(self, topic: str, message: Delivered, transaction_id: str) -> bool:
        if topic not in self.topics:
            return False
        self.asked.append((message.body.decode(), transaction_id))
        self.messages.append(message)
        return True

    def verify(self, group: str, client_id: str, message: Delivered) -> Any:
        raise NotImplementedError

    def stack(self, group: str, client_id: str) -> Any:
        raise NotImplementedError

    def unsubscribe_lite(self, client_id: str, lite_topic: str) -> None:
        raise NotImplementedError

    def take(self) -> list[str]:
        """Bodies since the last time."""
        asked, self.asked = self.asked, []
        return [body for body, _ in asked]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A broker with files that gives up after four checks, and one topic that has a group."""
    settings: dict[str, object] = {"transaction_checks_max": CHECKS_MAX, "transaction_backoff_ms_max": 15_000}
    rig = Rig(config(flush="fast", data=str(tmp_path / "data"), topic_queues=1, **settings, **SMALL))
    rig.receive()
    yield rig
    rig.close()


@pytest.fixture
def producers(rig: Rig) -> Producers:
    """One of the topic is there."""
    return connect(rig)


def connect(rig: Rig) -> Producers:
    """To a broker that has just started."""
    producers = Producers()
    rig.broker.asks(producers)
    return producers


def test_the_first_check_comes_after_six_seconds_and_not_before(rig: Rig, producers: Producers) -> None:
    """It shows the message as it was sent, its id, and which check it is."""
    text = begin(rig, "one", color="red")
    rig.advance(5999)
    assert producers.asked == []
    rig.advance(1)
    assert producers.asked == [("one", text)]
    (message,) = producers.messages
    assert (message.topic, message.attempt, message.handle) == (TOPIC, 1, "")
    assert message.properties["color"] == "red"
    assert m.type_of(message.properties) is m.MessageType.TRANSACTION


@pytest.mark.parametrize(("asked_s", "due_ms"), [("1", 1000), ("3600", 3_600_000), ("0", 6000), ("x", 6000)])
def test_a_message_may_say_when_it_is_checked_first(rig: Rig, producers: Producers, asked_s: str, due_ms: int) -> None:
    """0, or what is no number, is the server's own."""
    begin(rig, "one", **{m.CHECK_IMMUNITY_TIME_IN_SECONDS: asked_s})
    rig.advance(due_ms - 1)
    assert producers.take() == []
    rig.advance(1)
    assert producers.take() == ["one"]


def test_checks_come_less_and_less_often_and_then_no_more(rig: Rig, producers: Producers) -> None:
    """Each time twice as long, up to the limit; then the transaction is parked, and says so."""
    text = begin(rig, "one")
    for wait_ms in (6000, 6000, 12_000, 15_000):
        rig.advance(wait_ms - 1)
        assert producers.take() == []
        rig.advance(1)
        assert producers.take() == ["one"]
    rig.advance(14_999)
    assert not rig.broker._store.state.halves.parked
    rig.advance(1)
    assert list(rig.broker._store.state.halves.parked) == [0]
    rig.advance(3_600_000)
    assert producers.take() == []
    end(rig, text, True)
    assert taken(rig) == ["one"]
    assert not rig.broker._store.state.halves.parked


def test_parked_is_told_in_the_log(rig: Rig, producers: Producers, caplog: pytest.LogCaptureFixture) -> None:
    """With the command that ends it."""
    begin(rig, "one")
    for _ in range(CHECKS_MAX + 1):
        rig.advance(20_000)
    assert "rmq transaction commit|rollback 0" in caplog.text


def test_an_ended_transaction_is_not_checked(rig: Rig, producers: Producers) -> None:
    """Whichever way it ended; unknown is no end."""
    committed, rolled_back, unknown = begin(rig, "c"), begin(rig, "r"), begin(rig, "u")
    end(rig, committed, True)
    end(rig, rolled_back, False)
    end(rig, unknown, None)
    rig.advance(6000)
    assert producers.take() == ["u"]


def test_without_a_producer_nothing_counts_and_the_next_one_is_asked_at_once(rig: Rig, producers: Producers) -> None:
    """However long it takes, a producer of another topic is none."""
    producers.topics.clear()
    begin(rig, "one")
    for _ in range(3 * CHECKS_MAX):
        rig.advance(60_000)
    assert not rig.broker._store.state.halves.parked
    producers.topics.add(TOPIC)
    rig.broker.producing(["other"])
    rig.turn()
    assert producers.take() == []
    rig.broker.producing([TOPIC])
    rig.advance(0)
    assert producers.take() == ["one"]
    assert producers.messages[0].attempt == 1
    rig.advance(6000)
    assert producers.take() == ["one"]


def test_nobody_waits_for_a_producer_who_has_ended(rig: Rig, producers: Producers) -> None:
    """It may end while it waits."""
    producers.topics.clear()
    text = begin(rig, "one")
    rig.advance(6000)
    end(rig, text, False)
    producers.topics.add(TOPIC)
    rig.broker.producing([TOPIC])
    rig.advance(6000)
    assert producers.take() == []


def test_one_that_ended_between_its_waking_and_its_check(rig: Rig, producers: Producers) -> None:
    """Is not asked about."""
    producers.topics.clear()
    text = begin(rig, "one")
    rig.advance(6000)
    producers.topics.add(TOPIC)
    rig.broker.producing([TOPIC])
    ended = rig.broker.end_transaction(TOPIC, text, True)
    rig.advance(0)
    rig.wait(ended)
    assert producers.take() == []


@pytest.mark.parametrize("way", ["restart", "crash"])
def test_checks_go_on_where_they_were(rig: Rig, way: str) -> None:
    """A stop and a kill change neither their number nor their times; before a client is there nobody is asked."""
    producers = connect(rig)
    begin(rig, "one")
    rig.advance(6000)
    rig.advance(6000)
    rig.settle()
    rig.restart() if way == "restart" else rig.crash()
    producers = connect(rig)
    rig.advance(11_999)
    assert producers.take() == []
    rig.advance(1)
    assert [message.attempt for message in producers.messages] == [3]


def test_what_was_due_while_the_server_was_down_waits_for_a_producer(rig: Rig) -> None:
    """It is asked when it comes, also where nobody can be asked at the start."""
    begin(rig, "one")
    rig.restart(pause_ms=3_600_000)
    producers = connect(rig)
    rig.advance(1)
    assert producers.take() == []
    rig.broker.producing([TOPIC])
    rig.advance(0)
    assert producers.take() == ["one"]


def test_the_number_of_checks_is_carried_forward(rig: Rig, producers: Producers) -> None:
    """With the record: the entries that told of them go with their segment."""
    begin(rig, "one")
    rig.advance(6000)
    rig.advance(6000)
    for _ in range(5):
        rig.send(*[outgoing("x" * 200_000, topic="filler")] * 3)
        rig.settle()
    before = rig.broker._store.state.halves.get(0)
    assert before is not None
    rig.broker._retention._age_ms = -1
    rig.clean()
    assert before.number > 0
    told = before.checks, before.due_ms
    rig.crash()
    after = rig.broker._store.state.halves.get(0)
    assert after is not None
    assert (after.checks, after.due_ms) == told == (2, rig.clock.lease_ms() + 12_000)


def test_checks_are_paced(rig: Rig, producers: Producers) -> None:
    """A producer that comes back is not flooded; a test that moves the clock gets all at once."""
    for n in range(3):
        rig.send(*[half(f"{n}-{k}") for k in range(40)])
    rig.advance(6000)
    assert len(producers.take()) == 50
    rig.broker.tick()
    assert producers.take() == []
    rig.advance(50)
    assert len(producers.take()) == 50
    rig.broker.catch_up()
    assert len(producers.take()) == 20


def test_advancing_the_clock_checks_in_order_and_at_once(rig: Rig, producers: Producers) -> None:
    """Also where more is due than one turn does; a check that comes due again by then is another one."""
    for n in range(3):
        rig.send(*[half(f"{n}-{k}") for k in range(40)])
    rig.clock.advance(hours=24)
    rig.broker.catch_up()
    assert producers.take() == [f"{n}-{k}" for n in range(3) for k in range(40)]


def test_a_transaction_of_a_deleted_topic_is_given_up(
    rig: Rig, producers: Producers, caplog: pytest.LogCaptureFixture
) -> None:
    """At its check: nobody can ever see it."""
    text = begin(rig, "one")
    rig.wait(rig.broker.admin.delete_topic(TOPIC))
    rig.advance(6000)
    assert "its topic was deleted" in caplog.text
    assert producers.take() == []
    assert code_of(rig, text, True) is Code.PRECONDITION_FAILED
    assert len(rig.broker._store.state.halves) == 0


def test_one_that_cannot_be_read_is_given_up(rig: Rig, producers: Producers, caplog: pytest.LogCaptureFixture) -> None:
    """Damage costs the one message."""
    begin(rig, "lost")
    begin(rig, "kept")
    rig.settle()
    damage(rig, 0)
    rig.advance(6000)
    assert "cannot be read" in caplog.text
    assert producers.take() == ["kept"]


def test_a_disk_that_fails_makes_a_check_wait(
    rig: Rig, producers: Producers, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a second; it does not count."""
    begin(rig, "one")
    rig.settle()

    def fails(*_: object) -> bytes:
        raise OSError("the disk is on fire")

    with monkeypatch.context() as patch:
        patch.setattr(rig.broker._store, "read", fails)
        rig.advance(6000)
    assert "on fire" in caplog.text
    assert producers.take() == []
    rig.advance(1000)
    assert producers.take() == ["one"]
    assert producers.messages[0].attempt == 1


def test_no_checks_at_all(rig: Rig) -> None:
    """With 0 a transaction is parked when its first check would be due."""
    rig.restart(transaction_checks_max=0)
    producers = connect(rig)
    begin(rig, "one")
    rig.advance(6000)
    assert producers.take() == []
    assert list(rig.broker._store.state.halves.parked) == [0]


def test_the_loop_s_own_timer_checks() -> None:
    """On the machine's clock, without a tick by hand."""
    with contextlib.closing(Rig(config(transaction_check_ms=100), SystemClock())) as live:
        producers = connect(live)
        live.send(half("soon"))
        live.run_while(lambda: not producers.asked)
        assert producers.take() == ["soon"]


def test_transactions_for_people(rig: Rig, producers: Producers) -> None:
    """They are listed in order of sending, of one topic or all, with what is done about them."""
    admin = rig.broker.admin
    begin(rig, "one", color="red")
    rig.send(outgoing("two", topic="other", **{m.TRAN_MSG: "true"}))
    begin(rig, "three")
    rig.advance(6000)
    listed = list(admin.transactions("", 9, parked=False))
    assert [(one.number, one.topic, one.state, one.checks) for one in listed] == [
        (0, TOPIC, TransactionState.CHECKED, 1),
        (1, "other", TransactionState.WAITING, 0),
        (2, TOPIC, TransactionState.CHECKED, 1),
    ]
    assert [one.due_ms - rig.clock.lease_ms() for one in listed if one.due_ms] == [6000, 6000]
    assert [one.number for one in admin.transactions("", 2, parked=False)] == [0, 1]
    assert [one.number for one in admin.transactions(TOPIC, 9, parked=False)] == [0, 2]
    assert [one.number for one in admin.transactions(TOPIC, 1, parked=False)] == [0]
    shown = admin.transaction(0).message
    assert shown is not None
    assert (shown.topic, shown.body, shown.properties["color"]) == (TOPIC, b"one", "red")
    assert not shown.properties.keys() & {halves.CHECK, m.TRAN_MSG}


def test_people_end_what_is_parked(rig: Rig, producers: Producers) -> None:
    """Or anything else that has not ended; it is as if its producer had."""
    admin = rig.broker.admin
    first, second = begin(rig, "one"), begin(rig, "two")
    for _ in range(CHECKS_MAX + 1):
        rig.advance(20_000)
    begin(rig, "three")
    parked = list(admin.transactions("", 9, parked=True))
    assert [(one.number, one.state, one.due_ms) for one in parked] == [
        (0, TransactionState.PARKED, PARKED_MS),
        (1, TransactionState.PARKED, PARKED_MS),
    ]
    listing = admin.transactions("", 9, parked=True)
    assert next(iter(listing)).number == 0
    rig.wait(admin.end_transaction(0, commit=True))
    rig.wait(admin.end_transaction(1, commit=False))
    assert list(listing) == []
    assert taken(rig) == ["one"]
    end(rig, first, True)
    end(rig, second, False)
    rig.wait(admin.end_transaction(2, commit=True))
    assert taken(rig) == ["three"]


def test_a_lost_message_is_listed_without_it_and_can_be_rolled_back(rig: Rig, producers: Producers) -> None:
    """Not committed: there is nothing to deliver."""
    begin(rig, "lost")
    rig.settle()
    damage(rig, 0)
    admin = rig.broker.admin
    assert admin.transaction(0).message is None
    with pytest.raises(ClientError) as caught:
        admin.end_transaction(0, commit=True)
    assert caught.value.code is Code.NOT_FOUND
    rig.wait(admin.end_transaction(0, commit=False))
    assert rig.receive(request()) == []


@pytest.mark.parametrize("number", [-1, 0, 7])
def test_one_that_ended_is_not_there(rig: Rig, number: int) -> None:
    """Nor one that never was."""
    end(rig, begin(rig, "one"), True)
    admin = rig.broker.admin
    for verb in (admin.transaction, lambda it: admin.end_transaction(it, commit=True)):
        with pytest.raises(ClientError) as caught:
            verb(number)
        assert caught.value.code is Code.NOT_FOUND
