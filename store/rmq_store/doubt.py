"""What a replay does behind lost bytes of the log: deliveries that were in them must not settle their messages.

    journal    leased 5 to 7, next 8    [lost: leased 8 and 9, next 10]    leased 10, next 11

An entry that says how far a group is implies that what lies before was taken by someone, or passed by a filter. Behind
a loss that is not known. So what the first such entry of each place passes over is open again, and so is what lies
before a message that is settled, extended or carried forward without a delivery that anybody knows of: delivered twice
at most, never lost. (What a filter had passed comes once more, and is passed again.) Where a client committed a place,
or an operator moved it, there is no doubt. Each of a message group is in line
again, whether the record that said so is lost or not: it comes in its turn. A timer needs no doubt: where its
end is lost it is due still, and is delivered; so is a half message checked still, and may be committed once more. A
group that reads by lite topics passes over a queue for other reasons: of it only the places in these tell, and what was
delivered or settled, for that is before its place. That a group reads so may be told only behind its deliveries: `end`
mends what was made of these.

Lost is what a disk damaged, what a repair gave up, and what a power cut took of bytes that were not synced.
"""

from collections.abc import Iterator, Mapping
from itertools import accumulate

from rmq_store import halves, lines, lites, timers
from rmq_store.commitlog import CommitLog
from rmq_store.consumequeue import FILLER_SIZE, Entry
from rmq_store.journal import Acked, Change, Cursors, Extended, Grouped, Leased, LitePlaces, StateEnd
from rmq_store.ledger import Ledger, Open, Subscription
from rmq_store.lites import Lite, Place
from rmq_store.record import Damaged
from rmq_store.state import Origin, State


