"""Transactional messages: nobody sees one before it is committed, nor ever when it is rolled back, whatever happens."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rmq import message as m
from rmq import transactionid
from rmq.adminport import Start
from rmq.errors import ClientError, Code
from rmq.message import MessageType, Outgoing, SendResult
from rmq_store import halves
from rmq_store.errors import StoreFull
from rmq_store.record import SYS_FLAG_COMMIT
from tests.rmq.rig import SMALL, TOPIC, Rig, bodies, config, outgoing, request


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A broker with files, and one topic that has a group."""
    rig = Rig(config(flush="fast", data=str(tmp_path / "data"), topic_queues=1, **SMALL))
    rig.receive()
    yield rig
    rig.close()


def half(body: str, **properties: str) -> Outgoing:
    """As the front end makes it of a transactional message."""
    return outgoing(body, **{m.TRAN_MSG: "true", m.PGROUP: TOPIC, **properties})


def begin(rig: Rig, body: str, **properties: str) -> str:
    """A transaction's id."""
    (result,) = rig.send(half(body, **properties))
    assert result.transaction_id
    return result.transaction_id


def end(rig: Rig, text: str, commit: bool | None, topic: str = TOPIC) -> None:
    """As a producer does."""
    rig.wait(rig.broker.end_transaction(topic, text, commit))


def code_of(rig: Rig, text: str, commit: bool | None, topic: str = TOPIC) -> Code:
    """Why it cannot be ended so."""
    with pytest.raises(ClientError) as caught:
        end(rig, text, commit, topic)
    return caught.value.code


def taken(rig: Rig, topic: str = TOPIC) -> list[str]:
    """What there is for the group now, acknowledged."""
    messages = rig.receive(request(topic, batch=32))
    rig.ack(*(message.handle for message in messages), topic=topic)
    return bodies(messages)


def test_a_half_message_is_seen_by_nobody(rig: Rig) -> None:
    """Not by a group, nor by people who read topics, ask for ids or keys, or name the topic it lies in."""
    begin(rig, "half", KEYS="k")
    rig.settle()
    admin = rig.broker.admin
    assert taken(rig) == []
    assert rig.poll(request(poll_ms=20_000)).done() is False
    assert admin.peek(TOPIC, Start(), 9).messages == []
    assert rig.wait(admin.find(TOPIC, message_id="id-half")) == []
    assert rig.wait(admin.find(TOPIC, key="k")) == []
    for verb in (lambda: admin.peek(halves.TOPIC, Start(), 9), lambda: admin.find(halves.TOPIC, message_id="id-half")):
        with pytest.raises(ClientError) as caught:
            verb()
        assert caught.value.code is Code.ILLEGAL_TOPIC
    assert [(q.min_offset, q.max_offset) for q in admin.topic(TOPIC).queues] == [(0, 0)]


def test_a_committed_message_comes_and_is_the_one_that_was_sent(rig: Rig) -> None:
    """A waiting poll gets it; it is no transaction's any more, and names what it stands for."""
    text = begin(rig, "sent", color="red", TAGS="t", KEYS="k")
    poll = rig.poll(request(tag="t", poll_ms=20_000))
    end(rig, text, True)
    (got,) = rig.until(poll)
    assert (got.topic, got.body, got.attempt) == (TOPIC, b"sent", 1)
    assert got.properties["color"] == "red"
    assert m.type_of(got.properties) is MessageType.NORMAL
    assert not got.properties.keys() & {halves.CHECK, "__transactionId__", "REAL_TOPIC", "REAL_QID"}
    assert got.properties[m.RMQ_ORIGIN].split("@")[1] == halves.TOPIC
    assert got.sys_flag & 0xC == SYS_FLAG_COMMIT


def test_a_message_that_was_rolled_back_never_comes(rig: Rig) -> None:
    """A neighbour does."""
    gone, kept = begin(rig, "gone"), begin(rig, "kept")
    end(rig, gone, False)
    end(rig, kept, True)
    assert taken(rig) == ["kept"]


