"""Lite topics with every official client that knows them: push and simple consumers, and through a killed server."""

import contextlib

import pytest

from rmq_proxy.admin_client import AdminClient
from tests.clients.builders import Language
from tests.clients.conftest import with_and_without_tls
from tests.clients.harness import DriverError, LiteConsumer, Process, Producer, Session, eventually
from tests.clients.test_clients import fragile, pushing
from tests.serving import Server

__all__ = ["fragile", "pushing"]  # fixtures

pytestmark = pytest.mark.usefixtures("pushing")


@pytest.fixture(autouse=True)
def with_lite_topics(language: Language) -> None:
    """A client that has lite topics."""
    if not language.lites:
        pytest.skip(f"{language.name} has no lite topics")


def send(producer: Producer, *bodies: str) -> None:
    """`a1` belongs to lite topic `a`."""
    for body in bodies:
        producer.send(body.encode(), lite_topic=body[:1])


def came(consumer: LiteConsumer, lite_topic: str) -> list[bytes]:
    """What came of a lite topic so far, in order."""
    return [found.body for found in consumer.poll() if found.body[:1].decode() == lite_topic]


def test_a_consumer_gets_what_it_subscribes_in_order(session: Session, language: Language) -> None:
    """Each message again before the next of its lite topic, where the listener refuses it at first."""
    topic = f"lite-{language.name}"
    producer, consumer = session.producer(topic), session.lite(topic, topic, nack_first=1)
    consumer.subscribe("a", "b")
    session.middle()
    send(producer, "a1", "a2", "b1", "c1")
    consumer.until(6, within_s=90)
    assert (came(consumer, "a"), came(consumer, "b")) == ([b"a1", b"a1", b"a2", b"a2"], [b"b1", b"b1"])
    assert came(consumer, "c") == []


def test_subscriptions_change(session: Session, language: Language) -> None:
    """What was sent meanwhile comes when it is subscribed again."""
    topic = f"lite-changing-{language.name}"
    producer, consumer = session.producer(topic), session.lite(topic, topic)
    consumer.subscribe("a", "b")
    send(producer, "a1")
    consumer.until(1)
    consumer.unsubscribe("a")
    session.middle(settled=topic)
    send(producer, "a2", "b1")
    consumer.until(2)
    assert came(consumer, "a") == [b"a1"]
    consumer.subscribe("a")
    consumer.until(3)
    assert came(consumer, "a") == [b"a1", b"a2"]


def test_a_simple_consumer_takes_what_it_subscribes(session: Session, language: Language) -> None:
    """In order, the next when the one before is acknowledged; what it no longer subscribes waits."""
    if not language.lite_simples:
        pytest.skip(f"{language.name} has no simple consumers of lite topics")
    topic = f"lite-simple-{language.name}"
    producer, consumer = session.producer(topic), session.lite_simple(topic, topic)
    consumer.subscribe("a", "b")
    send(producer, "a1", "a2", "b1", "c1")
    first = consumer.gather(2)
    assert sorted(message.body for message in first) == [b"a1", b"b1"]
    session.middle()
    for message in first:
        consumer.ack(message.receipt)
    [second] = consumer.gather(1)
    assert (second.body, second.attempt) == (b"a2", 1)
    consumer.ack(second.receipt)
    consumer.unsubscribe("a")
    send(producer, "a3", "b2")
    [other] = consumer.gather(1)
    assert other.body == b"b2"
    consumer.ack(other.receipt)
    consumer.subscribe("a")
    [third] = consumer.gather(1)
    assert third.body == b"a3"
    consumer.ack(third.receipt)


def test_the_last_consumer_of_an_exclusive_group_has_a_lite_topic(session: Session, language: Language) -> None:
    """The one before is told, and gets nothing more of it, but of its others; until it asks for it again."""
    topic = f"lite-exclusive-{language.name}"
    with AdminClient(session.endpoint, timeout_s=20) as admin:
        admin.put_group(topic, lite_exclusive=True)
    producer, first, second = session.producer(topic), session.lite(topic, topic), session.lite(topic, topic)
    first.subscribe("a", "b")
    send(producer, "a1")
    first.until(1)
    second.subscribe("a")
    session.middle(settled=topic)
    send(producer, "a2", "b1")
    second.until(1)
    first.until(2)
    assert (came(first, "a"), came(first, "b"), came(second, "a")) == ([b"a1"], [b"b1"], [b"a2"])
    if not language.hears_lite_ends:  # so that it asks again for what it believes to have
        first.unsubscribe("a")
    first.subscribe("a")
    send(producer, "a3")
    first.until(3)
    assert (came(first, "a"), came(second, "a")) == ([b"a1", b"a3"], [b"a2"])


@with_and_without_tls
@pytest.mark.slow
def test_subscriptions_outlive_a_killed_server(process: Process, language: Language, fragile: Server) -> None:
    """A consumer that knows nothing of the kill gets what is sent afterwards, and what was sent before."""
    session, topic = Session(process, fragile.endpoint), f"lite-killed-{language.name}"
    producer, consumer = session.producer(topic), session.lite(topic, topic)
    consumer.subscribe("a")
    send(producer, "a1")
    consumer.until(1)
    fragile.kill()
    fragile.restart()

    def sent() -> bool:
        with contextlib.suppress(DriverError):
            send(producer, "a2")
            return True
        return False

    eventually(sent, 60, "a send after the kill")
    eventually(lambda: b"a2" in came(consumer, "a"), 90, "the message that was sent after the kill")
