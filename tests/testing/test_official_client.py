"""The official Python client in the test's own process: its protobuf classes and ours do not meet, and a reset of the
server is no end for clients that live longer than one test.
"""

import pytest

from tests.testing.conftest import Runs

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.foreign

CLIENTS = """
import threading, time
import pytest
from rocketmq import (
    ClientConfiguration, ConsumeResult, Credentials, FilterExpression, Message, MessageListener, Producer, PushConsumer,
    SimpleConsumer,
)
from rmq.pytest_plugin import server_factory

rocketmq_server = server_factory(groups={"billing": {"attempts_max": 2, "retry_ms": [60_000]}})

class Recorder(MessageListener):
    def __init__(self, result):
        self.result, self.seen, self.changed = result, [], threading.Condition()

    def consume(self, message):
        with self.changed:
            self.seen.append((message.body.decode(), message.delivery_attempt))
            self.changed.notify_all()
        return self.result

    def until(self, *wanted):
        with self.changed:
            assert self.changed.wait_for(lambda: self.seen == list(wanted), timeout=30), self.seen

def started(client):
    client.startup()
    return client

def configuration(server):
    return ClientConfiguration(server.endpoint, Credentials())

def push(server, group, listener, topic="orders"):
    return started(PushConsumer(configuration(server), group, listener, {topic: FilterExpression()}))

def message(topic, body):
    made = Message()
    made.topic, made.body = topic, body
    return made

def eventually(true):
    deadline_s = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
"""


def test_a_push_consumer_gets_what_is_sent_and_acknowledges_it(runs: Runs) -> None:
    """Sent by the official producer; nothing stays leased."""
    result = runs(
        CLIENTS
        + """
def test_it(rocketmq):
    listener = Recorder(ConsumeResult.SUCCESS)
    consumer = push(rocketmq, "billing", listener)
    producer = started(Producer(configuration(rocketmq), ("orders",)))
    producer.send(message("orders", b"one book"))
    listener.until(("one book", 1))
    eventually(lambda: rocketmq.leases("billing") == [])
    assert rocketmq.groups()["billing"].clients != ()
    consumer.shutdown()
    producer.shutdown()
"""
    )
    result.assert_outcomes(passed=1)


def test_a_sql92_filter_of_the_official_client(runs: Runs) -> None:
    """A push consumer gets only messages for which it is true; the others are passed over."""
    result = runs(
        CLIENTS
        + """
from rocketmq.grpc_protocol import FilterType

def test_it(rocketmq):
    listener = Recorder(ConsumeResult.SUCCESS)
    wanted = {"orders": FilterExpression("price > 5 AND colour IN ('red', 'blue')", FilterType.SQL)}
    consumer = started(PushConsumer(configuration(rocketmq), "billing", listener, wanted))
    for price, colour in ((3, "red"), (7, "green"), (9, "blue")):
        rocketmq.send("orders", f"{price}", properties={"price": f"{price}", "colour": colour})
    listener.until(("9", 1))
    eventually(lambda: rocketmq.leases("billing") == [])
    consumer.shutdown()
"""
    )
    result.assert_outcomes(passed=1)


def test_minutes_of_retries_take_a_moment(runs: Runs) -> None:
    """A message that a push consumer refuses comes again after its minute, and after the second delivery is dead."""
    result = runs(
        CLIENTS
        + """
def test_it(rocketmq):
    listener = Recorder(ConsumeResult.FAILURE)
    consumer = push(rocketmq, "billing", listener)
    rocketmq.send("orders", "one book")
    listener.until(("one book", 1))
    eventually(lambda: rocketmq.advance(minutes=1) and len(listener.seen) == 2)
    eventually(lambda: rocketmq.advance(minutes=1) and rocketmq.dead_letters("billing"))
    listener.until(("one book", 1), ("one book", 2))
    (dead,) = rocketmq.dead_letters("billing")
    assert (dead.text, dead.origin_topic) == ("one book", "orders")
    consumer.shutdown()
"""
    )
    result.assert_outcomes(passed=1)


