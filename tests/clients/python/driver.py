"""The official Python client behind the drivers' protocol (see harness.py): JSON lines in on stdin, out on stdout.

Owns the SDK objects by name; promises one answer per command, in any order; does not retry or judge anything.
"""

import base64
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TextIO

from rocketmq import (
    ClientConfiguration,
    ConsumeResult,
    Credentials,
    FilterExpression,
    Message,
    Producer,
    PushConsumer,
    SimpleConsumer,
    Transaction,
    TransactionResolution,
)

JSON = dict[str, Any]
RESOLUTIONS = {
    "COMMIT": TransactionResolution.COMMIT,
    "ROLLBACK": TransactionResolution.ROLLBACK,
    "UNKNOWN": TransactionResolution.TRANSACTION_RESOLUTION_UNSPECIFIED,
}


REQUEST_S = 20
"""Instead of 3: a start asks for the route once, hides that no answer came in time, and waits for settings in vain."""
SWITCH = "rocketmq.client.enableSsl"  # the name is the Go SDK's
SECURE = {"tls_enable": True} if os.environ.get(SWITCH) == "true" else {}


class Recorder:
    """A push listener: refuses the first `nack_first` deliveries of each message and records every one.

    Not derived from the SDK's MessageListener, which is untyped; the SDK asks for no more than the method.
    """

    def __init__(self, nack_first: int) -> None:
        self.nack_first = nack_first
        self.lock = threading.Lock()
        self.seen: Counter[str] = Counter()  # the client does not count its own retries of FIFO messages
        self.deliveries: list[JSON] = []

    def consume(self, message: Message) -> ConsumeResult:
        """Called by the SDK on one of its threads."""
        with self.lock:
            self.deliveries.append(describe(message))
            self.seen[message.message_id] += 1
            refused = self.seen[message.message_id] <= self.nack_first
        return ConsumeResult.FAILURE if refused else ConsumeResult.SUCCESS

    def drain(self) -> list[JSON]:
        """What came since the last call."""
        with self.lock:
            taken, self.deliveries = self.deliveries, []
        return taken


class Decider:
    """A transaction checker that answers always the same, and records what it was asked about."""

    def __init__(self, decision: str) -> None:
        self.resolution: int = RESOLUTIONS[decision]
        self.lock = threading.Lock()
        self.bodies: list[str] = []

    def check(self, message: Message) -> int:
        """Called by the SDK on a thread of its own."""
        with self.lock:
            self.bodies.append(base64.b64encode(message.body).decode())
        return self.resolution

    def drain(self) -> list[str]:
        """What came since the last call."""
        with self.lock:
            taken, self.bodies = self.bodies, []
        return taken


def describe(message: Message) -> JSON:
    """A delivered message as the protocol shows it."""
    return {
        "message_id": message.message_id,
        "topic": message.topic,
        "body": base64.b64encode(message.body).decode(),
        "tag": message.tag,
        "keys": sorted(message.keys),
        "properties": dict(message.properties),
        "attempt": message.delivery_attempt,
        "receipt": message.receipt_handle,
    }


