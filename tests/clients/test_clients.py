"""What every official client can rely on, in the same words for each language: in the clear, and with TLS while the
server is killed in the middle (Session.middle does nothing in the clear).
"""

import random
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.builders import Language
from tests.clients.conftest import KILLED_SOON, TWO_TRIES, open_driver
from tests.clients.harness import (
    Client,
    DriverError,
    Process,
    Producer,
    PushConsumer,
    Received,
    Session,
    SimpleConsumer,
    eventually,
)
from tests.serving import Server

INVISIBLE_S = 10  # RocketMQ's least for a receive
EMPTY_POLL_S = 15  # its least is 5
STOP_S = 60
SILENT_MS = 15_000  # of a client: more than the pause between two heartbeats


@dataclass(frozen=True)
class LeftAlone:
    """A message received at `since_s` (monotonic) and not acknowledged."""

    consumer: SimpleConsumer
    first: Received
    since_s: float


@pytest.fixture(scope="session", autouse=True)
def left_alone(session: Session, language: Language) -> LeftAlone:
    """Is set up before a language's other tests, which thus run during its ten seconds."""
    topic = f"left-alone-{language.name}"
    producer = session.producer(topic)
    consumer = session.simple(f"left-alone-{language.name}", topic, await_s=20)
    producer.send(b"forgotten")
    since_s = time.monotonic()
    [first] = consumer.gather(1, invisible_s=INVISIBLE_S)
    return LeftAlone(consumer, first, since_s)


@pytest.fixture
def pushing(language: Language) -> None:
    """Skips for a client that has no push consumer."""
    if not language.pushes:
        pytest.skip(f"the {language.name} client has no push consumer")


def pair(session: Session, topic: str, tags: str = "*") -> tuple[Producer, SimpleConsumer]:
    """A producer, and a simple consumer in a group of the topic's name."""
    return session.producer(topic), session.simple(topic, topic, tags)


def test_a_message_comes_as_it_was_sent(session: Session, language: Language) -> None:
    """Body, tag, keys, properties and message id arrive unchanged, beyond ASCII too, on delivery number 1."""
    producer, consumer = pair(session, f"whole-{language.name}")
    body, properties = "żółw 海 🐢".encode(), {"país": "España", "emoji": "🐢 = turtle"}
    message_id = producer.send(body, tag="étiquette-海", keys=["k-1", "鍵"], properties=properties)
    session.middle()
    [message] = consumer.gather(1)
    assert message.message_id == message_id
    assert message.topic == producer.topic
    assert (message.body, message.tag, set(message.keys)) == (body, "étiquette-海", {"k-1", "鍵"})
    assert message.properties == properties
    assert message.attempt == 1


def test_an_acknowledged_message_is_gone(session: Session, language: Language) -> None:
    """After the ack, a receive waits and answers nothing, and that is no error."""
    producer, consumer = pair(session, f"acked-{language.name}")
    producer.send(b"once")
    [message] = consumer.gather(1)
    consumer.ack(message.receipt)
    session.middle()
    assert consumer.receive(within_s=EMPTY_POLL_S) == []


def test_many_are_sent_at_once(session: Session, language: Language) -> None:
    """Without waiting for the one before: each is there once, under the id that its own answer told."""
    if not language.sends_async:
        pytest.skip(f"the {language.name} driver sends one after the other")
    producer, consumer = pair(session, f"async-{language.name}")
    bodies = [b"%d" % number for number in range(64)]
    sent = dict(zip(producer.send_all(bodies), bodies, strict=True))
    session.middle()
    messages = consumer.gather(len(bodies))
    assert {message.message_id: message.body for message in messages} == sent
    assert {message.attempt for message in messages} == {1}


def test_a_message_without_tag_keys_or_properties(session: Session, language: Language) -> None:
    """What was not set is not there on the other side."""
    producer, consumer = pair(session, f"bare-{language.name}")
    producer.send(b"x")
    [message] = consumer.gather(1)
    assert (message.tag, message.keys, message.properties) == (None, (), {})


def test_the_largest_body(session: Session, language: Language) -> None:
    """A body of 4 MiB, or the most that the client itself allows, comes back the same."""
    producer, consumer = pair(session, f"large-{language.name}")
    body = random.Random(7).randbytes(language.body_bytes_max)
    producer.send(body)
    session.middle()
    [message] = consumer.gather(1)
    assert message.body == body


def test_only_the_wanted_tags(session: Session, language: Language) -> None:
    """A consumer with the filter `a || c` is not given what is tagged otherwise or not at all."""
    producer, consumer = pair(session, f"tags-{language.name}", tags="a || c")
    wanted = {producer.send(tag.encode(), tag=tag) for tag in ("a", "b", "c")} - {producer.send(b"no tag")}
    session.middle()
    messages = consumer.gather(2)
    assert {message.body for message in messages} == {b"a", b"c"}
    assert {message.message_id for message in messages} < wanted