@pytest.mark.parametrize("commit", [True, False])
def test_the_same_end_again_is_ok_and_the_other_one_is_not(rig: Rig, commit: bool) -> None:
    """A transaction has one end; unknown says nothing before it, nor behind."""
    text = begin(rig, "one")
    end(rig, text, None)
    end(rig, text, commit)
    end(rig, text, commit)
    end(rig, text, None)
    assert code_of(rig, text, not commit) is Code.PRECONDITION_FAILED
    assert taken(rig) == ["one"] * commit


@pytest.mark.parametrize("text", ["", " ", "id-one", "x" * 40, "0" * 40, "F" * 40, "0" * 38])
@pytest.mark.parametrize("commit", [True, False, None])
def test_garbage_is_no_transaction_id(rig: Rig, text: str, commit: bool | None) -> None:
    """Whatever is wrong with it."""
    begin(rig, "one")
    assert code_of(rig, text, commit) is Code.INVALID_TRANSACTION_ID


def test_an_id_is_good_for_its_own_message_only(rig: Rig) -> None:
    """Not for another topic, an unknown number, or another message under the same number."""
    text, now_ms = begin(rig, "one"), rig.clock.wall_ms()
    ended = begin(rig, "two")
    end(rig, ended, True)
    assert code_of(rig, text, True, "other") is Code.INVALID_TRANSACTION_ID
    for number, sent_ms in ((2, now_ms), (0, now_ms + 1), (1, now_ms + 1)):
        assert code_of(rig, transactionid.make(number, sent_ms, TOPIC), True) is Code.INVALID_TRANSACTION_ID
    assert taken(rig) == ["two"]


def test_each_message_of_a_batch_is_a_transaction_of_its_own(rig: Rig) -> None:
    """Each result has its own id; other messages are not mixed with them."""
    first, second = rig.send(half("one"), half("two"))
    assert (first.queue_offset, second.queue_offset) == (0, 1)
    end(rig, second.transaction_id, True)
    assert taken(rig) == ["two"]
    with pytest.raises(ClientError) as caught:
        rig.send(half("three"), outgoing("normal"))
    assert caught.value.code is Code.BAD_REQUEST
    assert len(rig.broker._store.state.halves) == 1


def test_profile_strict_takes_transactions_for_topics_of_that_type_only(rig: Rig) -> None:
    """As Apache: TRANSACTION or MIXED; a TRANSACTION topic takes nothing else."""
    rig.broker.topics._dev = False
    for kind in (MessageType.NORMAL, MessageType.TRANSACTION, MessageType.MIXED):
        rig.wait(rig.broker.admin.put_topic(kind.name, kind, 1))
    accepted: list[SendResult] = []
    for kind in (MessageType.TRANSACTION, MessageType.MIXED):
        accepted += rig.send(outgoing("t", topic=kind.name, **{m.TRAN_MSG: "true"}))
    assert all(result.transaction_id for result in accepted)
    for wrong in (outgoing("t", topic="NORMAL", **{m.TRAN_MSG: "true"}), outgoing("n", topic="TRANSACTION")):
        with pytest.raises(ClientError) as caught:
            rig.send(wrong)
        assert caught.value.code is Code.MESSAGE_PROPERTY_CONFLICT_WITH_TYPE


@pytest.mark.parametrize("way", ["restart", "crash"])
def test_transactions_and_their_ends_survive(rig: Rig, way: str) -> None:
    """A stop in good order, and a kill: each is as it was, and ends as it did."""
    lives, gone, came = begin(rig, "lives"), begin(rig, "gone"), begin(rig, "came")
    end(rig, gone, False)
    end(rig, came, True)
    rig.settle()
    for _ in range(2):
        rig.restart() if way == "restart" else rig.crash()
        end(rig, gone, False)
        end(rig, came, True)
        assert code_of(rig, gone, True) is Code.PRECONDITION_FAILED
        assert code_of(rig, came, False) is Code.PRECONDITION_FAILED
    assert taken(rig) == ["came"]
    end(rig, lives, True)
    assert taken(rig) == ["lives"]


