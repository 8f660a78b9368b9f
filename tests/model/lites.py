"""The model learns lite topics: sends, subscriptions, receives, places and their end; all else is transacting.py's.

Held besides: a client gets of the lite topics that it subscribes what its group has not had, each in order, and nothing
else; a group begins where its first subscription, or an offset option, said; subscriptions and places outlast whatever
befalls the server, one that a crash cut off is made or not; ordinary groups get all of the parent. Of an exclusive
group one client has a lite topic, the last that named it; who loses it is told, and who says so in vain. A lite topic
ends after its time, not while somebody has something to read of it, and who subscribes it is told. What is refused
changes nothing.
"""

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from rmq import message as m
from rmq.config import AS_IS, GroupFlags, TopicSetting
from rmq.errors import ClientError, Code
from rmq.message import Delivered, MessageType, Outgoing
from rmq.port import Answer, LiteAction, LiteStart, LiteSync, ReceiveRequest
from rmq_store.lines import key_of
from rmq_store.lites import Lite
from tests.model.machine import INVISIBLE
from tests.model.model import CLIENTS, GROUPS, Place, Sent
from tests.model.transacting import TransactMachine
from tests.rmq.rig import outgoing, request

TOPIC = "feeds"
READERS = ("near", "far", "anew")  # groups that read it by its lite topics
EXCLUSIVE = READERS[1:]
FLAGS = {
    "far": GroupFlags(lite_exclusive=True),
    "anew": GroupFlags(lite_exclusive=True, lite_reset_on_takeover=True, lite_reset_on_unsubscribe=True),
}
READERS_CLIENTS = CLIENTS[1:]
NAMES = "pqrstu"
TOPICS_MAX = 5
SUBSCRIPTIONS_MAX = 3
TTL_MS = 600_000
LATE_MS = 120_000  # a look that comes up to a minute late, and the next one a minute after it
POLLS_MAX = 3
CUT_OFF_STARTS = (LiteStart(), LiteStart("min"), LiteStart("max"))  # they mean the same whatever else is under way
ACTION = st.sampled_from(("add", "add", "remove", "replace"))
MORE_STARTS: tuple[LiteStart, ...] = (
    *CUT_OFF_STARTS, LiteStart("tail", 1), LiteStart("tail", 3), LiteStart("offset", 1), LiteStart("offset", 4),
    LiteStart("time", 1), LiteStart("time", 30_000),  # so long ago
)  # fmt: skip
START = st.sampled_from(MORE_STARTS)
READER = st.tuples(st.sampled_from(READERS), st.sampled_from(READERS_CLIENTS))
NAME = st.sampled_from("ppqqrstu")
SOME_NAMES = st.sets(NAME, min_size=1, max_size=4)


@dataclasses.dataclass
class Channel:
    """A lite topic as those who send to it know it. `first`: the number of its first message."""

    touched_ms: int
    read_ms: int = 0  # when somebody last had something to read
    first: int = 0
    names: list[str] = dataclasses.field(default_factory=list)