def test_a_changed_invisible_duration(session: Session, language: Language) -> None:
    """A message that is handed back with one second to wait comes again as delivery number 2."""
    if not language.changes_invisible:
        pytest.skip(f"the {language.name} client can't change it")
    producer, consumer = pair(session, f"changed-{language.name}")
    producer.send(b"later")
    [first] = consumer.gather(1)
    consumer.change(first.receipt, invisible_s=1)
    session.middle()
    [second] = consumer.gather(1)
    assert (second.message_id, second.attempt) == (first.message_id, 2)
    consumer.ack(second.receipt)


def test_a_changed_handle_is_good_for_the_ack(session: Session, language: Language) -> None:
    """The handle that a change answered acknowledges the message."""
    if not language.changes_invisible:
        pytest.skip(f"the {language.name} client can't change it")
    producer, consumer = pair(session, f"extended-{language.name}")
    producer.send(b"longer")
    [message] = consumer.gather(1)
    receipt = consumer.change(message.receipt, invisible_s=60)
    session.middle()
    consumer.ack(receipt)


def test_delayed_messages_come_at_their_time_unless_recalled(session: Session, language: Language) -> None:
    """One comes, not before its time; one is recalled, twice, and never comes; what came cannot be recalled.

    A client that cannot recall sends the first one only.
    """
    if not language.delays:
        pytest.skip(f"the {language.name} driver sends no delayed messages")
    producer, consumer = pair(session, f"delayed-{language.name}")
    due_ms = time.time_ns() // 1_000_000 + (5000 if language.killed else 2000)
    waits, handle = producer.delay(b"waits", due_ms)
    if language.recalls:
        gone, gone_handle = producer.delay(b"gone", due_ms)
        assert producer.recall(gone_handle) == gone
    session.middle()
    if language.recalls:
        assert producer.recall(gone_handle) == gone
    [message] = consumer.gather(1)
    assert (message.message_id, message.body) == (waits, b"waits")
    assert time.time_ns() // 1_000_000 >= due_ms
    consumer.ack(message.receipt)
    if language.recalls:
        with pytest.raises(DriverError, match=r"(?i)42800|precondition|passed"):
            producer.recall(handle)
    assert consumer.receive(within_s=EMPTY_POLL_S) == []


@pytest.mark.usefixtures("pushing")
def test_a_push_consumer_gets_everything_once(session: Session, language: Language) -> None:
    """Sent before it starts or while it runs: each message is pushed once, as delivery number 1."""
    topic = f"pushed-{language.name}"
    producer = session.producer(topic)
    sent = [producer.send(b"before %d" % number) for number in range(5)]
    consumer = session.push(topic, topic)
    consumer.until(len(sent))
    session.middle(settled=topic)
    sent += [producer.send(b"during %d" % number) for number in range(5)]
    deliveries = consumer.until(len(sent))
    assert sorted(message.message_id for message in deliveries) == sorted(sent)
    assert {message.attempt for message in deliveries} == {1}


@pytest.mark.usefixtures("pushing")
def test_a_refused_message_is_pushed_again(session: Session, language: Language) -> None:
    """A listener that fails gets the same message as delivery number 2; one that then succeeds gets it no more."""
    topic = f"again-{language.name}"
    producer, consumer = session.producer(topic), session.push(topic, topic, nack_first=1)
    session.middle()
    message_id = producer.send(b"not now")
    deliveries = consumer.until(2)
    assert [(message.message_id, message.attempt) for message in deliveries] == [(message_id, 1), (message_id, 2)]


@pytest.mark.usefixtures("pushing")
def test_a_message_refused_too_often_is_a_dead_letter(session: Session, language: Language) -> None:
    """After the group's two attempts it is in %DLQ%group, readable by any consumer, with all that it had."""
    topic, group = f"hopeless-{language.name}", f"{TWO_TRIES}-{language.name}"
    producer, consumer = session.producer(topic), session.push(group, topic, nack_first=99)
    message_id = producer.send(b"no use", tag="t", keys=["k"], properties={"p": "v"})
    consumer.until(2)
    session.middle(settled=group)
    undertaker = session.simple(f"undertaker-{language.name}", f"%DLQ%{group}")
    [dead] = undertaker.gather(1)
    assert (dead.message_id, dead.body, dead.tag, dead.keys) == (message_id, b"no use", "t", ("k",))
    assert dead.properties == {"p": "v"}
    assert dead.attempt == 1
    assert [message.attempt for message in consumer.poll()] == [1, 2]