def test_clients_that_live_longer_than_a_test_go_on_after_a_reset(runs: Runs) -> None:
    """A session's producer and consumers serve each test in turn; what one test left un-acked does not come again."""
    result = runs(
        CLIENTS
        + """
@pytest.fixture(scope="session")
def producer(rocketmq_server):
    made = started(Producer(configuration(rocketmq_server), ("orders",)))
    yield made
    made.shutdown()

@pytest.fixture(scope="session")
def listener(rocketmq_server):
    made = Recorder(ConsumeResult.SUCCESS)
    consumer = push(rocketmq_server, "billing", made)
    yield made
    consumer.shutdown()

@pytest.fixture(scope="session")
def simple(rocketmq_server):
    made = started(SimpleConsumer(configuration(rocketmq_server), "audit", {"orders": FilterExpression()}))
    yield made
    made.shutdown()

@pytest.mark.parametrize("number", range(4))
def test_it(producer, listener, simple, rocketmq, number):
    listener.seen.clear()
    body = f"order {number}"
    producer.send(message("orders", body.encode()))
    listener.until((body, 1))
    assert [m.text for m in rocketmq.messages("orders")] == [body]
    (held,) = simple.receive(16, 60)
    assert (held.body.decode(), held.delivery_attempt) == (body, 1)
    if number % 2:
        simple.ack(held)
    assert len(rocketmq.leases("audit")) == 1 - number % 2
"""
    )
    result.assert_outcomes(passed=4)


def test_a_client_that_one_test_forgot_does_not_disturb_the_next(runs: Runs) -> None:
    """It polls on, for its own topic and group: other names are clean, and its late answers to what was deleted harm
    nothing.
    """
    result = runs(
        CLIENTS
        + """
FORGOTTEN = []

def test_first(rocketmq):
    listener = Recorder(ConsumeResult.SUCCESS)
    FORGOTTEN.append(push(rocketmq, "forgotten", listener, "old-orders"))
    simple = started(SimpleConsumer(configuration(rocketmq), "audit", {"old-orders": FilterExpression()}))
    rocketmq.send("old-orders", "one book")
    listener.until(("one book", 1))
    FORGOTTEN.append(simple)
    FORGOTTEN.extend(simple.receive(16, 60))
    assert len(FORGOTTEN) == 3

def test_second(rocketmq):
    assert rocketmq.messages("old-orders") == []
    with pytest.raises(Exception):
        FORGOTTEN[1].ack(FORGOTTEN[2])
    rocketmq.send("orders", "two books")
    simple = started(SimpleConsumer(configuration(rocketmq), "billing", {"orders": FilterExpression()}))
    assert [m.body for m in simple.receive(16, 60)] == [b"two books"]
    rocketmq.advance(hours=1)
    assert [m.delivery_attempt for m in simple.receive(16, 60)] == [2]
    simple.shutdown()
    for client in FORGOTTEN[:2]:
        client.shutdown()
    assert "Traceback" not in rocketmq.log, rocketmq.log
"""
    )
    result.assert_outcomes(passed=2)


def test_the_server_may_share_the_process_with_the_client(runs: Runs) -> None:
    """`rmq.testing.broker` in one loop, the client, which blocks, in other threads."""
    result = runs(
        CLIENTS
        + """
import asyncio
import rmq.testing

def test_it():
    asyncio.run(use())

async def use():
    async with rmq.testing.broker() as broker:
        producer = await asyncio.to_thread(started, Producer(configuration(broker), ("orders",)))
        await asyncio.to_thread(producer.send, message("orders", b"one book"))
        listener = Recorder(ConsumeResult.SUCCESS)
        consumer = await asyncio.to_thread(push, broker, "billing", listener)
        await asyncio.to_thread(listener.until, ("one book", 1))
        assert [m.text for m in broker.messages("orders")] == ["one book"]
        await asyncio.to_thread(consumer.shutdown)
        await asyncio.to_thread(producer.shutdown)
"""
    )
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*Traceback*")


def test_rate_limits_slow_the_clients_down_and_lose_nothing(runs: Runs) -> None:
    """A producer is told TooManyRequests where its own retries do not help; a push consumer gets less at a time."""
    result = runs(
        CLIENTS.replace("groups=", "client_sends_per_s_max=4, client_receives_per_s_max=1, groups=")
        + """
from rocketmq.v5.exception import TooManyRequestsException

def test_it(rocketmq):
    listener = Recorder(ConsumeResult.SUCCESS)
    consumer = push(rocketmq, "billing", listener)
    producer = started(Producer(configuration(rocketmq), ("orders",)))
    refused = 0
    for number in range(12):
        sent = False
        while not sent:
            try:
                producer.send(message("orders", b"%d" % number))
                sent = True
            except TooManyRequestsException:
                refused += 1
                time.sleep(0.1)
    assert refused
    eventually(lambda: {body for body, _ in listener.seen} >= {str(n) for n in range(12)})
    eventually(lambda: rocketmq.leases("billing") == [])
    consumer.shutdown()
    producer.shutdown()
"""
    )
    result.assert_outcomes(passed=1)
