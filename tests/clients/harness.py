"""Runs the official client of another language as a long-lived process and speaks to it in lines of JSON.

Owns the process, its pipes and the matching of answers to commands; promises that every wait is bounded and that a
closed driver leaves no process behind. Knows no scenario and no build (builders.py).

A command is {"id", "op", "name", ...}; its answer {"id", ...} or {"id", "error": text}. Answers come in any order;
bodies are base64.

    op        further fields                                       answer
    producer  endpoint, topic                                      -
    simple    endpoint, group, topic, filter, await_s              -
    push      endpoint, group, topic, filter, nack_first           -          refuses deliveries 1 to nack_first
    send      topic, body, tag, keys, properties, message_group    message_id     `priority`, too, where it has one
    send_all  topic, bodies                                        message_ids    none waits for the one before it
    deciding  endpoint, topic, decision                            -          a producer with a transaction checker
    begin     topic, body                                          message_id of a transaction that is begun with it
    end       message_id, commit                                   -
    checked   -                                                    bodies     it was asked about, since the last call
    receive   max, invisible_s                                     messages   of a simple consumer
    ack       receipt                                              -
    change    receipt, invisible_s                                 receipt    the new one
    taken     -                                                    messages   of a push consumer, since the last call
    stop      -                                                    -          shuts the named client down
"""

import base64
import contextlib
import itertools
import json
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rmq_proxy.admin_client import AdminClient
from tests.serving import Server

JSON = dict[str, Any]
CALL_S = 30.0
SHAKEN_S = 60.0
LEASES_S = 30.0


class DriverError(Exception):
    """What the SDK said instead of doing what it was asked."""


@dataclass(frozen=True)
class Received:
    """One delivery, as the SDK shows it."""

    message_id: str
    topic: str
    body: bytes
    tag: str | None
    keys: tuple[str, ...]
    properties: Mapping[str, str]
    attempt: int
    receipt: str


def received(shown: JSON) -> Received:
    """A delivery from the protocol's form; for what is absent some SDKs say "" or null, others have a type for it."""
    return Received(
        message_id=shown["message_id"],
        topic=shown["topic"],
        body=base64.b64decode(shown["body"]),
        tag=shown["tag"] or None,
        keys=tuple(shown["keys"] or ()),
        properties=shown["properties"] or {},
        attempt=shown["attempt"],
        receipt=shown["receipt"],
    )


def eventually(found: Callable[[], bool], within_s: float, what: str) -> None:
    """Waits until `found` answers True; fails after `within_s`."""
    deadline_s = time.monotonic() + within_s
    while not found():
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {within_s} s: {what}")
        time.sleep(0.02)


class Process:
    """A driver's process. `log` gets its standard error."""

    def __init__(self, command: Sequence[str], home: Path, extra_env: Mapping[str, str]) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.log = home / "stderr.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=home,
                env={**os.environ, "HOME": str(home), **extra_env},
            )
        self.lock = threading.Lock()
        self.ids = itertools.count(1)
        self.waiting: dict[int, Future[JSON]] = {}
        self.shaken: set[str] = set()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.close(within_s=10)

    def read(self) -> None:
        """Hands each answer to whoever waits for it; runs in its own thread until stdout ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            answer = json.loads(line)
            self.waiting.pop(answer.pop("id")).set_result(answer)
        for future in list(self.waiting.values()):
            future.set_result({"error": f"the driver ended, see {self.log}"})

    def begin(self, op: str, name: str, **args: object) -> "Future[JSON]":
        """Gives a command; the Future is its answer, an error included."""
        assert self.process.stdin is not None
        future: Future[JSON] = Future()
        with self.lock:
            number = next(self.ids)
            self.waiting[number] = future
            line = json.dumps({"id": number, "op": op, "name": name, **args})
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        return future

    def call(self, op: str, name: str, within_s: float = CALL_S, **args: object) -> JSON:
        """Gives a command and waits for its answer; raises DriverError, also for no answer in time.

        The first calls of a client whose server was killed may fail: one of the `shaken` is asked until one succeeds.
        """
        deadline_s = time.monotonic() + SHAKEN_S
        while name in self.shaken and time.monotonic() < deadline_s:
            with contextlib.suppress(DriverError):
                answer = self.ask(op, name, within_s, **args)
                self.shaken.discard(name)
                return answer
            time.sleep(0.1)
        return self.ask(op, name, within_s, **args)

    def ask(self, op: str, name: str, within_s: float, **args: object) -> JSON:
        """`call`, once."""
        try:
            answer = self.begin(op, name, **args).result(within_s)
        except TimeoutError:
            raise DriverError(f"no answer to {op} {name} within {within_s} s") from None
        if "error" in answer:
            raise DriverError(answer["error"])
        return answer

    def close(self, within_s: float) -> int:
        """Ends the driver by ending its stdin; returns its exit code, or raises subprocess.TimeoutExpired."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with self.lock, contextlib.suppress(BrokenPipeError):  # it has ended already, and did not read all
            self.process.stdin.close()
        code = self.process.wait(within_s)
        self.reader.join(within_s)
        self.process.stdout.close()
        return code