def test_retention_carries_half_messages_forward(rig: Rig) -> None:
    """Again and again; their ids stay valid, ends are remembered; a replay knows all that."""
    gone, kept, ended = begin(rig, "gone"), begin(rig, "kept"), begin(rig, "ended")
    end(rig, ended, False)
    for _ in range(2):
        begin_before = rig.broker._store.log.begin
        for _ in range(5):
            rig.send(*[outgoing("x" * 200_000, topic="filler")] * 3)
            rig.settle()
        rig.clock.advance(hours=100)
        rig.broker.tick()
        rig.clean()
        assert rig.broker._store.log.begin > begin_before
    rig.crash()
    assert len(rig.broker._store.state.halves) == 2
    end(rig, gone, False)
    end(rig, ended, False)
    assert code_of(rig, ended, True) is Code.PRECONDITION_FAILED
    end(rig, kept, True)
    end(rig, kept, True)
    assert taken(rig) == ["kept"]


def test_no_more_than_transactions_max_live(rig: Rig) -> None:
    """The batch is refused whole; one that ended makes room."""
    rig.restart(transactions_max=2)
    first = begin(rig, "one")
    with pytest.raises(ClientError) as caught:
        rig.send(half("two"), half("three"))
    assert caught.value.code is Code.TOO_MANY_REQUESTS
    end(rig, first, False)
    rig.send(half("two"), half("three"))


def test_a_full_disk_refuses_a_commit_and_the_transaction_lives_on(rig: Rig) -> None:
    """It is answered as a send is; with room again it is committed. A rollback finds room in the reserve."""
    text, gone = begin(rig, "one"), begin(rig, "gone")
    log = rig.broker._store.log
    make_room, log._make_room = log._make_room, _full  # type: ignore[method-assign]
    log._easy_end = 0
    assert code_of(rig, text, True) is Code.INTERNAL_SERVER_ERROR
    end(rig, gone, False)
    assert taken(rig) == []
    log._make_room = make_room  # type: ignore[method-assign]
    end(rig, text, True)
    assert taken(rig) == ["one"]


def _full(size: int, *, journal: bool) -> None:
    if not journal:
        raise StoreFull("full")


def test_a_message_whose_topic_was_deleted_can_only_be_rolled_back(rig: Rig) -> None:
    """And says so. A new topic of that name takes it."""
    first, second = begin(rig, "one"), begin(rig, "two")
    rig.wait(rig.broker.admin.delete_topic(TOPIC))
    assert code_of(rig, first, True) is Code.NOT_FOUND
    end(rig, first, False)
    rig.send("new")
    end(rig, second, True)
    assert taken(rig) == ["new", "two"]


def test_a_half_message_that_cannot_be_read_can_only_be_rolled_back(rig: Rig) -> None:
    """Damage costs the one message."""
    lost, kept = begin(rig, "lost"), begin(rig, "kept")
    rig.settle()
    damage(rig, 0)
    assert code_of(rig, lost, True) is Code.NOT_FOUND
    end(rig, lost, False)
    end(rig, kept, True)
    assert taken(rig) == ["kept"]


def damage(rig: Rig, number: int) -> None:
    """The record of one half message."""
    store = rig.broker._store
    position = store.state.topics[halves.TOPIC].queues[0].read(number, 1)[0].position
    store.log.segment_at(position).write(position + 100, b"\xff" * 8)


def test_a_commit_in_the_very_turn_of_its_sending(rig: Rig) -> None:
    """Nobody does that before the answer, but the record is not in a file then."""
    answer = rig.broker.send([half("at once")])
    text = transactionid.make(0, rig.clock.wall_ms(), TOPIC)
    ended = rig.broker.end_transaction(TOPIC, text, True)
    rig.wait(answer)
    rig.wait(ended)
    assert taken(rig) == ["at once"]


def test_the_half_topic_cannot_be_deleted_by_hand(rig: Rig) -> None:
    """All transactions would be gone."""
    begin(rig, "lives")
    with pytest.raises(ClientError, match="end single ones"):
        rig.broker.admin.delete_topic(halves.TOPIC)


def test_a_reset_takes_transactions_along() -> None:
    """A server for tests begins anew, and its numbers with it; an old id is nobody's."""
    rig = Rig(config())
    old, ended = begin(rig, "old"), begin(rig, "ended")
    end(rig, ended, True)
    rig.wait(rig.broker.admin.reset())
    rig.clock.advance(ms=1)
    begin(rig, "new")
    assert code_of(rig, old, True) is Code.INVALID_TRANSACTION_ID
    assert code_of(rig, ended, True) is Code.INVALID_TRANSACTION_ID
    rig.close()
