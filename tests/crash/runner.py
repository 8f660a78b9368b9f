"""Kills one server again and again, in use and while it starts, by hand and by itself, and judges what clients saw.

Owns the order of the lives. The seed decides what is asked and where the server dies, not how the machine schedules it:
a failure is likely to come again with its seed, not sure to.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.crash.clients import DELAYS_MS, INVISIBLE_MS, Clients, Owed, now_ms
from tests.crash.plans import CHANGE, DELAY, FIFO, PLANS, RESTART, RETAIN, TRANSACT, Plan
from tests.crash.points import POINTS, Point
from tests.crash.server import Server
from tests.history.checker import Problem, check
from tests.history.history import History, Outcome

GROUPS = ("group-a", "group-b")
ATTEMPTS_MAX = 4
AT_A_POINT = 0.5  # of the kills; the others come at any moment
POINT_WITHIN_S = 0.4
NAMED_WITHIN_S = 20.0  # on the slowest machine: it is over as soon as the point is passed
START_S = 0.15
QUIET_S = 0.2 + max(INVISIBLE_MS, *DELAYS_MS) / 1000  # no lease and no delay of ours is longer
SIGNS_OF_TROUBLE = ("Traceback", "damaged")


@dataclass(frozen=True)
class Death:
    """How a life is to end: at a point that is passed for the k-th time, but at the latest `after_s` from the moment
    that clients are there; or from its launch, if it is to die while `starting`.
    """

    plan: Plan
    after_s: float
    point: Point | None = None
    kth: int = 1
    starting: bool = False


@dataclass
class Campaign:
    """All lives of one server."""

    flush: str
    rng: random.Random
    plant: str = ""  # a bug that the server has
    history: History = field(default_factory=lambda: History(GROUPS, attempts_max=ATTEMPTS_MAX))
    lives: int = 0
    ways: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.owed = Owed(GROUPS)

    def settings(self) -> Mapping[str, str]:
        """Small segments, frequent checkpoints: a kill may fall into every kind of work."""
        choose = self.rng.choice
        return {
            "RMQ_SEGMENT_BYTES": choose(("128KiB", "256KiB")),
            "RMQ_RESERVE_BYTES": choose(("64KiB", "256KiB")),
            "RMQ_CHECKPOINT_INTERVAL_MS": choose(("10", "50", "1000")),
            "RMQ_CHECKPOINT_RECORDS": choose(("50", "1000", "20000")),
            **FIXED,
        }

    def death(self) -> Death:
        """As the seed has it."""
        plan = self.rng.choice(PLANS)
        if self.rng.random() < AT_A_POINT:
            if plan is RESTART:
                points = [point for point in POINTS.values() if point.starting]
            else:
                points = [point for point in POINTS.values() if not point.starting and _is_passed(point, plan)]
            point = self.rng.choice(points)
            return Death(plan, POINT_WITHIN_S, point, self.rng.randint(1, point.often))
        starting = plan is RESTART and self.rng.random() < 0.7
        return Death(plan, self.rng.random() * (START_S if starting else plan.run_s_max), starting=starting)

    async def run(self, deaths: Iterable[Death], settings: Mapping[str, str]) -> list[Problem]:
        """Each death in its turn, and then the drain."""
        async with Server(self.flush, settings, self.plant) as server:
            for death in deaths:
                await self._live(server, death)
                self.history.kills.append(now_ms())
            server.launch()
            endpoint = await server.endpoint()
            await self._clients(endpoint).drain(self._topics(), QUIET_S)
            await server.stop()
            return [*check(self.history), *_said(server.log)]

    async def _live(self, server: Server, death: Death) -> None:
        if death.plan.retention:
            await self._settle_all(server)
        self.lives += 1
        self.ways[death.plan.name] += 1
        env = RETENTION if death.plan.retention else None
        server.launch(death.point.name if death.point else "", death.kth, env)
        if death.starting:
            await asyncio.sleep(death.after_s)
            await server.kill()
            self.ways["at a start"] += 1
            return
        endpoint = await server.endpoint()
        by_itself = await self._use(server, endpoint, death) if endpoint else True
        assert server.killed, f"it ended by itself, with status {server.status}"
        assert death.point or not by_itself, "it killed itself where it should not"
        if by_itself and death.point:
            self.ways[f"point {death.point.name}"] += 1
            self.ways["at a point"] += 1

    async def _settle_all(self, server: Server) -> None:
        """Before retention may take what was never delivered, or in a lease that was lost."""
        server.launch()
        await self._clients(await server.endpoint()).drain(self._topics(), 0)
        await server.stop()

    async def _use(self, server: Server, endpoint: str, death: Death) -> bool:
        """Until it dies by itself, then True, or for as long as it has."""
        clients = self._clients(endpoint)
        clients.may_die = death.point is not None
        running = asyncio.create_task(clients.run(death.plan, self._topics()[-2:]))
        dying = asyncio.create_task(server.ended.wait())
        died, _ = await asyncio.wait([running, dying], timeout=death.after_s, return_when=asyncio.FIRST_COMPLETED)
        clients.stop()  # begins no call from here on; those in flight are cut off
        await server.kill()
        dying.cancel()
        await running
        return bool(died)

    def _clients(self, endpoint: str) -> Clients:
        return Clients(endpoint, self.history, self.owed, self.rng, self.lives)

    def _topics(self) -> Sequence[str]:
        """Each fifth life brings one more: the making of a topic may be killed as well."""
        return [f"topic-{n}" for n in range(1 + self.lives // 5)]

    def counts(self) -> Mapping[str, int]:
        """What the ledger keeps."""
        history = self.history
        sends = Counter(send.outcome for send in history.sends)
        acks = Counter(ack.outcome for ack in history.acks)
        return {
            "kills": len(history.kills),
            "sent": sends[Outcome.OK],
            "delayed": sum(bool(send.deliver_ms) for send in history.sends),
            "grouped": sum(bool(send.message.message_group) for send in history.sends),
            "begun": sum(send.half for send in history.sends),
            "committed": sum(end.commit and end.outcome is Outcome.OK for end in history.ends),
            "rolled_back": sum(not end.commit and end.outcome is Outcome.OK for end in history.ends),
            "recalled": sum(recall.outcome is Outcome.OK for recall in history.recalls),
            "sends_cut_off": sends[Outcome.UNKNOWN],
            "delivered": len(history.deliveries),
            "acked": acks[Outcome.OK],
            "acks_cut_off": acks[Outcome.UNKNOWN],
            "changed": sum(change.outcome is Outcome.OK for change in history.changes),
            "buried": sum(bury.outcome is Outcome.OK for bury in history.burials),
            **{way.replace(" ", "_"): count for way, count in sorted(self.ways.items())},
        }


def _is_passed(point: Point, plan: Plan) -> bool:
    can = (
        plan.retention or not point.retaining,
        plan.delayed or not point.delaying,
        plan.grouped or not point.grouping,
        plan.transactors or not point.transacting,
    )
    return all(can)


RETENTION = {"RMQ_LOG_BYTES_MAX": "384KiB"}
FIXED: Mapping[str, str] = {
    "RMQ_FLUSH_INTERVAL_MS": "20",
    "RMQ_QUEUE_FILES_OPEN_MAX": "16",
    "RMQ_TOPIC_QUEUES": "2",
    "RMQ_ATTEMPTS_MAX": str(ATTEMPTS_MAX),
    "RMQ_INVISIBLE_MS_MIN": "1",
    "RMQ_POLL_MS_MIN": "0",
    "RMQ_TLS_MODE": "disabled",
    "RMQ_DISK_FREE_MIN_BYTES": "0",
}


def _said(log: str) -> list[Problem]:
    return [Problem("stderr", "", line) for line in log.splitlines() if any(sign in line for sign in SIGNS_OF_TROUBLE)]


def kill_often(flush: str, seed: int, kills: int) -> Mapping[str, int]:
    """One store and so many kills, decided by the seed. Raises AssertionError with what was broken."""
    campaign = Campaign(flush, random.Random(f"{seed} {flush}"))
    return finish(campaign, [campaign.death() for _ in range(kills)], seed)


def kill_at_each_point(flush: str, seed: int) -> Mapping[str, int]:
    """One store, and a life for each point, in which it is passed. Raises AssertionError with what was broken."""
    campaign = Campaign(flush, random.Random(f"{seed} {flush}"))
    return finish(campaign, [Death(plan_for(point), NAMED_WITHIN_S, point) for point in POINTS.values()], seed)


def finish(campaign: Campaign, deaths: Sequence[Death], seed: int) -> Mapping[str, int]:
    """Plays and judges."""
    problems = asyncio.run(campaign.run(deaths, campaign.settings()))
    assert not problems, report(problems, f"seed {seed}, flush {campaign.flush}")
    return campaign.counts()


def plan_for(point: Point) -> Plan:
    """The workload in which it is passed."""
    if point.starting:
        return RESTART
    if point.retaining:
        return RETAIN
    if point.transacting:
        return TRANSACT
    return DELAY if point.delaying else FIFO if point.grouping else CHANGE


def report(problems: Sequence[Problem], what: str, shown: int = 20) -> str:
    """Kinds and their numbers, then some of them."""
    kinds = dict(Counter(problem.kind for problem in problems))
    lines = [f"{problem.kind} {problem.key}: {problem.text}" for problem in problems[:shown]]
    return "\n".join([f"{what}: broken promises {kinds}", *lines])
