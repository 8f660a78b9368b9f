"""One campaign of kills: `python -m tests.crash.runner --seed N --flush durable --kills 10` prints its counts as JSON.

Owns the server's process: clients run (workload.py), at a moment that the seed decides it is killed with SIGKILL, some
starts are killed too, and at the end everything is drained and judged (history.py). The seed decides what is asked and
when, not how the machine schedules it: a failure is likely to come again with its seed, not sure to. Exit code 1 and
one line a problem when a promise was broken.
"""

import argparse
import asyncio
import contextlib
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.crash.history import History, Outcome, Problem, check
from tests.crash.workload import DELAYS_MS, INVISIBLE_MS, Workload, now_ms
from tests.serving import Server, ServerError

GROUPS = ("group-a", "group-b")
RUN_S_MAX = 0.8
STARTS_KILLED = 0.3
QUIET_S = max(INVISIBLE_MS, *DELAYS_MS) / 1000 + 1.5  # longer than any lease and any delay of ours
PROBLEMS_SHOWN = 20
SIGNS_OF_TROUBLE = ("Traceback", "damaged")


@dataclass
class Campaign:
    """All lives of one server."""

    seed: int
    flush: str
    rng: random.Random = field(init=False)
    history: History = field(init=False)
    start_s: float = 1.0
    lives: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.seed} {self.flush}")
        self.history = History(GROUPS)

    def server(self) -> Server:
        """With small segments and frequent checkpoints, so that a kill may fall into every kind of work."""
        choose = self.rng.choice
        env = {
            "RMQ_SEGMENT_BYTES": choose(("256KiB", "1MiB", "4MiB")),
            "RMQ_RESERVE_BYTES": choose(("64KiB", "256KiB")),
            "RMQ_CHECKPOINT_INTERVAL_MS": choose(("10", "100", "1000")),
            "RMQ_CHECKPOINT_RECORDS": choose(("50", "1000", "20000")),
            "RMQ_QUEUE_FILES_OPEN_MAX": "16",
            "RMQ_ATTEMPTS_MAX": "1000",
            "RMQ_INVISIBLE_MS_MIN": "1",
            "RMQ_POLL_MS_MIN": "0",
        }
        return Server("--flush", self.flush, env=env, ready_within_s=60)

    async def run(self, kills: int) -> list[Problem]:
        """Kills the server that often, then drains it."""
        with self.server() as server:
            while len(self.history.kills) < kills:
                if self.lives and self.rng.random() < STARTS_KILLED:
                    self._kill_start(server)
                    continue
                await self._start(server)
                await self._kill_in_use(server, self._some_topics())
            await self._start(server)
            await self._workload(server, self._all_topics()).drain(QUIET_S)
            server.stop()
            return [*check(self.history), *_said(server)]

    async def _start(self, server: Server) -> None:
        if not server.running:
            began_s = time.monotonic()
            await asyncio.to_thread(server.restart)
            self.start_s = time.monotonic() - began_s

    def _kill_start(self, server: Server) -> None:
        starting = threading.Thread(target=_try_to_restart, args=(server,))
        starting.start()
        while not server.running and starting.is_alive():
            time.sleep(0.001)
        time.sleep(self.rng.random() * self.start_s)
        self._kill(server)
        starting.join()

    async def _kill_in_use(self, server: Server, topics: Sequence[str]) -> None:
        self.lives += 1
        workload = self._workload(server, topics)
        running = asyncio.create_task(workload.run())
        await asyncio.wait([running], timeout=0.05 + self.rng.random() * RUN_S_MAX)
        workload.stop()  # begins no call from here on; those in flight are cut off
        self._kill(server)
        await running

    def _kill(self, server: Server) -> None:
        self.history.kills.append(now_ms())
        server.kill()

    def _workload(self, server: Server, topics: Sequence[str]) -> Workload:
        return Workload(server.endpoint, self.history, topics, self.rng, self.lives)

    def _all_topics(self) -> list[str]:
        """Each third life brings one more: the making of a topic may be killed as well."""
        return [f"topic-{n}" for n in range(1 + self.lives // 3)]

    def _some_topics(self) -> list[str]:
        return self._all_topics()[-3:]

    def counts(self) -> Mapping[str, int]:
        """What the ledger keeps."""
        sends = Counter(send.outcome for send in self.history.sends)
        recalls = Counter(recall.outcome for recall in self.history.recalls)
        acks = Counter(ack.outcome for ack in self.history.acks)
        return {
            "kills": len(self.history.kills),
            "sent": sends[Outcome.OK],
            "delayed": sum(1 for send in self.history.sends if send.due_ms),
            "recalled": recalls[Outcome.OK],
            "sends_cut_off": sends[Outcome.UNKNOWN],
            "delivered": len(self.history.deliveries),
            "acked": acks[Outcome.OK],
            "acks_cut_off": acks[Outcome.UNKNOWN],
        }


def _try_to_restart(server: Server) -> None:
    with contextlib.suppress(ServerError):  # it was killed before it was ready
        server.restart()


def _said(server: Server) -> list[Problem]:
    lines = (server.home / "stderr").read_text(errors="replace").splitlines()
    return [Problem("stderr", "", line) for line in lines if any(sign in line for sign in SIGNS_OF_TROUBLE)]


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="tests.crash.runner", description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--flush", choices=("durable", "fast"), required=True)
    parser.add_argument("--kills", type=int, default=10)
    options = parser.parse_args()
    campaign = Campaign(options.seed, options.flush)
    problems = asyncio.run(campaign.run(options.kills))
    print(json.dumps(campaign.counts()))
    for problem in problems[:PROBLEMS_SHOWN]:
        print(f"{problem.kind} {problem.key}: {problem.text}", file=sys.stderr)
    if problems:
        kinds = dict(Counter(problem.kind for problem in problems))
        print(f"seed {options.seed}, flush {options.flush}: broken promises {kinds}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