class Driver:
    """One method per command; the clients and the messages they hold live here by name and by receipt handle."""

    def __init__(self) -> None:
        self.clients: dict[str, Producer | SimpleConsumer | PushConsumer] = {}
        self.recorders: dict[str, Recorder] = {}
        self.held: dict[str, Message] = {}
        self.deciders: dict[str, Decider] = {}
        self.transactions: dict[str, Transaction] = {}

    def producer(self, args: JSON) -> JSON:
        """Starts a producer."""
        producer = Producer(configuration(args), topics=[args["topic"]], **SECURE)
        return self.start(args, producer)

    def simple(self, args: JSON) -> JSON:
        """Starts a simple consumer."""
        consumer = SimpleConsumer(configuration(args), args["group"], subscription(args), args["await_s"], **SECURE)
        return self.start(args, consumer)

    def push(self, args: JSON) -> JSON:
        """Starts a push consumer."""
        recorder = self.recorders[args["name"]] = Recorder(args["nack_first"])
        consumer = PushConsumer(configuration(args), args["group"], recorder, subscription(args), **SECURE)
        return self.start(args, consumer)

    def lite(self, args: JSON) -> JSON:
        """Starts a push consumer of lite topics."""
        from rocketmq import LitePushConsumer  # older releases, which this drives too, have none

        recorder = self.recorders[args["name"]] = Recorder(args["nack_first"])
        consumer = LitePushConsumer(configuration(args), args["group"], args["topic"], recorder, **SECURE)
        return self.start(args, consumer)

    def lite_simple(self, args: JSON) -> JSON:
        """Starts a simple consumer of lite topics."""
        from rocketmq import LiteSimpleConsumer  # as above

        topic, group, await_s = args["topic"], args["group"], args["await_s"]
        return self.start(args, LiteSimpleConsumer(topic, configuration(args), group, await_s, **SECURE))

    def subscribe(self, args: JSON) -> JSON:
        """Lite topics, too."""
        for topic in args["lite_topics"]:
            self.clients[args["name"]].subscribe_lite(topic)
        return {}

    def unsubscribe(self, args: JSON) -> JSON:
        """Lite topics no more."""
        for topic in args["lite_topics"]:
            self.clients[args["name"]].unsubscribe_lite(topic)
        return {}

    def start(self, args: JSON, client: Producer | SimpleConsumer | PushConsumer) -> JSON:
        """Starts a client and keeps it under its name."""
        client.startup()
        self.clients[args["name"]] = client
        return {}

    def send(self, args: JSON) -> JSON:
        """Sends one message."""
        message = Message()
        message.topic = args["topic"]
        message.body = base64.b64decode(args["body"])
        if args["tag"]:
            message.tag = args["tag"]
        if args["message_group"]:
            message.message_group = args["message_group"]
        if args.get("lite_topic") is not None:
            message.lite_topic = args["lite_topic"]
        if args.get("priority") is not None:
            message.priority = args["priority"]
        for key in args["keys"]:
            message.keys = key
        for key, value in args["properties"].items():
            message.add_property(key, value)
        if "due_ms" in args:
            message.delivery_timestamp = -(-args["due_ms"] // 1000)  # the SDK takes whole seconds
        sent = self.clients[args["name"]].send(message)
        return {"message_id": sent.message_id, "recall": getattr(sent, "recall_handle", None)}

    def send_all(self, args: JSON) -> JSON:
        """Sends each body without waiting for the one before it."""
        sent = []
        for body in args["bodies"]:
            message = Message()
            message.topic, message.body = args["topic"], base64.b64decode(body)
            sent.append(self.clients[args["name"]].send_async(message))
        return {"message_ids": [future.result().message_id for future in sent]}

    def recall(self, args: JSON) -> JSON:
        """Takes a delayed message back."""
        return {"message_id": self.clients[args["name"]].recall_message(args["topic"], args["recall"])}

    def deciding(self, args: JSON) -> JSON:
        """Starts a producer of transactions."""
        decider = self.deciders[args["name"]] = Decider(args["decision"])
        return self.start(args, Producer(configuration(args), topics=[args["topic"]], checker=decider, **SECURE))

    def begin(self, args: JSON) -> JSON:
        """Sends a half message."""
        message = Message()
        message.topic, message.body = args["topic"], base64.b64decode(args["body"])
        producer = self.clients[args["name"]]
        transaction = producer.begin_transaction()
        message_id: str = producer.send(message, transaction).message_id
        self.transactions[message_id] = transaction
        return {"message_id": message_id}

    def end(self, args: JSON) -> JSON:
        """Commits a transaction or rolls it back."""
        transaction = self.transactions[args["message_id"]]
        transaction.commit() if args["commit"] else transaction.rollback()
        return {}

    def checked(self, args: JSON) -> JSON:
        """What a producer was asked about since the last call."""
        return {"bodies": self.deciders[args["name"]].drain()}

    def receive(self, args: JSON) -> JSON:
        """One receive call; empty after the consumer's await time."""
        messages = self.clients[args["name"]].receive(args["max"], args["invisible_s"]) or []
        self.held.update({message.receipt_handle: message for message in messages})
        return {"messages": [describe(message) for message in messages]}

    def ack(self, args: JSON) -> JSON:
        """Acknowledges a held message."""
        self.clients[args["name"]].ack(self.held[args["receipt"]])
        return {}

    def change(self, args: JSON) -> JSON:
        """Changes the invisible duration of a held message, whose receipt handle changes with it."""
        message = self.held[args["receipt"]]
        self.clients[args["name"]].change_invisible_duration(message, args["invisible_s"])
        self.held[message.receipt_handle] = message
        return {"receipt": message.receipt_handle}

    def taken(self, args: JSON) -> JSON:
        """What a push consumer was given since the last call."""
        return {"messages": self.recorders[args["name"]].drain()}

    def stop(self, args: JSON) -> JSON:
        """Shuts a client down."""
        self.clients.pop(args["name"]).shutdown()
        return {}


def configuration(args: JSON) -> ClientConfiguration:
    """No credentials."""
    return ClientConfiguration(args["endpoint"], Credentials(), request_timeout=REQUEST_S)


def subscription(args: JSON) -> dict[str, FilterExpression]:
    """One topic and its tag filter."""
    return {args["topic"]: FilterExpression(args["filter"])}


def story(error: BaseException) -> str:
    """What went wrong, and what had before: the SDK's clean-up after a failed start fails, too."""
    told, before = f"{type(error).__name__}: {error}", error.__cause__ or error.__context__
    return told if before is None else f"{told}; after {story(before)}"


def answer(verb: Callable[[JSON], JSON], command: JSON, out: TextIO, lock: threading.Lock) -> None:
    """Runs one command and writes its answer."""
    try:
        result = verb(command)
    except Exception as error:  # whatever the SDK raises is the answer
        result = {"error": story(error)}
    with lock:
        out.write(json.dumps({"id": command["id"], **result}) + "\n")
        out.flush()


def main() -> None:
    """Serves commands until stdin ends."""
    driver, lock = Driver(), threading.Lock()
    with ThreadPoolExecutor(max_workers=32) as pool:
        for line in sys.stdin:
            command = json.loads(line)
            pool.submit(answer, getattr(driver, command["op"]), command, sys.stdout, lock)


if __name__ == "__main__":
    main()
