"""What many of one kind cost a server of its own: polls that wait, connections that idle, TLS handshakes.

Memory is the server's anonymous memory for each, all of it: the connection's or the call's, the broker's, the
kernel's part not. The load generator's commands are `polls` and `hold`.
"""

from collections.abc import Mapping
from pathlib import Path

from bench.book import Line
from bench.driver import ERROR, Sample
from bench.servers import Rmq
from bench.stand import Stand
from bench.tools import BenchError

TOPICS = 100
POLLS_A_TOPIC = 100
MESSAGES = 2000
MESSAGES_PER_S = 100
CONNECTIONS = 10_000
TLS_CONNECTIONS = 5000
WATCHED_S = 20
OPENING = 20  # connections at once: fewer than handshakes_max
LIMITS = {"RMQ_POLLS_PER_GROUP_MAX": "100000"}


async def polls_wide(stand: Stand, _folder: Path) -> list[Line]:
    """10,000 polls of 20 s over 100 topics, begun evenly; then messages; then as many that do not end."""
    count = f"{TOPICS * POLLS_A_TOPIC:,} polls, {TOPICS} topics"
    names = {"topic": "bench-wide", "group": "bench-wide", "conns": TOPICS, "inflight": POLLS_A_TOPIC}
    times = {"poll": "20s", "ramp": "20s", "duration": f"{WATCHED_S}s"}
    messages = {"n": MESSAGES, "rate": MESSAGES_PER_S}
    busy = measure(stand, "polls", {**names, **times, **messages}, LIMITS)
    times = {"poll": "120s", "ramp": "10s", "duration": f"{WATCHED_S}s"}
    quiet = measure(stand, "polls", {**names, **times}, {**LIMITS, "RMQ_POLL_MS_MAX": "120000"})
    return [
        Line(f"{count}: memory of one", busy["bytes_a_poll"] / 1024, "KiB", "2 KB"),
        Line(f"{count} of 20 s: share of a core", busy["core_pct"], "%", "6 %"),
        Line(f"{count}, none ends: share of a core", quiet["core_pct"], "%", "1 %"),
        Line(f"{count}: send to receive p50", busy["e2e_ms.p50"], "ms"),
        Line(f"{count}: send to receive p99", busy["e2e_ms.p99"], "ms", "5 ms"),
        Line(f"{count}: messages that no poll got", busy["e2e_lost"], "", "0"),
    ]


async def connections(stand: Stand, _folder: Path) -> list[Line]:
    """10,000 in the clear, each after one call with an SDK's headers."""
    sample = held(stand, CONNECTIONS, tls=False)
    what = f"{CONNECTIONS:,} idle connections"
    return [
        Line(f"{what}: memory of one", sample["bytes_a_conn"] / 1024, "KiB", "10 KB"),
        Line(f"{what}: share of a core", sample["core_pct"], "%"),
        Line("a connection and its first call: server CPU", sample["cpu_ms_a_conn"], "ms"),
    ]


async def tls(stand: Stand, _folder: Path) -> list[Line]:
    """5,000 with TLS 1.3, ECDSA on P-256, no session resumed; as many in the clear tell what is TLS."""
    clear, over_tls = (held(stand, TLS_CONNECTIONS, tls=one) for one in (False, True))
    what = f"{TLS_CONNECTIONS:,} idle TLS connections"
    return [
        Line(f"{what}: memory of one", over_tls["bytes_a_conn"] / 1024, "KiB"),
        Line(f"{what}: share of a core", over_tls["core_pct"], "%"),
        Line("a TLS handshake: server CPU", over_tls["cpu_ms_a_conn"] - clear["cpu_ms_a_conn"], "ms"),
    ]


def held(stand: Stand, count: int, *, tls: bool) -> Sample:
    """Raises BenchError where a connection failed: the figures would be those of fewer."""
    flags = {"conns": count, "inflight": OPENING, "duration": f"{WATCHED_S}s", "tls": str(tls).lower()}
    sample = measure(stand, "hold", flags, {})
    if sample["errors"]:
        said = next((key.removeprefix(ERROR) for key in sample if key.startswith(ERROR)), "")
        raise BenchError(f"{sample['errors']:.0f} of {count} connections failed: {said}")
    return sample


def measure(stand: Stand, command: str, flags: Mapping[str, object], environment: Mapping[str, str]) -> Sample:
    """On a server of its own, whose limits the environment raises. Raises BenchError."""
    server = stand.spawn(Rmq.name, environment=environment)
    server.await_ready()
    try:
        return stand.run(server, command, 120.0, **flags)
    finally:
        stand.discard(server)
