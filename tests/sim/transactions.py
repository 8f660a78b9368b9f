"""Transactions among the verbs of a workload, and what must hold of them in each crash image.

A workload and an image of their own: the seeds of the others stay what they were. Half messages, ends and checks are in
the log among all that the others do; what a start finds of a transaction is what its producer was told.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rmq import message as m
from rmq import transactionid
from rmq.errors import ClientError, Code
from rmq.message import SendResult
from rmq_store.outcomes import COMMITTED, ROLLED_BACK, UNKNOWN
from tests.rmq.rig import outgoing
from tests.sim.images import Image, Stored, _rows
from tests.sim.rig import SimRig
from tests.sim.story import Op, Sent
from tests.sim.workload import Workload

ACCOUNTS = ("accounts", "ledgers")  # topics that no group reads
BEGIN, COMMIT, ROLLBACK = "begin", "commit", "roll back"
ENDS: Mapping[bool, str] = {True: COMMIT, False: ROLLBACK}
OUTCOMES = {COMMIT: COMMITTED, ROLLBACK: ROLLED_BACK}


class Transacting(Workload):
    """`ids`: of the transactions whose begin was answered."""

    def __init__(self, seed: int, flush: str, folder: Path, keep: float) -> None:
        super().__init__(seed, flush, folder, keep)
        self.ids: dict[str, str] = {}
        self._open: list[Sent] = []

    def verbs(self) -> Mapping[Callable[[Any], None], int]:
        """See Workload."""
        return {**super().verbs(), Transacting.begin: 20, Transacting.end: 14}

    def begin(self) -> None:
        """A half message, or some in one call."""
        topic = self._rng.choice(ACCOUNTS)
        ops = [self.story.begin(Op(BEGIN, self._new(topic))) for _ in range(self._rng.choice((1, 1, 3)))]
        halves = [outgoing(op.sent.name, topic=topic, tag=op.sent.tag, **{m.TRAN_MSG: "true"}) for op in ops]

        def answered(results: Sequence[SendResult]) -> None:
            for op, result in zip(ops, results, strict=True):
                self.ids[op.sent.name] = result.transaction_id
                self._open.append(op.sent)
                self.story.answer(op)

        self._when(self.rig.broker.send(halves), answered)

    def end(self) -> None:
        """One that was begun, some time ago or right now."""
        if not self._open:
            return
        sent, commit = self._open.pop(self._rng.randrange(len(self._open))), self._rng.random() < 0.5
        op = self.story.begin(Op(ENDS[commit], sent))
        ended = self.rig.broker.end_transaction(sent.topic, self.ids[sent.name], commit)
        self._when(ended, lambda _: self.story.answer(op))


class TransactImage(Image):
    """Besides: each transaction is there, or has ended, as its producer knows; and its message with it."""

    _run: Transacting

    def _look(self, rig: SimRig) -> None:
        self._check_transactions(rig)
        super()._look(rig)

    def _check_transactions(self, rig: SimRig) -> None:
        store = rig.broker._store
        there: dict[str, list[Stored]] = {}
        for topic, place, body, properties in _rows(rig):
            if topic in ACCOUNTS:
                sent = Sent(body, topic, properties.get(m.TAGS, ""), "")
                there.setdefault(body, []).append(Stored(topic, place, sent, is_fired=False))
        for name, text in self._run.ids.items():
            ops = self._run.story.ops("", name, self._cut)
            if ops:
                number = transactionid.parse(text, ops[0].sent.topic)
                lives = store.state.halves.get(number) is not None
                self._check_one(ops, store.state.halves.outcomes.get(number), lives=lives, rows=there.get(name, []))
        self._check_answers(rig)

    def _check_one(self, ops: list[Op], outcome: int, *, lives: bool, rows: list[Stored]) -> None:
        begun, *ends = ops
        may_end = {OUTCOMES[op.kind] for op in ends}
        must_end = {OUTCOMES[op.kind] for op in ends if self._cut.keeps(op)}
        found = f"{begun.sent.name}: lives {lives}, outcome {outcome}, rows {rows}, {ops}"
        if lives and (outcome != UNKNOWN or must_end):
            self._wrong.append(f"it ended, and lives: {found}")
        if not lives and self._cut.keeps(begun) and outcome not in may_end:
            self._wrong.append(f"it is lost: {found}")
        if outcome not in (may_end | {UNKNOWN}):
            self._wrong.append(f"nobody ended it so: {found}")
        if len(rows) > 1 or (rows and outcome != COMMITTED):
            self._wrong.append(f"it is seen: {found}")
        if (COMMITTED in must_end or (outcome == COMMITTED and self._cut.keeps(begun))) and not (
            rows or self._moment.begin
        ):
            self._wrong.append(f"it was committed, and is nowhere: {found}")

    def _check_answers(self, rig: SimRig) -> None:
        """What lives can be ended, what ended is told so."""
        halves = rig.broker._store.state.halves
        for name, text in list(self._run.ids.items())[-20:]:
            ops = self._run.story.ops("", name, self._cut)
            if not ops:
                continue
            topic = ops[0].sent.topic
            outcome, lives = halves.outcomes.get(number := transactionid.parse(text, topic)), halves.get(number)
            try:
                rig.wait(rig.broker.end_transaction(topic, text, False))
                known = lives is not None or outcome == ROLLED_BACK
            except ClientError as error:
                expected = Code.PRECONDITION_FAILED if outcome == COMMITTED else Code.INVALID_TRANSACTION_ID
                known = lives is None and error.code is expected
            if not known:
                self._wrong.append(f"{name} is not answered as it is: {outcome}, lives {lives}")
