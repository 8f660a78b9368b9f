"""Order per message group with every official client: one at a time, pushed, and through a killed server.

Bodies are `group number`. What a client was told of the order depends on when it asked: both answers are good here.
"""

from collections.abc import Iterable

import pytest

from tests.clients.builders import Language
from tests.clients.conftest import with_and_without_tls
from tests.clients.harness import DriverError, Process, Producer, Received, Session, eventually
from tests.clients.test_clients import Sending, fragile, pushing
from tests.serving import Server

__all__ = ["fragile", "pushing"]  # fixtures

GROUPS = ("a", "b", "c")


def send(producer: Producer, numbers: Iterable[int]) -> list[bytes]:
    """Each number once in every group."""
    bodies = [b"%s %d" % (group.encode(), number) for number in numbers for group in GROUPS]
    for body in bodies:
        producer.send(body, message_group=body[:1].decode())
    return bodies


def of_group(messages: Iterable[Received], group: str) -> list[int]:
    """The numbers of one group as they came, each when it came first."""
    mine = [int(message.body[2:]) for message in messages if message.body[:1].decode() == group]
    return list(dict.fromkeys(mine))


def test_a_simple_consumer_gets_each_group_in_order(session: Session, language: Language) -> None:
    """While one message is not acknowledged nothing of its group comes, others do."""
    topic = f"fifo-{language.name}"
    producer, consumer = session.producer(topic), session.simple(topic, topic)
    bodies = send(producer, range(4))
    [first] = consumer.receive(most=1)
    [second] = consumer.receive(most=1)
    session.middle()
    assert first.body[:1] != second.body[:1]
    assert (first.body[2:], second.body[2:]) == (b"0", b"0")
    consumer.ack(first.receipt)
    consumer.ack(second.receipt)
    messages = [first, second]
    while len(messages) < len(bodies):
        more = consumer.receive()
        assert more, f"{len(messages)} of {len(bodies)} came"
        for message in more:
            consumer.ack(message.receipt)
        messages += more
    assert [of_group(messages, group) for group in GROUPS] == [[0, 1, 2, 3]] * len(GROUPS)


@pytest.mark.usefixtures("pushing")
def test_a_push_consumer_gets_each_group_in_order(session: Session, language: Language) -> None:
    """A listener that refuses each message once gets it again before the next of its group, killed server or not."""
    topic = f"fifo-push-{language.name}"
    bodies = send(session.producer(topic), range(2))
    consumer = session.push(topic, topic, nack_first=1)
    consumer.until(1)
    session.middle()
    deliveries = consumer.until_each(bodies, times=2, within_s=90)
    for group in GROUPS:
        mine = [message.body[2:] for message in deliveries if message.body[:1].decode() == group]
        assert mine == (sorted(mine) if language.killed else [b"0", b"0", b"1", b"1"])


class SendingInOrder(Sending):
    """Numbers all the time, in groups by turns; those whose send failed are unknown."""

    def send(self) -> None:
        """See Sending."""
        for number in range(10_000):
            group = GROUPS[number % len(GROUPS)]
            body = b"%s %d" % (group.encode(), number)
            try:
                self.producer.send(body, message_group=group)
                self.acknowledged.append(body)
            except DriverError:
                pass  # the server is away: it may be stored or not
            if self.over.wait(0.02):
                return


@with_and_without_tls
@pytest.mark.slow
def test_order_outlives_a_killed_server(process: Process, language: Language, fragile: Server) -> None:
    """Killed while messages are under way, started again: all that was acknowledged comes, each group in order."""
    session, topic = Session(process, fragile.endpoint), f"fifo-killed-{language.name}"
    producer = session.producer(topic)
    producer.send(b"a -1", message_group="a")  # from here on the topic is FIFO
    push = session.push("pushed", topic) if language.pushes else None
    simple = session.simple("simple", topic)
    with SendingInOrder(producer) as sending:
        eventually(lambda: sending.at_least(30), 60, "30 messages before the kill")
        fragile.kill()
        fragile.restart()
        count = len(sending.acknowledged)
        eventually(lambda: sending.at_least(count + 30), 60, "30 messages after it")
    sent = {b"a -1", *sending.acknowledged}
    messages: list[Received] = []

    def taken() -> bool:
        try:
            for message in simple.receive():
                messages.append(message)
                simple.ack(message.receipt)
        except DriverError:
            pass  # the first calls after the kill may fail
        return sent <= {message.body for message in messages}

    eventually(taken, 90, "all that was acknowledged, simple")
    if push is not None:
        eventually(lambda: sent <= {message.body for message in push.poll()}, 90, "all that was acknowledged, pushed")
    for came in (messages, push.deliveries if push is not None else messages):
        for group in GROUPS:
            assert of_group(came, group) == sorted(of_group(came, group))