class Client:
    """One named SDK object in a driver."""

    def __init__(self, process: Process, kind: str, name: str, args: JSON) -> None:
        self.process = process
        self.name = name
        self.topic: str = args["topic"]
        process.call(kind, name, **args)

    def stop(self, within_s: float = CALL_S) -> None:
        """Shuts it down in the SDK's own way."""
        self.process.call("stop", self.name, within_s)


class Producer(Client):
    def send(
        self,
        body: bytes,
        tag: str | None = None,
        keys: Sequence[str] = (),
        properties: Mapping[str, str] | None = None,
        message_group: str | None = None,
        priority: int | None = None,
        lite_topic: str | None = None,
    ) -> str:
        """Sends to its topic; returns the message id."""
        text = base64.b64encode(body).decode()
        args: JSON = {"topic": self.topic, "tag": tag, "keys": list(keys), "properties": dict(properties or {})}
        args["message_group"] = message_group
        if priority is not None:
            args["priority"] = priority
        if lite_topic is not None:
            args["lite_topic"] = lite_topic
        message_id: str = self.process.call("send", self.name, body=text, **args)["message_id"]
        return message_id

    def send_all(self, bodies: Sequence[bytes]) -> list[str]:
        """Sends to its topic without waiting in between; returns the message ids in their order."""
        texts = [base64.b64encode(body).decode() for body in bodies]
        message_ids: list[str] = self.process.call("send_all", self.name, topic=self.topic, bodies=texts)["message_ids"]
        return message_ids

    def delay(self, body: bytes, due_ms: int) -> tuple[str, str]:
        """Sends to its topic for then, wall-clock time; returns the message id and what recalls it."""
        text = base64.b64encode(body).decode()
        args: JSON = {"topic": self.topic, "tag": None, "keys": [], "properties": {}, "message_group": None}
        args["due_ms"] = due_ms
        answer = self.process.call("send", self.name, body=text, **args)
        return answer["message_id"], answer["recall"]

    def recall(self, handle: str) -> str:
        """Takes a delayed message back; returns its id. Raises DriverError where the server refuses."""
        message_id: str = self.process.call("recall", self.name, topic=self.topic, recall=handle)["message_id"]
        return message_id


class DecidingProducer(Client):
    """A producer of transactions; to a check it answers what it was made with: COMMIT, ROLLBACK or UNKNOWN."""

    def begin(self, body: bytes) -> str:
        """Sends a half message to its topic; returns its id, which the transaction goes by."""
        text = base64.b64encode(body).decode()
        message_id: str = self.process.call("begin", self.name, topic=self.topic, body=text)["message_id"]
        return message_id

    def end(self, message_id: str, *, commit: bool) -> None:
        """Raises DriverError where the SDK reports the server's refusal."""
        self.process.call("end", self.name, message_id=message_id, commit=commit)

    def checked(self) -> list[bytes]:
        """The messages that the server asked about since the last call."""
        return [base64.b64decode(text) for text in self.process.call("checked", self.name)["bodies"]]


class SimpleConsumer(Client):
    def receive(self, most: int = 32, invisible_s: int = 30, within_s: float = CALL_S) -> list[Received]:
        """One receive call of the SDK."""
        answer = self.process.call("receive", self.name, within_s, max=most, invisible_s=invisible_s)
        return [received(shown) for shown in answer["messages"]]

    def gather(self, count: int, invisible_s: int = 30, within_s: float = CALL_S) -> list[Received]:
        """Receives until `count` messages are there; does not ack."""
        gathered: list[Received] = []
        deadline_s = time.monotonic() + within_s
        while len(gathered) < count and time.monotonic() < deadline_s:
            gathered += self.receive(invisible_s=invisible_s)
        assert len(gathered) == count, f"{len(gathered)} of {count} messages within {within_s} s"
        return gathered

    def ack(self, receipt: str) -> None:
        """Raises DriverError where the SDK reports the server's refusal."""
        self.process.call("ack", self.name, receipt=receipt)

    def change(self, receipt: str, invisible_s: int) -> str:
        """Returns the receipt handle that holds from now on."""
        answer: str = self.process.call("change", self.name, receipt=receipt, invisible_s=invisible_s)["receipt"]
        return answer


