"""What clients do in a life of the server, and where it may end: the workloads of the campaign. Data, no behaviour."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Clients in flight; receivers: for each topic and group. What becomes of a message: weights, in parts of all."""

    name: str
    senders: int
    receivers: int
    ack: int = 1
    keep: int = 0  # until its lease ends
    change: int = 0
    bury: int = 0
    delayed: float = 0.0  # how many messages are, and may be recalled
    grouped: float = 0.0  # how many of the others have a message group
    transactors: int = 0  # clients that begin and end transactions
    retention: bool = False
    run_s_max: float = 0.3

    @property
    def fates(self) -> Sequence[str]:
        """The names of the weights."""
        return ("ack", "keep", "change", "bury")

    @property
    def weights(self) -> Sequence[int]:
        """In the order of `fates`."""
        return (self.ack, self.keep, self.change, self.bury)


SEND = Plan("send", senders=12, receivers=1)
SETTLE = Plan("settle", senders=4, receivers=3, ack=8, keep=2)
CHANGE = Plan("change", senders=4, receivers=2, ack=4, keep=1, change=3, bury=2)
RESTART = Plan("restart", senders=2, receivers=1, run_s_max=0.05)
DELAY = Plan("delay", senders=6, receivers=2, ack=8, keep=2, delayed=0.6)
FIFO = Plan("fifo", senders=6, receivers=3, ack=8, keep=1, change=1, grouped=0.8)
TRANSACT = Plan("transact", senders=2, receivers=2, ack=8, keep=2, transactors=8)
RETAIN = Plan("retain", senders=8, receivers=2, ack=6, keep=4, delayed=0.2, grouped=0.2, transactors=3, retention=True)
PLANS = (SEND, SETTLE, CHANGE, RESTART, DELAY, FIFO, TRANSACT, RETAIN)
