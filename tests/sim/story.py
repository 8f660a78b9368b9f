"""What clients asked for and what they were told, in order, and what therefore has to hold at any later start.

An operation begins, and may be answered; both are moments. Of a crash at a moment only the operations begun before can
be seen; those answered before, and safe as the flush profile understands it, must be. No broker, no disk: pure.
"""

import dataclasses
from collections.abc import Iterator

SEND, TAKE, CHANGE, ACK, BURY, DROP = "send", "take", "change", "ack", "bury", "drop"
DELAY, RECALL = "delay", "recall"


@dataclasses.dataclass
class Sent:
    """A message as its sender made it; `place` (queue id, offset) once the answer says so."""

    name: str
    topic: str
    tag: str
    key: str
    line: str = ""  # its message group, or its lite topic
    place: tuple[int, int] | None = None


@dataclasses.dataclass(eq=False)
class Op:
    """One operation on one message, for one group or, a send, for all; a drop is one of a whole topic."""

    kind: str
    sent: Sent
    group: str = ""
    began: int = 0
    answered: int | None = None
    start: int = 0  # its record lies at or behind this position of the log
    end: int | None = None  # and before this one
    due_ms: int = 0  # of a take, a change or a delay: until then nobody may have it


@dataclasses.dataclass(frozen=True)
class Cut:
    """A crash. `synced`: the log up to there outlasts it, whatever becomes of the rest; None: all that was answered."""

    at: int
    now_ms: int
    synced: int
    only_synced: bool

    def saw(self, op: Op) -> bool:
        """It had begun."""
        return op.began <= self.at

    def keeps(self, op: Op) -> bool:
        """It is done, and stays done."""
        if op.kind != TAKE and (op.answered is None or op.answered > self.at):
            return False
        must_be_synced = self.only_synced or op.kind == TAKE  # nobody waits for a take to be safe
        return self.saw(op) and (not must_be_synced or (op.end is not None and op.end <= self.synced))


class Story:
    """Every operation so far; the clock is the number of moments."""

    def __init__(self) -> None:
        self.sends: dict[str, Op] = {}
        self.delays: dict[str, Op] = {}
        self.recalls: dict[str, Op] = {}
        self.at = 0
        self.end = 0
        self._of: dict[tuple[str, str], list[Op]] = {}
        self._drops: list[Op] = []
        self._unwritten: list[Op] = []

    def begin(self, op: Op) -> Op:
        """It is asked for."""
        self.at += 1
        op.began, op.start = self.at, self.end
        if op.kind == SEND:
            self.sends[op.sent.name] = op
        elif op.kind == DELAY:
            self.delays[op.sent.name] = op
        elif op.kind == RECALL:
            self.recalls[op.sent.name] = op
        elif op.kind == DROP:
            self._drops.append(op)
        else:
            self._of.setdefault((op.group, op.sent.name), []).append(op)
        self._unwritten.append(op)
        return op

    def sent(self, name: str) -> Sent:
        """A message that was sent, for at once or for later."""
        return (self.sends.get(name) or self.delays[name]).sent

    def refused(self, op: Op) -> None:
        """Its caller was told no: nothing became of it."""
        if op.kind == RECALL:
            del self.recalls[op.sent.name]
        else:
            self._of[op.group, op.sent.name].remove(op)
        self._unwritten = [other for other in self._unwritten if other is not op]

    def answer(self, op: Op) -> None:
        """Its caller was told that it is done."""
        self.at += 1
        op.answered = self.at

    def written(self, end: int) -> None:
        """The turn is over: all that was begun is before this end of the log."""
        self.end = end
        for op in self._unwritten:
            op.end = end
        self._unwritten.clear()

    def begun(self, topic: str, line: str) -> Iterator[Op]:
        """The sends of a message group or a lite topic, in its order."""
        return (op for op in self.sends.values() if (op.sent.topic, op.sent.line) == (topic, line))

    def ops(self, group: str, name: str, cut: Cut) -> list[Op]:
        """What had become of a message of a group."""
        return [op for op in self._of.get((group, name), ()) if cut.saw(op)]

    # -- what has to hold --------------------------------------------------------------------------------------------

    def must_be_stored(self, cut: Cut) -> Iterator[Sent]:
        """Sends that were acknowledged, unless somebody had asked for the end of their topic."""
        for op in self.sends.values():
            if cut.keeps(op) and not any(cut.saw(drop) for drop in self._drops_after(op)):
                yield op.sent

    def may_be_stored(self, name: str, cut: Cut, *, delayed: bool) -> Sent | None:
        """A message that was sent, for at once or for later, and whose topic did not end since."""
        op = (self.delays if delayed else self.sends).get(name)
        if op is None or not cut.saw(op) or any(cut.keeps(drop) for drop in self._drops_after(op)):
            return None
        return op.sent

    def _drops_after(self, op: Op) -> list[Op]:
        return [drop for drop in self._drops if drop.sent.topic == op.sent.topic and drop.began > op.began]

    def is_recalled(self, name: str, cut: Cut) -> bool:
        """It was taken back before its time, for ever."""
        return name in self.recalls and cut.keeps(self.recalls[name])

    def may_be_recalled(self, name: str, cut: Cut) -> bool:
        """Somebody had asked for it."""
        return name in self.recalls and cut.saw(self.recalls[name])

    def is_settled(self, group: str, name: str, cut: Cut) -> bool:
        """Acknowledged, or a dead letter, for ever."""
        return any(op.kind in (ACK, BURY) and cut.keeps(op) for op in self.ops(group, name, cut))

    def may_be_settled(self, group: str, name: str, cut: Cut) -> bool:
        """Somebody had asked for it."""
        return any(op.kind in (ACK, BURY) for op in self.ops(group, name, cut))

    def is_invisible(self, group: str, name: str, cut: Cut) -> bool:
        """With a client, or hidden by one, until later."""
        ops = self.ops(group, name, cut)
        return bool(ops) and ops[-1].due_ms > cut.now_ms and cut.keeps(ops[-1])

    def all_is_kept(self, group: str, name: str, cut: Cut) -> bool:
        """Nothing of what was done to it is lost."""
        return all(cut.keeps(op) for op in self.ops(group, name, cut))

    def was_taken(self, group: str, name: str, cut: Cut) -> bool:
        """It was delivered, and that is known for ever: it lives on though its segment goes."""
        return any(op.kind == TAKE and cut.keeps(op) for op in self.ops(group, name, cut))

    def takes(self, group: str, name: str, cut: Cut) -> int:
        """How often it was delivered."""
        return sum(op.kind == TAKE for op in self.ops(group, name, cut))

    def must_be_buried(self, group: str, name: str, cut: Cut, begin: int) -> bool:
        """A client was told that it is a dead letter; its record is not one of those before `begin`."""
        return any(op.kind == BURY and cut.keeps(op) and op.start >= begin for op in self.ops(group, name, cut))

    def may_be_buried(self, group: str, name: str, cut: Cut) -> bool:
        """A client had asked for it."""
        return any(op.kind == BURY for op in self.ops(group, name, cut))