def test_a_message_never_acknowledged_comes_again(left_alone: LeftAlone, language: Language) -> None:
    """Not before its ten seconds are over, as delivery number 2; then the old receipt handle is worth nothing."""
    [second] = left_alone.consumer.gather(1)
    assert time.monotonic() - left_alone.since_s >= INVISIBLE_S
    assert (second.message_id, second.attempt) == (left_alone.first.message_id, 2)
    if language.reports_ack:
        with pytest.raises(DriverError, match=r"(?i)40013|receipt.handle"):
            left_alone.consumer.ack(left_alone.first.receipt)
    left_alone.consumer.ack(second.receipt)


class Sending:
    """Sends numbered messages all the time in a thread of its own; `acknowledged` are the bodies that went through."""

    def __init__(self, producer: Producer) -> None:
        self.producer = producer
        self.acknowledged: list[bytes] = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.send)

    def send(self) -> None:
        for number in range(10_000):
            body = b"%d" % number
            try:
                self.producer.send(body)
                self.acknowledged.append(body)
            except DriverError:
                pass  # the server is away: nothing was promised
            if self.over.wait(0.05):
                return

    def __enter__(self) -> "Sending":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join(60)

    def at_least(self, count: int) -> bool:
        return len(self.acknowledged) >= count


@pytest.fixture
def fragile(certificate: Mapping[str, str]) -> Iterator[Server]:
    """A server of its own for a test that restarts it."""
    with Server(env=certificate) as running:
        yield running


def survives(server: Server, sending: Sending, *, killed: bool) -> None:
    """Restarts the server between messages that go through before and after."""
    eventually(lambda: sending.at_least(5), 30, "5 messages before the restart")
    if killed:
        server.kill()
    server.restart()
    count = len(sending.acknowledged)
    eventually(lambda: sending.at_least(count + 5), 60, "5 messages after the restart")


@pytest.mark.slow
def test_clients_outlive_a_restart_of_the_server(process: Process, language: Language, fragile: Server) -> None:
    """Stopped or killed; same data, same port: the clients that were there go on, nothing acknowledged is missing."""
    session, topic = Session(process, fragile.endpoint), f"restart-{language.name}"
    push = session.push("pushed", topic) if language.pushes else None
    simple = session.simple("simple", topic)
    with Sending(session.producer(topic)) as sending:
        survives(fragile, sending, killed=language.killed)
    expected = set(sending.acknowledged)
    assert expected <= drained(simple, expected)
    if push is not None:
        assert expected <= pushed(push, expected)


def drained(consumer: SimpleConsumer, expected: set[bytes]) -> set[bytes]:
    """What a simple consumer gets and acknowledges until it has what is expected; the first calls may fail."""
    bodies: set[bytes] = set()
    deadline_s = time.monotonic() + 60
    while not expected <= bodies and time.monotonic() < deadline_s:
        try:
            for message in consumer.receive():
                consumer.ack(message.receipt)
                bodies.add(message.body)
        except DriverError:
            time.sleep(0.1)
    return bodies


def pushed(consumer: PushConsumer, expected: set[bytes]) -> set[bytes]:
    """What a push consumer has been given once it has what is expected."""
    eventually(lambda: expected <= {message.body for message in consumer.poll()}, 60, "all that was acknowledged")
    return {message.body for message in consumer.deliveries}


@pytest.fixture
def left(language: Language, server: Server, certificate: Mapping[str, str]) -> Iterator[Server]:
    """A server to part from: everyone's, or one of its own, which notices soon that a client is gone."""
    if not language.killed:
        yield server
        return
    with Server(env={**certificate, **KILLED_SOON, "RMQ_CLIENT_SILENT_MS": f"{SILENT_MS}"}) as victim:
        yield victim


def test_a_clean_shutdown(language: Language, left: Server, trusted: Mapping[str, str], tmp_path: Path) -> None:
    """Clients that have done some work stop when told to, also right behind a kill, and their process then ends by
    itself with exit code 0.
    """
    topic = f"closing-{language.name}"
    with open_driver(language, tmp_path, trusted) as process:
        session = Session(process, left.endpoint)
        producer, consumer = pair(session, topic)
        producer.send(b"last")
        consumer.gather(1)
        clients: list[Client] = [producer, consumer]
        if language.pushes:
            push = session.push(f"{topic}-push", topic)
            push.until(1)
            clients.append(push)
        if language.killed:
            left.kill()
            left.restart()
        stopping = [process.begin("stop", client.name) for client in clients]
        assert [stopped.result(STOP_S) for stopped in stopping] == [{}] * len(clients)
        assert process.close(within_s=20) == 0
