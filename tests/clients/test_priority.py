"""Priority with every official client that knows it: simple and push consumers, and through a killed server."""

import contextlib

import pytest

from tests.clients.builders import Language
from tests.clients.conftest import with_and_without_tls
from tests.clients.harness import DriverError, Process, Producer, Received, Session, eventually
from tests.clients.test_clients import fragile, pushing
from tests.serving import Server

__all__ = ["fragile", "pushing"]  # fixtures

SENT = ("1a", "5a", "0a", "5b", "1b", "3a")
IN_ORDER = [b"5a", b"5b", b"3a", b"1a", b"1b", b"0a"]


@pytest.fixture(autouse=True)
def prioritizing(language: Language) -> None:
    """A client that can give a message a priority."""
    if not language.prioritizes:
        pytest.skip(f"{language.name} has no priority")


def send(producer: Producer) -> None:
    """Each body begins with its priority."""
    for body in SENT:
        producer.send(body.encode(), priority=int(body[0]))


def test_a_simple_consumer_gets_the_highest_first(session: Session, language: Language) -> None:
    """In one receive and in several."""
    topic = f"priority-{language.name}"
    producer, consumer = session.producer(topic), session.simple(topic, topic)
    send(producer)
    got: list[Received] = [*consumer.receive(most=2)]
    session.middle()
    got += consumer.receive(most=1)
    while len(got) < len(SENT):
        got += consumer.receive()
    assert [message.body for message in got] == IN_ORDER
    for message in got:
        consumer.ack(message.receipt)


@pytest.mark.usefixtures("pushing")
def test_a_push_consumer_gets_all(session: Session, language: Language) -> None:
    """Also what its listener refuses at first. Its threads have an order of their own."""
    topic = f"priority-push-{language.name}"
    send(session.producer(topic))
    consumer = session.push(topic, topic, nack_first=1)
    consumer.until(1)
    session.middle()
    deliveries = consumer.until_each(IN_ORDER, times=2, within_s=90)
    if not language.killed:
        assert sorted(message.attempt for message in deliveries) == [1] * len(SENT) + [2] * len(SENT)


@with_and_without_tls
@pytest.mark.slow
def test_order_outlives_a_killed_server(process: Process, language: Language, fragile: Server) -> None:
    """What was sent before the kill comes after it, the highest first."""
    session, topic = Session(process, fragile.endpoint), f"priority-killed-{language.name}"
    producer, consumer = session.producer(topic), session.simple(topic, topic)
    send(producer)
    fragile.kill()
    fragile.restart()
    got: list[Received] = []

    def taken() -> bool:
        with contextlib.suppress(DriverError):  # the first calls after the kill may fail
            got.extend(consumer.receive(most=4))
        return len(got) >= len(SENT)

    eventually(taken, 60, "all that was acknowledged")
    assert [message.body for message in got] == IN_ORDER
