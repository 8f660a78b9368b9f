"""What is measured inside rmq: the broker without a transport, so that our own cost shows; restarts of a large store.

Each figure is a few lines: what, value, unit, goal.
"""

import asyncio
import contextlib
import resource
import shutil
import statistics
import time
import tracemalloc
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path

from bench import crowds, scale, tools
from bench.book import Line, Results
from bench.inside import anonymous_mib, consume_us, fill, make_broker, message, request, send
from bench.servers import Rmq, Server
from bench.stand import Stand
from bench.tools import BenchError
from rmq.broker import Broker
from rmq.clock import SystemClock
from rmq.message import TIMER_DELIVER_MS, Outgoing

BODY = bytes(1024)
SLOW_FSYNC_MS = 5
ROUNDS = 3
LOAD_S = 8.0
COLD_S = 20.0  # the first receive, which is not looked at, has all the others before it
FILES_MAX = 4096
SAVED_S = 10.0  # a checkpoint of a million is written by then, and its memory free

Figure = Callable[[Stand, Path], Coroutine[None, None, list[Line]]]


def measure(stand: Stand, results: Results, names: Sequence[str]) -> None:
    """Measures the named figures, each with a folder of its own, and keeps them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES_MAX, hard) if soft < FILES_MAX else soft, hard))
    for name in names:
        tools.say(name)
        folder = stand.scratch / name
        folder.mkdir()
        results.book.figures[name] = asyncio.run(FIGURES[name](stand, folder))
        shutil.rmtree(folder)
        results.save()


async def restart(stand: Stand, folder: Path) -> list[Line]:
    """A million messages of 1 KiB: clean stop, start, first send; then kill -9 under load, start, first send."""
    return await restarts(stand, folder / "data", 1, BODY, ("1 s", "1.5 s"))


async def restart_large(stand: Stand, folder: Path) -> list[Line]:
    """Ten times as many small ones: what is replayed is the log's tail, whatever lies before it."""
    return await restarts(stand, folder / "data", 10, bytes(10), ("", "2 s"))


async def restarts(stand: Stand, data: Path, millions: int, body: bytes, goals: tuple[str, str]) -> list[Line]:
    """Fills the store and starts it twice."""
    broker = make_broker(data)
    await fill(broker, millions * 1_000_000, body)
    broker.close()
    lines = []
    for what, goal in zip(("clean restart", "after kill -9 under load"), goals, strict=True):
        server = stand.spawn(Rmq.name, data)
        names = {"topic": "figures", "group": "bench-restart"}
        sample = stand.run(server, "cold", COLD_S, duration=f"{COLD_S}s", t0=server.launched_ns, **names)
        lines.append(Line(f"{millions} M messages, {what}: launch to first send", sample["first_send_s"], "s", goal))
        await kill_under_load(stand, server)
    return lines


async def kill_under_load(stand: Stand, server: Server) -> None:
    """As late as the checkpoints' rhythm makes it cost most, somewhere: the load goes on for several of them."""
    await asyncio.to_thread(server.await_ready)
    load = asyncio.create_task(
        asyncio.to_thread(stand.run, server, "send", LOAD_S, topic="figures", duration=f"{LOAD_S}s")
    )
    await asyncio.wait([load], timeout=LOAD_S / 2)
    stand.discard(server)
    with contextlib.suppress(BenchError, OSError):  # its server has gone, and may not be asked for its memory
        await load


async def durable(stand: Stand, _folder: Path) -> list[Line]:
    """128 senders in flight: what it costs that every answer waits for its fsync, on this disk and on a slower one."""
    profiles = {
        "fast": stand.spawn(Rmq.name, flush="fast"),
        "durable": stand.spawn(Rmq.name, flush="durable"),
        f"durable, fsync {SLOW_FSYNC_MS} ms longer": stand.spawn(Rmq.name, flush="durable", fsync_ms=SLOW_FSYNC_MS),
    }
    rates: dict[str, list[float]] = {name: [] for name in profiles}
    costs_s: dict[str, list[float]] = {name: [] for name in profiles}
    for server in profiles.values():
        server.await_ready()
    for _ in range(ROUNDS):  # in turn, so that what else the machine does is shared
        for name, server in profiles.items():
            times = {"warmup": "1s", "duration": f"{stand.settings.seconds}s"}
            load = {"topic": "figures", "conns": 4, "inflight": 32}
            sample = stand.run(server, "send", stand.settings.seconds + 1, **load, **times)
            rates[name].append(sample["send_per_s"])
            costs_s[name].append(sample["server_cpu_s_per_100k"])
    for server in profiles.values():
        stand.discard(server)
    lines = [Line(f"128 senders, {name}", statistics.median(each), "messages/s") for name, each in rates.items()]
    lines += [Line(f"server CPU, {name}", statistics.median(each), "s/100k") for name, each in costs_s.items()]
    for (name, each), goal in zip(list(rates.items())[1:], ("60 %", "40 %"), strict=True):
        share = statistics.median(own / fast for own, fast in zip(each, rates["fast"], strict=True))
        lines.append(Line(f"128 senders, {name}: of fast's", 100 * share, "%", goal))
    return lines


