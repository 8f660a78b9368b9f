"""The figures that the README quotes, measured on this machine: python bench/figures.py [NAME ...]; --list names them.

Each figure is one line: what, the value, the goal. In-process figures drive the broker without a transport, so that
they show our own cost; `launch`, `idle` and `stop` start the real server.
"""

import asyncio
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import psutil

from rmq.broker import Broker
from rmq.clock import SystemClock
from rmq.config import Config
from rmq.filter import ALL
from rmq.message import Outgoing
from rmq.port import ReceiveRequest
from rmq_proto import v2

MIB = 1 << 20
BODY = bytes(1024)
HEADERS = (("x-mq-client-id", "figures"),)


def say(what: str, value: str, goal: str) -> None:
    """One line of the table."""
    print(f"{what:58} {value:>16}   goal: {goal}", flush=True)


# -- the real server -----------------------------------------------------------------------------------------------


class Process:
    """A server on a port of its own, with its data in a directory that goes with it."""

    def __init__(self, data: Path, *flags: str) -> None:
        self.started = time.monotonic()
        command = [sys.executable, "-m", "rmq", "serve", "--port", "0", "--data", str(data), *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self.process.stdout is not None
        select.select([self.process.stdout], [], [], 60)
        line = self.process.stdout.readline().decode()
        self.endpoint = line.split('"endpoint":"')[1].split('"')[0]

    def send(self) -> float:
        """Sends one message; seconds since launch."""
        request = v2.SendMessageRequest()
        message = request.messages.add()
        message.topic.name = "figures"
        message.body = BODY
        message.system_properties.message_id = "0" * 34
        with grpc.insecure_channel(self.endpoint) as channel:
            call = channel.unary_unary("/apache.rocketmq.v2.MessagingService/SendMessage")
            answer = v2.SendMessageResponse.FromString(
                call(request.SerializeToString(), metadata=HEADERS, timeout=20, wait_for_ready=True)
            )
        assert answer.status.code == v2.OK, answer
        return time.monotonic() - self.started

    def stop(self) -> float:
        """SIGTERM; seconds until it has gone."""
        before = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(20) == 0
        return time.monotonic() - before


async def launch(root: Path) -> None:
    """From the launch of the process to the first acknowledged send."""
    times = []
    for number in range(6):
        server = Process(root / f"launch{number}")
        times.append(server.send())
        server.stop()
    say("launch to first send, empty store (median of 5, warm)", f"{sorted(times[1:])[2]:.3f} s", "0.5 s")


async def idle(root: Path) -> None:
    """What a server costs that nobody uses."""
    server = Process(root / "idle")
    server.send()
    process = psutil.Process(server.process.pid)
    await asyncio.sleep(2)
    before = process.cpu_times()
    await asyncio.sleep(20)
    after = process.cpu_times()
    used = after.user + after.system - before.user - before.system
    say("idle: resident", f"{process.memory_info().rss / MIB:.1f} MiB", "60 MB")
    say("idle: share of a core", f"{used / 20:.2%}", "0.5 %")
    say("SIGTERM to exit", f"{server.stop():.3f} s", "1 s")


async def restart(root: Path) -> None:
    """A million messages of 1 KiB: clean stop, start, first send; then kill -9, start, first send."""
    data = root / "restart"
    broker = _broker(data)
    await _fill(broker, 1_000_000, BODY)
    broker.close()
    server = Process(data, "--flush", "fast")
    say("1 M messages, clean restart: launch to first send", f"{server.send():.3f} s", "1 s")
    server.process.kill()
    server.process.wait()
    server = Process(data, "--flush", "fast")
    say("1 M messages, after kill -9: launch to first send", f"{server.send():.3f} s", "1.5 s")
    server.stop()


# -- in process ------------------------------------------------------------------------------------------------------


def _broker(data: Path, **settings: object) -> Broker:
    config = Config(data=str(data), flush="fast", disk_free_min_bytes=0, **settings)  # type: ignore[arg-type]
    return Broker(config, SystemClock(), asyncio.get_running_loop())


async def _fill(broker: Broker, count: int, body: bytes) -> None:
    message = Outgoing("figures", body, {"UNIQ_KEY": "0" * 34}, 0)
    for done in range(0, count, 100):
        answer = broker.send([message] * min(100, count - done))
        if done % 10_000 == 0 and isinstance(answer, asyncio.Future):
            await answer
    if isinstance(answer, asyncio.Future):
        await answer


def _receive(group: str, batch: int, poll_ms: int = 0) -> ReceiveRequest:
    return ReceiveRequest(group, "figures", "figures", ALL, batch, 600_000, poll_ms)


async def _consume(broker: Broker, group: str, receives: int) -> float:
    """CPU microseconds a message, taken 32 at a time and acknowledged in one call."""
    before, messages = time.process_time(), 0
    for _ in range(receives):
        taken = broker.receive(_receive(group, 32))
        assert not isinstance(taken, asyncio.Future)
        messages += len(taken)
        answer = broker.ack(group, "figures", [one.handle for one in taken])
        if isinstance(answer, asyncio.Future):
            await answer
    return (time.process_time() - before) / messages * 1e6


async def backlog(root: Path) -> None:
    """Whether a receive feels how much is waiting."""
    costs: dict[int, list[float]] = {}
    for size in (5_000, 5_000_000):
        broker = _broker(root / f"backlog{size}")
        await _fill(broker, size, bytes(100))
        costs[size] = sorted([await _consume(broker, f"g{turn}", 150) for turn in range(9)])
        broker.close()
    small, large = costs[5_000][4], costs[5_000_000][4]
    say("receive + ack, backlog 5 thousand", f"{small:.1f} us/msg", "-")
    say("receive + ack, backlog 5 million", f"{large:.1f} us/msg", f"within 20 %: {large / small - 1:+.0%}")


async def leases(root: Path) -> None:
    """Memory of 100,000 leases, one message a receive."""
    broker = _broker(root / "leases")
    await _fill(broker, 100_000, bytes(10))
    before = _anonymous()
    for number in range(100_000):
        taken = broker.receive(_receive("leases", 1))
        assert taken
        assert not isinstance(taken, asyncio.Future)
        if number % 100 == 0:
            await asyncio.sleep(0)
    say("100,000 leases of one message each", f"{(_anonymous() - before) / MIB:.1f} MiB", "50 MB")
    broker.close()


async def polls(root: Path) -> None:
    """Memory of a waiting poll, without the transport's."""
    broker = _broker(root / "polls", polls_per_group_max=100_000)
    broker.receive(_receive("polls", 1))
    before = _anonymous()
    waiting = [broker.receive(_receive("polls", 1, poll_ms=60_000)) for _ in range(20_000)]
    say("a waiting poll", f"{(_anonymous() - before) / len(waiting) / 1024:.2f} KiB", "4 KB")
    broker.close()
    await asyncio.gather(*(w for w in waiting if isinstance(w, asyncio.Future)))


def _anonymous() -> int:
    """Bytes of our own: not the pages of the log that reading has mapped."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return psutil.Process().memory_info().rss


FIGURES: dict[str, Callable[[Path], Awaitable[None]]] = {
    f.__name__: f for f in (launch, idle, restart, backlog, leases, polls)
}


def main(names: list[str]) -> int:
    """Measures the named figures, or all."""
    if names == ["--list"]:
        print("\n".join(FIGURES))
        return 0
    unknown = [name for name in names if name not in FIGURES]
    if unknown:
        print(f"no figure {unknown[0]}; there are: {', '.join(FIGURES)}", file=sys.stderr)
        return 2
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    for name in names or FIGURES:
        root = Path(tempfile.mkdtemp(prefix="rmq-figures-", dir=os.environ.get("RMQ_FIGURES_DIR")))
        try:
            asyncio.run(_run(FIGURES[name], root))
        finally:
            shutil.rmtree(root)
    return 0


async def _run(figure: Callable[[Path], Awaitable[None]], root: Path) -> None:
    await figure(root)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