class LiteVerbs(TransactMachine):
    """`channels`: those that there are."""

    owners: ClassVar[Sequence[str]] = (*GROUPS, *READERS)
    flags: ClassVar[Mapping[str, GroupFlags]] = FLAGS

    def __init__(self) -> None:
        super().__init__()
        self.channels: dict[str, Channel] = {}
        self.subscribed: set[tuple[str, str, str]] = set()
        self.known: set[tuple[str, str]] = set()
        self.sent_ms: dict[str, int] = {}
        self.moved: set[tuple[str, str]] = set()  # places that clients moved since then
        self.ended: Counter[tuple[str, str]] = Counter()  # who is to be told of the end of which subscription

    def _settings(self) -> dict[str, object]:
        settings = super()._settings()
        settings["topics"] = {**settings["topics"], TOPIC: TopicSetting(MessageType.LITE, 2)}  # type: ignore[dict-item]
        limits = {"lite_topics_max": TOPICS_MAX, "lite_subscriptions_max": SUBSCRIPTIONS_MAX, "lite_ttl_ms": TTL_MS}
        return settings | limits

    def _pairs(self) -> list[tuple[str, str]]:
        return [*super()._pairs(), *((group, TOPIC) for group in GROUPS)]

    @initialize(names=SOME_NAMES)
    def subscribe_some(self, names: set[str]) -> None:
        """Each client, if it may."""
        for reader in [(group, client) for group in READERS for client in READERS_CLIENTS]:
            self.sync_lite(reader, "replace", names, LiteStart())

    # -- send --------------------------------------------------------------------------------------------------------

    @rule(rows=st.lists(st.tuples(st.sampled_from("a_"), NAME), min_size=1, max_size=5))
    def send_lite(self, rows: list[tuple[str, str]]) -> None:
        """One call with messages of some lite topics."""
        messages = [self._of_lite(tag.strip("_"), lite) for tag, lite in rows]
        if len(self.channels.keys() | {lite for _, lite in rows}) > TOPICS_MAX:
            self._is_refused(Code.LITE_TOPIC_QUOTA_EXCEEDED, lambda: self.rig.broker.send(messages))
            return
        for message, (tag, lite), result in zip(messages, rows, self.rig.send(*messages), strict=True):
            sent = Sent(TOPIC, tag.strip("_"), result.queue_id, result.queue_offset, lite_topic=lite)
            self._stored(message.body.decode(), sent)
        self._count("sent to lite topics", len(rows))

    def _of_lite(self, tag: str, lite: str) -> Outgoing:
        name = self._next_name()
        self.sent_ms[name] = self.rig.clock.wall_ms()
        return outgoing(name, topic=TOPIC, tag=tag, **{m.LITE_TOPIC: lite})

    def _is_refused(self, code: Code, verb: Callable[[], object]) -> None:
        with pytest.raises(ClientError) as caught:
            verb()
        assert caught.value.code is code
        self._count("refused for lite topics")

    def _stored(self, name: str, sent: Sent) -> None:
        super()._stored(name, sent)
        if sent.topic != TOPIC:
            return
        channel = self._channel(sent.lite_topic)
        channel.names.append(name)
        channel.names.sort(key=lambda one: self.sent[one].offset)
        channel.touched_ms = max(channel.touched_ms, self.sent_ms[name])
        for group in READERS:
            is_wanted = self._is_wanted(group, sent)
            place = self.places[group, name] = Place(sent.offset, over="" if is_wanted else "unwanted")
            place.line = self.lines.setdefault((group, TOPIC, sent.lite_topic), [])
            place.line.append(place)
            place.line.sort(key=lambda one: one.offset)

    def _channel(self, lite: str) -> Channel:
        return self.channels.setdefault(lite, Channel(self.rig.clock.wall_ms()))

    def _is_wanted(self, group: str, sent: Sent) -> bool:
        """A new one. Where a client moved the group in the midst of it, the broker knows."""
        if (group, sent.lite_topic) in self.moved:
            return self._seen(group, sent) != "over"
        return (group, sent.lite_topic) in self.known

    # -- subscriptions -----------------------------------------------------------------------------------------------

    @rule(reader=READER, action=ACTION, names=SOME_NAMES, start=START)
    def sync_lite(self, reader: tuple[str, str], action: LiteAction, names: set[str], start: LiteStart) -> None:
        """A client says what it wants, and from where on."""
        sync = self._syncs(reader, action, names, start)
        refusal = self._refusal(sync)
        if refusal is not None:
            self._is_refused(refusal, lambda: self.rig.broker.sync_lite(sync))
            return
        answer = self.rig.broker.sync_lite(sync)
        self._subscribe(sync)
        self.rig.wait(answer)
        self._count(f"lite topics: {action}")

    def _syncs(self, reader: tuple[str, str], action: LiteAction, names: set[str], start: LiteStart) -> LiteSync:
        if start.kind == "time":
            start = LiteStart("time", self.rig.clock.wall_ms() - start.value)
        return LiteSync(reader[0], TOPIC, reader[1], action, sorted(names), start)

    def _mine(self, group: str, client: str) -> set[str]:
        return {lite for owner, who, lite in self.subscribed if (owner, who) == (group, client)}

    def _others(self, sync: LiteSync) -> set[tuple[str, str, str]]:
        """Subscriptions of other clients that stand against what the call names."""
        if sync.group not in EXCLUSIVE:
            return set()
        return {
            (group, client, lite)
            for group, client, lite in self.subscribed
            if group == sync.group and client != sync.client_id and lite in sync.names
        }

    def _free(self, sync: LiteSync) -> set[str]:
        """What it names and the client may have; only who says its whole set takes nothing over."""
        taken = {lite for _, _, lite in self._others(sync)} if sync.action == "replace" else set()
        return set(sync.names) - (taken - self._mine(sync.group, sync.client_id))

    def _wanted(self, sync: LiteSync) -> set[str]:
        mine, names = self._mine(sync.group, sync.client_id), self._free(sync)
        return {"add": mine | names, "remove": mine - names, "replace": names}[sync.action]

    def _placed(self, sync: LiteSync) -> set[str]:
        """Those that the group's places are looked at for."""
        if sync.action == "remove":
            return set()
        mine = self._mine(sync.group, sync.client_id) if sync.action == "replace" else set()
        return self._free(sync) - mine

    def _anew(self, sync: LiteSync) -> set[str]:
        """Those that the group reads from the beginning again, because another one takes over, or unsubscribes it."""
        flags = self.flags.get(sync.group, AS_IS)
        if sync.action == "remove":
            return (
                self._mine(sync.group, sync.client_id) & set(sync.names) if flags.lite_reset_on_unsubscribe else set()
            )
        if sync.action == "replace" or sync.start.kind != "last" or not flags.lite_reset_on_takeover:
            return set()
        return {lite for _, _, lite in self._others(sync)}

    def _refusal(self, sync: LiteSync) -> Code | None:
        if max(len(sync.names), len(self._wanted(sync))) > SUBSCRIPTIONS_MAX:
            return Code.LITE_SUBSCRIPTION_QUOTA_EXCEEDED
        fresh = self._placed(sync) - self.channels.keys()
        return Code.LITE_TOPIC_QUOTA_EXCEEDED if fresh and len(self.channels) + len(fresh) > TOPICS_MAX else None

    def _subscribe(self, sync: LiteSync) -> None:
        placed, wanted, anew = self._placed(sync), self._wanted(sync), self._anew(sync)
        for lite in anew:
            self._go_to(sync.group, lite, 0)
            self._count("lite topics read anew")
        for lite in placed - anew:
            channel = self._channel(lite)
            if sync.start.kind != "last" or (sync.group, lite) not in self.known:
                self._go_to(sync.group, lite, self._begin_of(channel, sync.start))
                self._count("places in lite topics moved")
            self.known.add((sync.group, lite))
        self._take_over(sync)
        gone = {(sync.group, sync.client_id, lite) for lite in self._mine(sync.group, sync.client_id)}
        self.subscribed = self.subscribed - gone | {(sync.group, sync.client_id, lite) for lite in wanted}

    def _take_over(self, sync: LiteSync) -> None:
        """Who loses a lite topic is told, and who asks in vain."""
        others = self._others(sync)
        if sync.action == "add":
            self.subscribed -= others
            self.ended.update((client, lite) for _, client, lite in others)
            self._count("lite topics taken over", len(others))
        refused = set(sync.names) - self._free(sync)
        self.ended.update((sync.client_id, lite) for lite in refused)
        self._count("lite topics of others refused", len(refused))

    def _begin_of(self, channel: Channel, start: LiteStart) -> int:
        """How many of its messages are passed over."""
        count = len(channel.names)
        match start.kind:
            case "min":
                return 0
            case "offset":
                return start.value - channel.first
            case "tail":
                return count - start.value
            case "time":
                return sum(self.sent_ms[name] < start.value for name in channel.names)
            case _:
                return count

    def _go_to(self, group: str, lite: str, count: int) -> None:
        """What comes behind is new, what is before is not for the group."""
        names = self.channels[lite].names
        new = set(names[max(count, 0) :])
        for name, place in self._line(group, lite):
            self._changes(place)
            queue = self.rig.broker._store.state.queue(TOPIC, self.sent[name].queue_id)
            assert queue is not None
            is_new = name in new and place.offset >= queue.min_offset
            place.deaths += place.over == "dead"
            place.attempts, place.lease, place.old_handles = 0, None, []
            place.over = "" if is_new else "unwanted"

    def _line(self, group: str, lite: str) -> list[tuple[str, Place]]:
        """Of all that was ever sent to a lite topic of this name."""
        of_group = ((name, place) for (owner, name), place in self.places.items() if owner == group)
        return [(name, place) for name, place in of_group if self.sent[name].lite_topic == lite]

    @precondition(lambda self: self.subscribed)
    @rule(reader=READER, seldom=st.integers(0, 3))
    def leave_lite(self, reader: tuple[str, str], seldom: int) -> None:
        """A client is gone."""
        if not seldom:
            self.leave(reader)

    def leave(self, reader: tuple[str, str]) -> None:
        """With its polls and what it subscribes; its group's places stay."""
        for wanted, answer in self.polls:
            if wanted.lite and (wanted.group, wanted.client_id) == reader:
                answer.cancel()
        self.rig.turn()
        self.polls = [poll for poll in self.polls if not poll[1].cancelled()]
        self._offline(*reader)
        self.subscribed = {one for one in self.subscribed if one[:2] != reader}
        self._count("left lite topics")

    # -- receive -----------------------------------------------------------------------------------------------------

    def _found(self, *, fifo: bool = False) -> Iterator[tuple[str, str]]:
        return (pair for pair in super()._found(fifo=fifo) if pair[0] in GROUPS)

    def _due(self, group: str, client: str, *, fifo: bool = False) -> list[str]:
        """The lite topic of each message that a receive may bring."""
        mine = self._mine(group, client)
        names = [
            name for (owner, name), place in self.places.items() if owner == group and place.is_available(fifo=fifo)
        ]
        return [self.sent[name].lite_topic for name in names if self.sent[name].lite_topic in mine]

    def _is_there(self, wanted: ReceiveRequest) -> bool:
        if wanted.group not in READERS:
            return super()._is_there(wanted)
        return bool(self._due(wanted.group, wanted.client_id))

    def _readers_due(self) -> list[tuple[str, str]]:
        return [(group, client) for group in READERS for client in READERS_CLIENTS if self._due(group, client)]

    @precondition(lambda self: self._readers_due())
    @rule(pick=st.integers(0, 99), batch=st.integers(1, 5), invisible_ms=INVISIBLE, renewed=st.booleans(),
          fifo=st.booleans())  # fmt: skip
    def receive_lite(self, pick: int, batch: int, invisible_ms: int, renewed: bool, fifo: bool) -> None:
        """Where there is something: one of each lite topic, or several for a client that was told so."""
        readers = self._readers_due()
        group, client = readers[pick % len(readers)]
        due = self._due(group, client, fifo=fifo)
        answer = self._ask_lite(group, client, batch, invisible_ms, renewed=renewed, fifo=fifo)
        assert not isinstance(answer, asyncio.Future)
        assert min(batch, len(set(due))) <= len(answer) <= min(batch, len(due))
        self._count("received of lite topics")

    def _ask_lite(
        self,
        group: str,
        client: str,
        batch: int,
        invisible_ms: int,
        *,
        renewed: bool,
        fifo: bool = False,
        turns: int = 4,
    ) -> Answer[Sequence[Delivered]]:
        wanted = request(
            TOPIC, group, batch=batch, invisible_ms=invisible_ms, client_id=client, auto_renew=renewed,
            poll_ms=600_000, fifo=fifo, lite=True,
        )  # fmt: skip
        return self._receive(wanted, turns)

    @precondition(lambda self: sum(wanted.lite for wanted, _ in self.polls) < POLLS_MAX)
    @rule(reader=READER, batch=st.integers(1, 5), invisible_ms=INVISIBLE, renewed=st.booleans())
    def poll_lite(self, reader: tuple[str, str], batch: int, invisible_ms: int, renewed: bool) -> None:
        """Where there may be something, or has to be waited for."""
        is_there = bool(self._due(*reader))
        answer = self._ask_lite(*reader, batch, invisible_ms, renewed=renewed)
        assert isinstance(answer, asyncio.Future) or is_there
        self._count("polled lite topics")

    def _deliver(self, wanted: ReceiveRequest, place: Place, message: Delivered) -> None:
        super()._deliver(wanted, place, message)
        lite = self.sent[message.body.decode()].lite_topic
        assert message.properties.get(m.LITE_TOPIC, "") == lite
        if wanted.group in READERS:
            self._count("delivered of lite topics")
            assert (wanted.group, wanted.client_id, lite) in self.subscribed, f"{lite} is not subscribed"

    # -- time --------------------------------------------------------------------------------------------------------

    def _expire(self) -> None:
        """Lite topics end after their time, and those who subscribe them are told."""
        read = {lite for lite in self.channels if self._is_read(lite)}
        super()._expire()
        now_ms = self.rig.clock.wall_ms()
        for lite, channel in list(self.channels.items()):
            end_ms = channel.touched_ms + TTL_MS
            if lite in read:
                channel.read_ms = now_ms
            if self._lite(lite) is not None:
                assert lite in read or now_ms < max(end_ms, channel.read_ms) + LATE_MS, f"{lite} does not end"
                continue
            assert end_ms <= now_ms, f"{lite} ended before its time"
            assert lite not in read, f"{lite} ended while somebody had something to read"
            self.ended.update((client, name) for _, client, name in self.subscribed if name == lite)
            self._forget(lite)
        assert self.clients.unsubscribed == self.ended
        self.clients.unsubscribed.clear()
        self.ended.clear()

    def _is_read(self, lite: str) -> bool:
        """Something of it is open, or to be read by a client that is there."""
        for group in READERS:
            is_subscribed = any((group, client, lite) in self.subscribed for client in READERS_CLIENTS)
            for _, place in self._line(group, lite):
                if not place.is_settled and (is_subscribed or not place.is_new):
                    return True
        return False

    def _forget(self, lite: str) -> None:
        del self.channels[lite]
        self.subscribed = {one for one in self.subscribed if one[2] != lite}
        self.known = {one for one in self.known if one[1] != lite}
        for group in READERS:
            for _, place in self._line(group, lite):
                place.over = place.over or "unwanted"
        self._count("lite topics ended")

    def _lite(self, lite: str) -> Lite | None:
        return self.rig.broker._store.state.lites.get(key_of(TOPIC, lite))

    # -- the end -----------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """A client of each group subscribes all that there is, and gets what the group has not had."""
        self._collect()
        for reader in [(group, client) for group in READERS for client in READERS_CLIENTS]:
            self.leave(reader)
        self.advance(500_000)
        for group in READERS:
            for part in (sorted(self.channels)[:SUBSCRIPTIONS_MAX], sorted(self.channels)[SUBSCRIPTIONS_MAX:]):
                self.sync_lite((group, READERS_CLIENTS[0]), "replace", set(part), LiteStart())
                self._drain_lites(group)
        super()._drain()
        for group in READERS:
            assert self.rig.receive(request(TOPIC, group, batch=32, client_id=READERS_CLIENTS[0], lite=True)) == []

    def _drain_lites(self, group: str) -> None:
        wanted = request(TOPIC, group, batch=32, client_id=READERS_CLIENTS[0], lite=True)
        while messages := self.rig.receive(wanted):
            self._take(wanted, messages)
            for message in messages:
                self.rig.ack(message.handle, topic=TOPIC, group=group)
                self._leave(self.places[group, message.body.decode()], "acked")