async def backlog(_stand: Stand, folder: Path) -> list[Line]:
    """Whether a receive feels how much is waiting."""
    costs_us: list[float] = []
    for size in (5_000, 5_000_000):
        broker = make_broker(folder / f"data{size}")
        await fill(broker, size, bytes(100))
        costs_us.append(sorted([await consume_us(broker, f"g{turn}", 150) for turn in range(9)])[4])
        broker.close()
    return [
        Line("receive + ack, backlog 5 thousand", costs_us[0], "us/message"),
        Line("receive + ack, backlog 5 million", costs_us[1], "us/message"),
        Line("receive + ack, more for the larger backlog", 100 * (costs_us[1] / costs_us[0] - 1), "%", "20 %"),
    ]


async def leases(_stand: Stand, folder: Path) -> list[Line]:
    """Memory of 100,000 leases, one message a receive."""
    broker = make_broker(folder / "data")
    await fill(broker, 100_000, bytes(10))
    before = anonymous_mib()
    for number in range(100_000):
        taken = broker.receive(request("leases", 1))
        assert taken
        assert not isinstance(taken, asyncio.Future)
        if number % 100 == 0:
            await asyncio.sleep(0)
    used_mib = anonymous_mib() - before
    broker.close()
    return [Line("100,000 leases of one message each", used_mib, "MiB", "50 MB")]


async def polls(_stand: Stand, folder: Path) -> list[Line]:
    """Memory of a waiting poll, without the transport's."""
    broker = make_broker(folder / "data", polls_per_group_max=100_000)
    broker.receive(request("polls", 1))
    tracemalloc.start()  # a poll is so small that what the process reuses would hide it
    waiting = [broker.receive(request("polls", 1, poll_ms=60_000)) for _ in range(20_000)]
    used_kib = tracemalloc.get_traced_memory()[0] / 1024 / len(waiting)
    tracemalloc.stop()
    broker.close()
    await asyncio.gather(*(one for one in waiting if isinstance(one, asyncio.Future)))
    return [Line("a waiting poll", used_kib, "KiB", "4 KB")]


async def timers(_stand: Stand, folder: Path) -> list[Line]:
    """Memory of a million delayed messages; then how late others come beside them."""
    broker = make_broker(folder / "data", timers_max=2_000_000)
    await fill(broker, 300_000, BODY[:100], "before")  # what any load takes is there before
    before = anonymous_mib()
    begin_ms = SystemClock().wall_ms() + 3_600_000
    await send(broker, delayed(1_000_000, begin_ms, 1))
    await asyncio.sleep(SAVED_S)
    lines = [Line("1 M delayed messages, each alone in its ms", anonymous_mib() - before, "MiB", "150 MB")]
    lines += await lateness(broker)
    broker.close()
    begin_s = time.perf_counter()
    broker = make_broker(folder / "data", timers_max=2_000_000)
    lines.append(Line("the same, start of the broker", time.perf_counter() - begin_s, "s"))
    broker.close()
    return lines


async def lateness(broker: Broker) -> list[Line]:
    """2,000 a second for five seconds, beside all that waits: from the due time to the answer of a receive."""
    broker.receive(request("late", 1))
    begin_ms = SystemClock().wall_ms() + 3_000
    await send(broker, delayed(10_000, begin_ms, 2))
    late_ms: list[int] = []
    while len(late_ms) < 10_000:
        taken = broker.receive(request("late", 32, poll_ms=10_000))
        messages = await taken if isinstance(taken, asyncio.Future) else taken
        now_ms = SystemClock().wall_ms()
        late_ms += [now_ms - int(one.properties["TIMER_DELIVER_MS"]) for one in messages]
        broker.ack("late", "figures", [one.handle for one in messages])
        await asyncio.sleep(0)
    late_ms.sort()
    assert late_ms[0] >= 0
    return [
        Line("2,000 due a second, late, p50", late_ms[5_000], "ms"),
        Line("2,000 due a second, late, p99", late_ms[9_900], "ms", "25 ms"),
        Line("2,000 due a second, late, most", late_ms[-1], "ms"),
    ]


MEASURED = (
    restart,
    restart_large,
    durable,
    backlog,
    leases,
    polls,
    timers,
    crowds.parked,
    crowds.blocked,
    crowds.lites,
    scale.polls_wide,
    scale.connections,
    scale.tls,
)
FIGURES: dict[str, Figure] = {figure.__name__.replace("_", "-"): figure for figure in MEASURED}


def delayed(count: int, begin_ms: int, a_ms: int) -> Iterator[Outgoing]:
    """Delayed messages, `a_ms` for each millisecond from `begin_ms` on, in an order of no kind."""
    for number in range(count):
        due_ms = begin_ms + number * 7919 % count // a_ms
        yield message(number, BODY[:100], TIMER_DELIVER_MS, str(due_ms))