class Doubt:
    """Sees each change, and each origin of a message, before `state` applies it; changes only places."""

    def __init__(self, state: State, log: CommitLog) -> None:
        self._state = state
        self._log = log
        self._lost_before = 0  # a position: bytes before it are lost
        self._found: set[Ledger | tuple[str, int]] = set()  # places of which an entry has told since

    @property
    def is_raised(self) -> bool:
        """Something was lost so far."""
        return self._lost_before > 0

    def begin(self, end: int) -> None:
        """Bytes of the log right before this position are lost: every place is in doubt."""
        self._lost_before = end
        self._found.clear()

    def before(self, change: Change) -> bool:
        """False where it is not to be applied: the end of a repetition of the state that may have a hole."""
        if isinstance(change, Extended) and change.sequence:
            self._is_held_again(self._ledger(change.group, change.topic, change.queue_id), change.offset)
        if not self._lost_before:
            return True
        match change:
            case StateEnd():
                return change.base >= self._lost_before
            case Acked():
                for queue_id, offsets in change.parts:
                    ledger = self._ledger(change.group, change.topic, queue_id)
                    for offset in offsets:
                        self._was_delivered(ledger, offset)
            case Extended():
                ledger = self._ledger(change.group, change.topic, change.queue_id)
                self._was_delivered(ledger, change.offset)
                if change.sequence:
                    self._is_held_of_lite(ledger, change.offset)
            case Cursors(settles=True):
                for queue_id, _ in change.nexts:
                    self._is_settled(self._ledger(change.group, change.topic, queue_id))
            case Cursors():
                for queue_id, next_offset in change.nexts:
                    self._goes_on(self._ledger(change.group, change.topic, queue_id), next_offset)
            case Grouped():
                for queue_id, steps, keys in change.parts:
                    ledger = self._ledger(change.group, change.topic, queue_id)
                    for offset, key in zip(accumulate(steps), keys, strict=True):
                        self._joins(ledger, offset, key)
            case Leased():
                for queue_id, next_offset, steps, _ in change.parts:
                    ledger = self._ledger(change.group, change.topic, queue_id)
                    self._goes_on(ledger, next_offset)
                    for offset in accumulate(steps):
                        self._is_held_of_lite(ledger, offset)
            case LitePlaces(settles=True):
                for key, _ in change.places:
                    self._is_settled_in_lite(change.group, change.topic, key)
            case LitePlaces():
                for key, next_offset in change.places:
                    self._goes_on_in_lite(change.group, change.topic, key, next_offset)
        return True

    def _is_held_again(self, ledger: Ledger, offset: int) -> None:
        """Settled, and yet somebody has it: an ack behind others of its line was undone, which a replay took for one of
        the front: retention deleted the deliveries of those others, and carried them out behind the ack. So nothing
        need be lost for that. It is in its line again.
        """
        if ledger.find(offset) is None and ledger.key(offset) is None:
            key = self._key_at(ledger, offset)
            if key is not None:
                group, topic = ledger.subscription.group, ledger.subscription.topic
                self._state.apply(Grouped(group, topic, [(ledger.queue_id, [offset], [key])]))

    def before_origin(self, origin: Origin, properties: Mapping[str, str]) -> None:
        """A message of the log stands for another, which was delivered then; a timer and a half message never are.
        Where it lives on it is in line as the other was: the entry behind it that says so may be lost.
        """
        if not self._lost_before or origin.topic in (timers.TOPIC, halves.TOPIC):
            return
        ledger = self._ledger(origin.group, origin.topic, origin.queue_id)
        self._was_delivered(ledger, origin.offset)
        key = self._line_of(properties, ledger.subscription) if origin.attempt else None
        if key is not None:
            self._state.apply(Grouped(origin.group, origin.topic, [(origin.queue_id, [origin.offset], [key])]))

    def end(self) -> None:
        """All is read, and which groups read by lite topics is known. What they have in no line was taken for that of
        an ordinary topic.
        """
        for subscription in self._state.leases.subscriptions.values() if self._lost_before else ():
            for ledger in subscription.ledgers.values() if subscription.lite else ():
                for found in [found for found in ledger.open.values() if ledger.key(found.offset) is None]:
                    self._put_in_line(found)

    def _put_in_line(self, found: Open) -> None:
        """Unless nobody had it, as far as is known, and it comes as new, or the group never had a place for it."""
        ledger, offset = found.ledger, found.offset
        group, topic = ledger.subscription.group, ledger.subscription.topic
        known = self._place(group, topic, self._key_at(ledger, offset))
        if found.attempt or found.lease is not None or (known is not None and offset < known[1].next):
            self._is_held_of_lite(ledger, offset)
        else:
            self._state.apply(Acked(group, topic, [(ledger.queue_id, [offset])]))

    def _ledger(self, group: str, topic: str, queue_id: int) -> Ledger:
        return self._state.leases.subscription(group, topic).ledger(queue_id)

    def _is_settled(self, ledger: Ledger) -> None:
        """All that is before the place, by somebody's word; what lies behind it comes as if for the first time."""
        self._found.add(ledger)
        group, topic = ledger.subscription.group, ledger.subscription.topic
        self._state.apply(Acked(group, topic, [(ledger.queue_id, ledger.held())]))

    def _goes_on(self, ledger: Ledger, next_offset: int) -> None:
        if ledger not in self._found:
            self._found.add(ledger)
            self._reopen(ledger, next_offset)

    def _is_settled_in_lite(self, group: str, topic: str, key: int) -> None:
        """As above, of one lite topic."""
        self._found.add((group, key))
        self._settle_lite(group, topic, key, 0)

    def _settle_lite(self, group: str, topic: str, key: int, start: int) -> None:
        """What is in line from an offset on."""
        lite = self._state.lites.get(key)
        ledger = self._ledger(group, topic, lite.queue_id) if lite is not None else None
        if ledger is None or ledger.lines is None:
            return
        in_line = [ledger.lines.at(key, place) for place in range(ledger.lines.length(key))]
        for offset in in_line:
            if offset >= start:
                self._state.leases.settle(ledger, offset, final=True)

    def _goes_on_in_lite(self, group: str, topic: str, key: int, next_offset: int) -> None:
        """What the entry passes over, but for what its lease has just told of. Where it goes back somebody moved it:
        what the group had behind it comes as new.
        """
        known = self._place(group, topic, key)
        if known is None or (group, key) in self._found:
            return
        self._found.add((group, key))
        self._reopen_lite(group, *known, next_offset)
        if next_offset < known[1].next:
            self._settle_lite(group, topic, key, next_offset)

    def _place(self, group: str, topic: str, key: int | None) -> tuple[Lite, Place] | None:
        known, lite = self._state.lites.group(group, topic), self._state.lites.get(key) if key is not None else None
        place = known.places.get(lite.key) if known is not None and lite is not None else None
        return (lite, place) if lite is not None and place is not None else None

    def _reopen_lite(self, group: str, lite: Lite, place: Place, end: int) -> None:
        ledger = self._ledger(group, lite.topic, lite.queue_id)
        start = lite.number_of(place.next) - lite.first
        passed = [offset for offset in lite.offsets[start:] if offset < end and ledger.find(offset) is None]
        self._state.leases.reopen(ledger, [(offset, lite.key) for offset in passed], ledger.next)

    def _was_delivered(self, ledger: Ledger, offset: int) -> None:
        if ledger.subscription.lite:
            self._was_delivered_of_lite(ledger, offset)
        elif offset >= ledger.next:
            self._reopen(ledger, offset + 1)
        elif (key := ledger.key(offset)) is not None and ledger.find(offset) is None:  # it was parked, when last seen
            self._state.leases.reopen(ledger, [(offset, key)], ledger.next)

    def _joins(self, ledger: Ledger, offset: int, key: int) -> None:
        """The line of a lite topic proves that the group reads by them, and has a place in this one."""
        group, topic = ledger.subscription.group, ledger.subscription.topic
        lite = self._state.lites.get(key)
        if lite is not None and lite.topic == topic and self._place(group, topic, key) is None:
            self._state.apply(LitePlaces(group, topic, [(key, ledger.next)]))
            self._was_delivered_of_lite(ledger, offset)

    def _was_delivered_of_lite(self, ledger: Ledger, offset: int) -> None:
        """Then its group's place in the lite topic is behind it, and what the place passes over was delivered, too. But
        where an entry has told of the place since, that it is in its line is no news: the place follows.
        """
        group, topic, key = ledger.subscription.group, ledger.subscription.topic, ledger.key(offset)
        if key is not None and (group, key) in self._found:
            return
        known = self._place(group, topic, key if key is not None else self._key_at(ledger, offset))
        if known is not None and known[1].next <= offset:
            self._reopen_lite(group, *known, offset + 1)
            self._state.apply(LitePlaces(group, topic, [(known[0].key, offset + 1)]))

    def _is_held_of_lite(self, ledger: Ledger, offset: int) -> None:
        """Somebody has it: it is in its line, else what is behind it would come before it."""
        if not ledger.subscription.lite:
            return
        self._was_delivered_of_lite(ledger, offset)
        key = self._key_at(ledger, offset) if ledger.key(offset) is None else None
        if key is not None:
            group, topic = ledger.subscription.group, ledger.subscription.topic
            self._state.apply(Grouped(group, topic, [(ledger.queue_id, [offset], [key])]))

    def _reopen(self, ledger: Ledger, end: int) -> None:
        if ledger.subscription.lite:
            return
        self._state.leases.reopen(ledger, self._readable(ledger, ledger.next, end), end)

    def _key_at(self, ledger: Ledger, offset: int) -> int | None:
        return next((key for _, key in self._readable(ledger, offset, offset + 1)), None)

    def _readable(self, ledger: Ledger, start: int, end: int) -> Iterator[tuple[int, int | None]]:
        """Offsets that have a message, and the keys of their lines."""
        queue = self._state.queue(ledger.subscription.topic, ledger.queue_id)
        if queue is None:
            return
        offset = max(start, queue.first_offset)
        while entries := queue.read(offset, end - offset):
            for entry in entries:
                if entry.size != FILLER_SIZE:
                    yield offset, self._key(entry, ledger.subscription)
                offset += 1

    def _key(self, entry: Entry, of: Subscription) -> int | None:
        try:
            found = self._log.read(entry.position, entry.size)
        except Damaged:
            return None
        return self._line_of(found.decode_properties(), of)

    def _line_of(self, properties: Mapping[str, str], of: Subscription) -> int | None:
        if of.lite:
            name = properties.get(lites.PROPERTY)
            return lines.key_of(of.topic, name) if name else None
        message_group = properties.get(lines.PROPERTY)
        if message_group:
            return lines.key_of(message_group)
        known = self._state.groups.get(of.group)
        return lines.WHOLE_QUEUE if known is not None and known.orderly else None
