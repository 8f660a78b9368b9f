"""The loads: what each one does to a server, and which of the numbers it yields are shown.

A load is measured on the server that all loads share, unless it is `own`: then it starts and ends one for itself.
Their order is the order in which they run: transactions after all others, because what they leave in a server is
checked again and again. All bodies are 1 KiB.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import machine
from bench.driver import Sample
from bench.servers import Apache
from bench.stand import Stand

WARM_S = 1.0  # of each measurement, uncounted
FILL_PER_S = 20_000  # messages for a consume load whose rate is not known yet
FILL_MARGIN = 1.5
LATENESS_PER_S = 500
SETTLE_S = 2.0
DELAY_S = 5.0


@dataclass(frozen=True)
class Figure:
    """One number of a sample: its key there, its name and unit in the table, and the spread that is still no noise."""

    key: str
    text: str
    unit: str
    spread_max: float = 0.10
    goal: str = ""


@dataclass(frozen=True)
class Load:
    """`measure(stand, server's name, seconds)`; `kind` of message that the server must serve; settle_s afterwards."""

    name: str
    measure: Callable[[Stand, str, float], Sample]
    figures: tuple[Figure, ...]
    kind: str = ""
    settle_s: float = 0.0
    own: bool = False
    takes_s: float = 0.0  # beside the measured seconds, about


MEMORY = (Figure("resident_mib", "resident", "MiB"), Figure("anonymous_mib", "anonymous", "MiB"))
CPU = Figure("server_cpu_s_per_100k", "server CPU", "s/100k")
SENT = Figure("send_per_s", "messages", "/s")
SEND = (
    SENT,
    CPU,
    Figure("send_call_ms.p50", "call p50", "ms", 0.15),
    Figure("send_call_ms.p99", "call p99", "ms", 0.50),
    *MEMORY,
)
CONSUME = (Figure("recv_per_s", "messages", "/s"), CPU, *MEMORY)
BOTH = (
    Figure("send_per_s", "sent", "/s"),
    Figure("recv_per_s", "received", "/s"),
    CPU,
    Figure("e2e_ms.p50", "send to receive p50", "ms", 0.50),
    *MEMORY,
)
LATENCY = (
    Figure("send_ms.p50", "send p50", "ms", 0.15),
    Figure("send_ms.p99", "send p99", "ms", 0.50),
    Figure("e2e_ms.p50", "send to receive p50", "ms", 0.15),
    Figure("e2e_ms.p99", "send to receive p99", "ms", 0.50),
)
LATENESS = (
    Figure("late_ms.p50", "late p50", "ms", 0.50),
    Figure("late_ms.p99", "late p99", "ms", 0.50, "10 ms"),
    Figure("early", "early", "messages", goal="0"),
    CPU,
)
COLD = (
    Figure("first_send_s", "launch to first send", "s", 0.15, "0.5 s"),
    Figure("first_receive_s", "launch to first receive", "s", 0.15),
    Figure("cpu_s", "server CPU until then", "s", 0.15),
    *MEMORY,
)
IDLE = (
    Figure("resident_mib", "resident", "MiB", goal="60 MB"),
    Figure("anonymous_mib", "anonymous", "MiB"),
    Figure("core_pct", "share of a core", "%", 0.30, "0.5 %"),
    Figure("stop_s", "SIGTERM to exit", "s", 0.30, "1 s"),
)


def sending(topic: str, **flags: object) -> Callable[[Stand, str, float], Sample]:
    """Sends to one topic for the given time."""

    def measure(stand: Stand, name: str, seconds: float) -> Sample:
        stand.prime(name, topic)
        times = {"warmup": f"{WARM_S}s", "duration": f"{seconds}s"}
        return stand.run(stand.server(name), "send", seconds + WARM_S, topic=topic, **times, **flags)

    return measure


def consume(stand: Stand, name: str, seconds: float) -> Sample:
    """Receives and acknowledges, 32 in a call, what waits in a topic; again with more if that was too little."""
    per_s = FILL_PER_S
    for _ in range(3):
        fill(stand, name, int(per_s * (seconds + WARM_S)))
        sample = consume_once(stand, name, seconds)
        if "drained" not in sample:
            break
        per_s = max(int(sample["recv_per_s"] * FILL_MARGIN), 2 * per_s)
    return sample


def fill(stand: Stand, name: str, wanted: int) -> None:
    """At least `wanted` messages wait in the topic, and its group knows of them from the first."""
    stand.prime(name, "bench-consume")
    stand.register(name, "bench-consume")
    server = stand.server(name)
    if (missing := wanted - server.backlog) > 0:
        sample = stand.run(server, "send", 600.0, topic="bench-consume", n=missing, batch=32, inflight=8)
        server.backlog += int(sample["sent_total"])


def consume_once(stand: Stand, name: str, seconds: float) -> Sample:
    """Keeps count of what is left."""
    server = stand.server(name)
    names = {"topic": "bench-consume", "group": "bench-consume"}
    times = {"warmup": f"{WARM_S}s", "duration": f"{seconds}s", "idle": "3s"}
    sample = stand.run(server, "consume", seconds + WARM_S, batch=32, inflight=8, **names, **times)
    server.backlog = 0 if "drained" in sample else server.backlog - int(sample["received_total"])
    return sample


def both(stand: Stand, name: str, seconds: float) -> Sample:
    """Sends and consumes at once, each time on a topic of its own: no backlog of the time before."""
    topic = f"bench-both-{time.time_ns()}"
    stand.prime(name, topic)
    stand.server(name).make_group(topic)
    names = {"topic": topic, "group": topic}
    times = {"warmup": f"{WARM_S}s", "duration": f"{seconds}s"}
    return stand.run(stand.server(name), "both", seconds + WARM_S, **names, **times)


def latency(stand: Stand, name: str, seconds: float) -> Sample:
    """One message in flight."""
    topic = "bench-latency"
    stand.prime(name, topic)
    stand.register(name, topic)
    names = {"topic": topic, "group": topic, "n": int(30 * seconds)}
    times = {"warmup": f"{WARM_S}s", "duration": f"{seconds}s"}
    return stand.run(stand.server(name), "latency", 3 * seconds, **names, **times)


def lateness(stand: Stand, name: str, seconds: float) -> Sample:
    """How long after its delivery time a message comes."""
    topic = "bench-lateness"
    stand.register(name, topic)
    numbers = {"n": int(LATENESS_PER_S * seconds), "rate": LATENESS_PER_S}
    times = {"delay_min": "1s", "delay_max": f"{max(seconds, 2.0)}s"}
    return stand.run(stand.server(name), "delay", 3 * seconds, topic=topic, group=topic, **numbers, **times)


def cold(stand: Stand, name: str, _seconds: float) -> Sample:
    """From the launch of the process to the first message through, with no message in the store."""
    server = stand.spawn(name, store_with_topic(stand, "bench-cold") if name == Apache.name else None)
    names = {"topic": "bench-cold", "group": "bench-cold"}
    sample = stand.run(server, "cold", 60.0, duration="60s", t0=server.launched_ns, **names)
    sample["cpu_s"] = machine.cpu_s(server.pids)
    server.await_ready()
    stand.discard(server)
    return sample


def store_with_topic(stand: Stand, topic: str) -> Path:
    """Apache does not make a topic on use, and a new group starts at the end: a store that has both, made once."""
    data = stand.scratch / topic
    if not data.exists():
        server = stand.spawn(Apache.name, data)
        server.await_ready()
        stand.first_send(server, topic)
        stand.look(server, topic)
        server.stop()
        stand.discard(server)
    return data


def idle(stand: Stand, name: str, _seconds: float) -> Sample:
    """What a server costs that nobody uses, after one message; and how it stops."""
    server = stand.spawn(name)
    server.await_ready()
    stand.first_send(server, "bench-idle")
    time.sleep(SETTLE_S)
    before_s = machine.cpu_s(server.pids)
    time.sleep(stand.settings.idle_s)
    used_s = machine.cpu_s(server.pids) - before_s
    sample = {**machine.memory_mib(server.pids), "core_pct": 100 * used_s / stand.settings.idle_s}
    sample["stop_s"] = server.stop()
    stand.discard(server)
    return sample


LOADS: dict[str, Load] = {
    load.name: load
    for load in (
        Load("send-b1", sending("bench-send-b1"), SEND),
        Load("send-b32", sending("bench-send-b32", batch=32, inflight=8), SEND),
        Load("consume", consume, CONSUME, takes_s=6.0),
        Load("both", both, BOTH, takes_s=4.0),
        Load("latency", latency, LATENCY, takes_s=20.0),
        Load("fifo", sending("bench-fifo", type="fifo"), SEND, "fifo"),
        Load(
            "delay",
            sending("bench-delay", type="delay", delay_for=f"{DELAY_S}s"),
            SEND,
            "delay",
            settle_s=DELAY_S + SETTLE_S,
        ),
        Load("lateness", lateness, LATENESS, "delay", takes_s=16.0),
        Load("transaction", sending("bench-transaction", type="transaction"), SEND, "transaction"),
        Load("cold", cold, COLD, own=True, takes_s=2.0),
        Load("idle", idle, IDLE, own=True, takes_s=26.0),
    )
}
PAIRS = ("send-b1", "send-b32", "consume", "both")  # what --apache measures unless told otherwise
