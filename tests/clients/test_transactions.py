"""Transactions with every official client that has them: ended by their producer, or in answer to a check, and through
a killed server.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from rmq_proxy.admin_client import AdminClient
from tests.clients.builders import Language
from tests.clients.conftest import in_the_clear, open_driver, with_and_without_tls
from tests.clients.harness import DecidingProducer, DriverError, Process, Session, eventually
from tests.clients.test_clients import EMPTY_POLL_S, drained
from tests.serving import Server

WITHIN_S = 60.0


@pytest.fixture(autouse=True)
def transacting(language: Language) -> None:
    """Skips for a driver without transactions."""
    if not language.transacts:
        pytest.skip(f"the {language.name} driver has no transactions")


@pytest.fixture(scope="module")
def checking(certificate: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that checks early: one for all languages."""
    config = tmp_path_factory.mktemp("checking") / "config.yaml"
    config.write_text("transaction_check_ms: 1000\n")
    with Server("--config", str(config), env=certificate) as running:
        yield running


def test_a_producer_ends_its_transactions(session: Session, language: Language) -> None:
    """Committed comes, as delivery number 1; rolled back and half do not; the same again is OK, the other is not."""
    topic = f"ended-{language.name}"
    producer, consumer = session.deciding(topic), session.simple(topic, topic)
    committed, rolled_back = producer.begin(b"committed"), producer.begin(b"rolled back")
    producer.begin(b"half")
    assert consumer.receive(within_s=EMPTY_POLL_S) == []
    for again in (False, True):
        if again:
            session.middle()
        producer.end(committed, commit=True)
        producer.end(rolled_back, commit=False)
    [message] = consumer.gather(1)
    assert (message.message_id, message.body, message.attempt) == (committed, b"committed", 1)
    consumer.ack(message.receipt)
    for message_id, commit in ((committed, False), (rolled_back, True)):
        with pytest.raises(DriverError, match=r"(?i)42800|precondition|transaction"):
            producer.end(message_id, commit=commit)
    assert consumer.receive(within_s=EMPTY_POLL_S) == []


def test_a_check_ends_what_its_producer_left(process: Process, language: Language, checking: Server) -> None:
    """The same producer is asked, once, and its word counts."""
    session = Session(process, checking.endpoint)
    for decision, expected in (("COMMIT", [b"COMMIT"]), ("ROLLBACK", [])):
        topic = f"checked-{decision}-{language.name}"
        producer, consumer = session.deciding(topic, decision), session.simple(topic, topic)
        producer.begin(decision.encode())
        asked = asked_of(producer, 1)
        assert asked == [decision.encode()]
        bodies = [message.body for message in consumer.receive(within_s=EMPTY_POLL_S)]
        assert bodies == expected
        assert producer.checked() == []


@in_the_clear
def test_unknown_is_asked_again(process: Process, language: Language, checking: Server) -> None:
    """And nobody sees it meanwhile; its producer may still end it."""
    session, topic = Session(process, checking.endpoint), f"unknown-{language.name}"
    producer, consumer = session.deciding(topic), session.simple(topic, topic)
    message_id = producer.begin(b"one")
    assert set(asked_of(producer, 2)) == {b"one"}
    assert consumer.receive(within_s=EMPTY_POLL_S) == []
    producer.end(message_id, commit=True)
    [message] = consumer.gather(1)
    consumer.ack(message.receipt)


def asked_of(producer: DecidingProducer, count: int) -> list[bytes]:
    """The first `count` checks that a producer gets, and what came with them."""
    asked: list[bytes] = []

    def came() -> bool:
        asked.extend(producer.checked())
        return len(asked) >= count

    eventually(came, WITHIN_S, f"{count} checks of {producer.topic}")
    return asked


@in_the_clear
@pytest.mark.slow
def test_another_producer_is_asked_about_what_a_crashed_one_left(
    process: Process, language: Language, checking: Server, tmp_path: Path
) -> None:
    """At once when it comes: it need not be there when the check is due."""
    topic = f"orphaned-{language.name}"
    with open_driver(language, tmp_path) as crashing:
        Session(crashing, checking.endpoint).deciding(topic).begin(b"orphan")
        crashing.process.kill()
    with AdminClient(checking.endpoint, timeout_s=20) as admin:
        eventually(lambda: [one.state for one in admin.transactions(topic)] == ["waiting"], WITHIN_S, "nobody to ask")
    session = Session(process, checking.endpoint)
    consumer = session.simple(topic, topic)
    heir = session.deciding(topic, "COMMIT")
    assert asked_of(heir, 1) == [b"orphan"]
    [message] = consumer.gather(1)
    assert message.body == b"orphan"
    consumer.ack(message.receipt)


@with_and_without_tls
@pytest.mark.slow
def test_transactions_outlive_a_killed_server(
    process: Process,
    language: Language,
    certificate: Mapping[str, str],
    trusted: Mapping[str, str],
    tmp_path: Path,
) -> None:
    """Killed with transactions begun and ended, started again: what ended stays so, what was begun can be ended, and
    what nobody ends is checked. With a producer of another process: an old one's stream, and one that shares its
    connection's back-off, may take minutes to come back (Python: 10).
    """
    config = tmp_path / "config.yaml"
    config.write_text("transaction_check_ms: 3000\n")
    with Server("--config", str(config), env=certificate) as server:
        session, topic = Session(process, server.endpoint), f"killed-{language.name}"
        producer, consumer = session.deciding(topic), session.simple(topic, topic)
        committed, rolled_back, late = (producer.begin(body) for body in (b"committed", b"rolled back", b"late"))
        producer.begin(b"left")
        producer.end(committed, commit=True)
        producer.end(rolled_back, commit=False)
        server.kill()
        server.restart()
        eventually(lambda: ends(producer, late), WITHIN_S, "an end after the kill")
        producer.end(committed, commit=True)
        producer.end(rolled_back, commit=False)
        with open_driver(language, tmp_path, trusted) as fresh:
            assert b"left" in asked_of(Session(fresh, server.endpoint).deciding(topic, "COMMIT"), 1)
            expected = {b"committed", b"late", b"left"}
            assert drained(consumer, expected) == expected


def ends(producer: DecidingProducer, message_id: str) -> bool:
    """Committed; the first calls after the kill may fail."""
    try:
        producer.end(message_id, commit=True)
    except DriverError:
        return False
    return True
