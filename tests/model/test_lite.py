"""Lite topics against a plain model: random sends, subscriptions, receives, acks, expiries, kills and restarts."""

import random
from collections import defaultdict
from pathlib import Path

import pytest

from rmq.port import LiteStart
from tests.rmq.lite import receive, send, sync
from tests.rmq.rig import GROUP, INVISIBLE_MS, SMALL, Rig, config

CLIENTS = ("one", "two", "three")
GROUPS = (GROUP, "audit")
NAMES = "abcdefgh"
STEPS = 150


class Plain:
    """What is expected of one group: per lite topic what waits, of which the first may be with a client."""

    def __init__(self) -> None:
        self.waiting: dict[str, list[str]] = {}  # of lite topics that the group has a place in
        self.subscribed: dict[str, set[str]] = {client: set() for client in CLIENTS}
        self.held: dict[str, tuple[str, str]] = {}  # lite topic -> text, handle

    def due(self, client: str) -> list[str]:
        """The texts that a receive of this client has to bring, sorted."""
        names = (name for name in self.subscribed[client] if self.waiting[name] and name not in self.held)
        return sorted(self.waiting[name][0] for name in names)


class Trial:
    """A broker and the model, told the same."""

    def __init__(self, rig: Rig, rng: random.Random) -> None:
        self.rig = rig
        self.rng = rng
        self.sent: dict[str, list[str]] = defaultdict(list)
        self.plain = {group: Plain() for group in GROUPS}

    def send(self) -> None:
        names = [self.rng.choice(NAMES) for _ in range(self.rng.randint(1, 4))]
        texts = []
        for name in names:
            texts.append(f"{name}{len(self.sent[name])}")
            self.sent[name].append(texts[-1])
            for plain in self.plain.values():
                if name in plain.waiting:
                    plain.waiting[name].append(texts[-1])
        send(self.rig, *texts)

    def sync(self) -> None:
        group, client = self.rng.choice(GROUPS), self.rng.choice(CLIENTS)
        plain, names = self.plain[group], set(self.rng.sample(NAMES, self.rng.randint(0, 4)))
        mine = plain.subscribed[client]
        action = self.rng.choice(("add", "remove", "replace"))
        start = self.rng.choice((LiteStart(), LiteStart("min"), LiteStart("tail", 2)))
        placed = set() if action == "remove" else names if action == "add" else names - mine
        for name in placed:
            if start.kind != "last" or name not in plain.waiting:
                first = {"last": len(self.sent[name]), "min": 0, "tail": max(len(self.sent[name]) - 2, 0)}[start.kind]
                plain.waiting[name] = self.sent[name][first:]
                plain.held.pop(name, None)
        plain.subscribed[client] = {"add": mine | names, "remove": mine - names, "replace": names}[action]
        match action:
            case "add":
                sync(self.rig, *names, action="add", start=start, client=client, group=group)
            case "remove":
                sync(self.rig, *names, action="remove", start=start, client=client, group=group)
            case _:
                sync(self.rig, *names, action="replace", start=start, client=client, group=group)

    def receive(self) -> None:
        group, client = self.rng.choice(GROUPS), self.rng.choice(CLIENTS)
        plain = self.plain[group]
        due = plain.due(client)
        found = receive(self.rig, client=client, group=group)
        assert sorted(one.body.decode() for one in found) == due
        for one in found:
            text = one.body.decode()
            plain.held[text[0]] = text, one.handle

    def ack(self) -> None:
        group = self.rng.choice(GROUPS)
        plain = self.plain[group]
        for name in self.rng.sample(sorted(plain.held), len(plain.held) // 2):
            text, handle = plain.held.pop(name)
            assert plain.waiting[name].pop(0) == text
            assert self.rig.ack(handle, group=group) == [None]

    def expire(self) -> None:
        self.rig.advance(INVISIBLE_MS)
        for plain in self.plain.values():
            plain.held.clear()

    def leave(self) -> None:
        group, client = self.rng.choice(GROUPS), self.rng.choice(CLIENTS)
        self.rig.broker.offline(group, client)
        self.plain[group].subscribed[client] = set()

    def start_again(self) -> None:
        self.rig.settle()
        (self.rig.crash if self.rng.random() < 0.7 else self.rig.restart)()


@pytest.mark.parametrize("seed", range(6))
def test_lite_topics_do_what_a_plain_model_does(tmp_path: Path, seed: int) -> None:
    """Each receive brings what it has to, neither less nor more."""
    rng = random.Random(seed)
    rig = Rig(config(flush="fast", data=f"{tmp_path}/data", flush_interval_ms=1, topic_queues=2, **SMALL))
    trial = Trial(rig, rng)
    steps = (trial.send, trial.sync, trial.receive, trial.ack, trial.expire, trial.leave, trial.start_again)
    try:
        for step in rng.choices(steps, weights=(30, 20, 30, 20, 4, 3, 4), k=STEPS):
            step()
    finally:
        rig.close()