class PushConsumer(Client):
    deliveries: list[Received]

    def __init__(self, process: Process, kind: str, name: str, args: JSON) -> None:
        self.deliveries = []
        super().__init__(process, kind, name, args)

    def poll(self) -> list[Received]:
        """All deliveries so far."""
        self.deliveries += [received(shown) for shown in self.process.call("taken", self.name)["messages"]]
        return self.deliveries

    def until(self, count: int, within_s: float = CALL_S) -> list[Received]:
        """Waits for `count` deliveries in all."""
        eventually(lambda: len(self.poll()) >= count, within_s, f"{count} deliveries, but {len(self.deliveries)}")
        return self.deliveries

    def until_each(self, bodies: Iterable[bytes], times: int, within_s: float) -> list[Received]:
        """Waits until each body has come so often, at least: through a kill it may come more often."""
        wanted = Counter(dict.fromkeys(bodies, times))
        eventually(lambda: wanted <= Counter(one.body for one in self.poll()), within_s, f"each of {bodies}")
        return self.deliveries


class Lite(Client):
    """What consumers of lite topics have in common."""

    def subscribe(self, *lite_topics: str) -> None:
        """Lite topics, too. Raises DriverError where the SDK reports the server's refusal."""
        self.process.call("subscribe", self.name, lite_topics=lite_topics)

    def unsubscribe(self, *lite_topics: str) -> None:
        """Lite topics no more."""
        self.process.call("unsubscribe", self.name, lite_topics=lite_topics)


class LiteConsumer(Lite, PushConsumer):
    """Is given what it subscribes."""


class LiteSimpleConsumer(Lite, SimpleConsumer):
    """Takes what it subscribes."""


def leased(admin: AdminClient, group: str) -> bool:
    """Whether anything is."""
    return any(topic.leases for found in admin.groups(group, leases=True) for topic in found.topics)


class Session:
    """A driver bound to one server, its `victim` if it is to be killed: makes clients, each under a name of its own."""

    def __init__(self, process: Process, endpoint: str, victim: Server | None = None) -> None:
        self.process = process
        self.endpoint = endpoint
        self.victim = victim
        self.await_s = 5 if victim is None else 1  # RocketMQ clamps it to 5-20 s, a victim is told otherwise
        self.names: list[str] = []

    def middle(self, settled: str = "") -> None:
        """The middle of a test, where the server is killed and started again, if there is a victim.

        First it is waited until the group `settled` holds nothing: what a push consumer has been given its SDK answers
        for in its own time.
        """
        if self.victim is None:
            return
        if settled:
            with AdminClient(self.endpoint, timeout_s=20) as admin:
                eventually(lambda: not leased(admin, settled), LEASES_S, f"{settled} holds nothing")
        self.victim.kill()
        self.victim.restart()
        self.process.shaken.update(self.names)

    def args(self, **more: object) -> JSON:
        """What every client needs, and `more`."""
        return {"endpoint": self.endpoint, **more}

    def name(self, kind: str) -> str:
        """A name nobody else has."""
        self.names.append(f"{kind}-{next(self.process.ids)}")
        return self.names[-1]

    def producer(self, topic: str) -> Producer:
        """Starts a producer that knows its topic beforehand."""
        return Producer(self.process, "producer", self.name("producer"), self.args(topic=topic))

    def deciding(self, topic: str, decision: str = "UNKNOWN") -> DecidingProducer:
        """Starts a producer of transactions."""
        return DecidingProducer(
            self.process, "deciding", self.name("deciding"), self.args(topic=topic, decision=decision)
        )

    def simple(self, group: str, topic: str, tags: str = "*", await_s: int = 0) -> SimpleConsumer:
        """Starts a simple consumer; `await_s` is its long poll, without it the server's least."""
        args = self.args(group=group, topic=topic, filter=tags, await_s=await_s or self.await_s)
        return SimpleConsumer(self.process, "simple", self.name("simple"), args)

    def push(self, group: str, topic: str, tags: str = "*", nack_first: int = 0) -> PushConsumer:
        """Starts a push consumer that refuses the first `nack_first` deliveries of each message."""
        args = self.args(group=group, topic=topic, filter=tags, nack_first=nack_first)
        return PushConsumer(self.process, "push", self.name("push"), args)

    def lite(self, group: str, topic: str, nack_first: int = 0) -> LiteConsumer:
        """Starts a push consumer of a topic's lite topics, none of which it subscribes yet."""
        args = self.args(group=group, topic=topic, nack_first=nack_first)
        return LiteConsumer(self.process, "lite", self.name("lite"), args)

    def lite_simple(self, group: str, topic: str) -> LiteSimpleConsumer:
        """Starts a simple consumer of a topic's lite topics, none of which it subscribes yet."""
        args = self.args(group=group, topic=topic, await_s=self.await_s)
        return LiteSimpleConsumer(self.process, "lite_simple", self.name("lite-simple"), args)
