"""What befalls lite topics in a crash: the model of all verbs, whole.

Who subscribes what, and in what there are places, is afterwards as it was at some moment since all was safe.
"""

from collections import Counter

from rmq.port import LiteAction
from rmq_store.lines import key_of
from tests.model.lites import (
    CUT_OFF_STARTS,
    EXCLUSIVE,
    NAMES,
    READERS,
    READERS_CLIENTS,
    TOPIC,
    TOPICS_MAX,
    Channel,
    LiteVerbs,
)  # fmt: skip
from tests.model.model import Sent, to_be_found
from tests.model.reading import Reading, reading, was


class LiteMachine(LiteVerbs):
    """`once`: what was so since everything was safe."""

    def __init__(self) -> None:
        super().__init__()
        self.once: list[Reading] = []

    def _begin_send(self, pick: int) -> None:
        """A message of a lite topic, in some of the cases."""
        lite = NAMES[pick % len(NAMES)]
        if pick % 5 != 2 or len({*self.channels, lite}) > TOPICS_MAX:
            super()._begin_send(pick)
            return
        self._remember()
        message = self._of_lite("a", lite)
        self.unanswered[message.body.decode()] = to_be_found(TOPIC, "a", lite_topic=lite)
        self._channel(lite)
        self.rig.broker.send([message])

    def _begin_receive(self, pick: int) -> None:
        """Of lite topics, or a subscription, in some of the cases."""
        readers = self._readers_due()
        if pick % 5 == 1:
            self._begin_sync(pick)
        elif pick % 5 == 2 and readers:
            group, client = readers[pick % len(readers)]
            self._ask_lite(group, client, 1 + pick % 5, 30_000, renewed=pick % 2 == 0, fifo=pick % 4 == 1, turns=0)
        else:
            super()._begin_receive(pick)

    def _begin_sync(self, pick: int) -> None:
        reader = READERS[pick // 5 % 3], READERS_CLIENTS[pick // 2 % 2]
        action: LiteAction = ("add", "remove", "replace")[pick % 3]
        names = {NAMES[pick % len(NAMES)], NAMES[pick // 7 % len(NAMES)]}
        sync = self._syncs(reader, action, names, CUT_OFF_STARTS[pick // 3 % 3])
        if self._refusal(sync) is None:
            self._remember()
            self.moved.update((sync.group, lite) for lite in self._placed(sync) | self._anew(sync))
            self._subscribe(sync)
            self.rig.broker.sync_lite(sync)

    def _remember(self) -> None:
        self.once.append(Reading({*self.channels}, {*self.subscribed}, {*self.known}))

    def _all_is_safe(self) -> None:
        super()._all_is_safe()
        self.once.clear()
        self.moved.clear()

    def _resolve(self) -> None:
        """What is subscribed, and in what there are places, is as it was at some moment since everything was safe."""
        found = reading(self.rig.broker._store.state.lites, TOPIC, NAMES)
        now = Reading({*self.channels}, self.subscribed, self.known)
        moments = [*self.once, now]
        assert was(found.there, [moment.there for moment in moments])
        assert was(found.subscribed, [moment.subscribed for moment in moments])
        held = Counter((group, lite) for group, _, lite in found.subscribed if group in EXCLUSIVE)
        assert max(held.values(), default=1) == 1, f"{held.most_common(1)} clients have it"
        assert was(found.known, [moment.known for moment in moments])
        self._count("lite verbs undone", int(found != now))
        self.channels = {lite: self.channels[lite] for lite in found.there}
        self.subscribed, self.known = found.subscribed, found.known
        lost = sum(bool(sent.lite_topic) for sent in self.unanswered.values())
        super()._resolve()
        for lite, channel in self.channels.items():
            self._resolve_channel(lite, channel, lost)

    def _resolve_channel(self, lite: str, channel: Channel, lost: int) -> None:
        """When it was touched last, and how far its messages are counted: those that a crash took may count."""
        kept = self._lite(lite)
        assert kept is not None
        first = kept.end - len(channel.names)
        assert channel.first <= first <= channel.first + lost
        assert channel.touched_ms <= kept.touched_ms <= self.rig.clock.wall_ms()
        channel.first, channel.touched_ms = first, kept.touched_ms

    def _is_unseen(self, group: str, sent: Sent) -> bool:
        """Of a group that reads by lite topics: behind its place, and in none of the client's hands."""
        if group not in READERS:
            return super()._is_unseen(group, sent)
        state = self.rig.broker._store.state
        lite, known, queue = (
            self._lite(sent.lite_topic),
            state.lites.group(group, TOPIC),
            state.queue(TOPIC, sent.queue_id),
        )
        place = known.places.get(key_of(TOPIC, sent.lite_topic)) if known is not None else None
        if lite is None or place is None or queue is None or sent.offset < max(place.next, queue.min_offset):
            return False
        ledger = state.leases.subscription(group, TOPIC).ledger(sent.queue_id)
        return sent.offset in lite.offsets and ledger.find(sent.offset) is None
