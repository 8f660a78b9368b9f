"""Dead letters: which were not replayed yet, and their replay. A replay goes to the letter's group alone.

A group's place in its dead letter topic, under the name REPLAYS, tells what was replayed: all below queue 0's next
offset, and each letter that has a queue of its own number + 1 there (one was replayed before those in front of it).

    (1) a copy in %RETRY%group, with RMQ_ORIGIN: the message lives again under the name that it died under
    (2) the mark, an entry of the journal

Crash before 1: nothing happened. Between 1 and 2, which no other letter comes between: the letter is still listed, but
replayed again it makes no second copy while the group holds the first, for no two messages live under one name. So at
most the one letter at which a crash struck is delivered twice, and that only if it was acknowledged in between.

A letter whose topic was deleted since, made again or not, has no name to live under: it stays a dead letter.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence

from rmq import message as m
from rmq.adminport import Kept, Page
from rmq.browse import BODIES_BYTES_MAX, SCAN_MAX, Browser, as_kept
from rmq.errors import ClientError, Code
from rmq.message import MessageType
from rmq.port import Answer
from rmq.topics import Topics
from rmq_store import record
from rmq_store.consumequeue import ConsumeQueue
from rmq_store.errors import StoreError, StoreFull
from rmq_store.journal import Cursors
from rmq_store.ledger import Subscription
from rmq_store.record import Draft, Record
from rmq_store.state import Origin, Topic
from rmq_store.store import Store

REPLAYS = "CID_RMQ_SYS_DLQ_REPLAY"
LETTERS_A_TURN = 40  # about 2 ms


class DeadLetters:
    """`subscribe` gives a group its places in a topic that is there; `tick` wakes the polls that wait for a replay."""

    def __init__(
        self,
        store: Store,
        topics: Topics,
        browser: Browser,
        loop: asyncio.AbstractEventLoop,
        *,
        subscribe: Callable[[str, str], Subscription],
        tick: Callable[[], None],
    ) -> None:
        self._store = store
        self._topics = topics
        self._browser = browser
        self._loop = loop
        self._subscribe = subscribe
        self._tick = tick

    # -- marks -------------------------------------------------------------------------------------------------------

    def _first(self, queue: ConsumeQueue) -> int:
        """All letters before it are replayed, or gone."""
        place = self._store.state.leases.subscriptions.get((REPLAYS, queue.topic))
        ledger = place.ledgers.get(0) if place is not None else None
        return max(ledger.next if ledger is not None else 0, queue.min_offset)

    def _is_marked(self, queue: ConsumeQueue, offset: int) -> bool:
        place = self._store.state.leases.subscriptions.get((REPLAYS, queue.topic))
        return offset < self._first(queue) or (place is not None and offset + 1 in place.ledgers)

    def _mark(self, queue: ConsumeQueue, offset: int) -> None:
        first = self._first(queue)
        if offset > first:
            self._store.apply(Cursors(REPLAYS, queue.topic, [(offset + 1, 1)]))
        elif offset == first:
            following = offset + 1
            while self._is_marked(queue, following):
                following += 1
            self._store.apply(Cursors(REPLAYS, queue.topic, [(0, following)]))

    # -- list --------------------------------------------------------------------------------------------------------

    def page(self, group: str, limit: int) -> Page:
        """See AdminPort.dead_letters."""
        topic = self._topics.find(m.DLQ_PREFIX + group)
        if topic is None:
            return Page([], {})
        queue = topic.queues[0]
        offset, found, bytes_left = self._first(queue), list[Kept](), BODIES_BYTES_MAX
        end = min(offset + SCAN_MAX, queue.visible)
        while offset < end and len(found) < limit and bytes_left > 0:
            kept = None if self._is_marked(queue, offset) else self._browser.read(queue, offset)
            if kept is not None:
                found.append(as_kept(kept, kept.decode_properties()))
                bytes_left -= len(kept.body)
            offset += 1
        return Page(found, {0: offset})

    # -- replay ------------------------------------------------------------------------------------------------------

    def replay(self, group: str, message_ids: Sequence[str]) -> Answer[int]:
        """See AdminPort. In slices; it ends where the group or its dead letters are deleted meanwhile."""
        topic = self._browser.require(m.DLQ_PREFIX + group)
        work = self._replayed(group, topic, frozenset(message_ids))
        answer: asyncio.Future[int] = self._loop.create_future()
        self._go_on(work, answer, 0)
        return answer

    def _go_on(self, work: Iterator[bool], answer: "asyncio.Future[int]", count: int) -> None:
        if answer.done():
            return
        try:
            for _ in range(LETTERS_A_TURN):
                count += next(work)
        except StopIteration:
            self._end(answer, count)
            return
        except StoreFull as error:
            text = f"{count} dead letters were replayed, the others cannot be now: {error}; free disk space, then again"
            answer.set_exception(ClientError(Code.INTERNAL_SERVER_ERROR, text))
            return
        except (ClientError, OSError, StoreError) as error:
            answer.set_exception(error)
            return
        finally:
            self._tick()
        self._loop.call_soon(self._go_on, work, answer, count)

    def _end(self, answer: "asyncio.Future[int]", count: int) -> None:
        saved = self._store.when_safe(count)
        if isinstance(saved, asyncio.Future):
            saved.add_done_callback(lambda _: _hand_on(saved, answer))
        else:
            answer.set_result(saved)

    def _replayed(self, group: str, topic: Topic, wanted: frozenset[str]) -> Iterator[bool]:
        """For each letter that is looked at, whether it is with the group again."""
        state, queue = self._store.state, topic.queues[0]
        count, refused = 0, ""
        for offset in range(queue.min_offset if wanted else self._first(queue), queue.visible):
            if state.topics.get(topic.name) is not topic or group not in state.groups:
                return
            letter = self._letter(queue, offset, wanted)
            lives = letter is not None and self._lives(group, *letter)
            if lives:
                count += 1
                self._mark(queue, offset)
            elif letter is not None:
                refused = letter[1].topic
            yield lives
        if refused and (wanted or not count):
            text = f"topic {refused} was deleted since these messages died: they stay dead letters of group {group}"
            raise ClientError(Code.TOPIC_NOT_FOUND, text)

    def _letter(self, queue: ConsumeQueue, offset: int, wanted: frozenset[str]) -> tuple[Record, Origin] | None:
        """The letter, if it is to be replayed, and where it died."""
        if not wanted and self._is_marked(queue, offset):
            return None
        kept = self._browser.read(queue, offset)
        properties = kept.decode_properties() if kept is not None else {}
        dead = Origin.parse(properties.get(m.RMQ_ORIGIN, ""))
        if kept is None or dead is None or (wanted and properties.get(m.UNIQ_KEY) not in wanted):
            return None
        return kept, dead

    def _lives(self, group: str, kept: Record, dead: Origin) -> bool:
        """Whether the group has the message, again or still; False where the name that it had is another's now."""
        queue = self._store.state.queue(dead.topic, dead.queue_id)
        if queue is None or dead.offset >= queue.max_offset:
            return False
        ledger = self._subscribe(group, dead.topic).ledger(dead.queue_id)
        held = ledger.find(dead.offset)
        home = self._store.state.queue(held.ledger.subscription.topic, held.ledger.queue_id) if held else queue
        now = self._browser.read(home, held.offset if held else dead.offset) if home is not None else None
        if now is not None and _message_id(now) != _message_id(kept):
            return False
        if held is None:
            self._deliver(group, kept, dead)
        return True

    def _deliver(self, group: str, kept: Record, dead: Origin) -> None:
        """As a message that lives on in the group's retry topic, with all its attempts before it."""
        retry = self._topics.make(m.RETRY_PREFIX + group, MessageType.MIXED, 1)
        origin = Origin(kept.position, dead.topic, dead.queue_id, dead.offset, group, attempt=1)
        properties = kept.decode_properties() | {m.RETRY_TOPIC: dead.topic, m.RMQ_ORIGIN: origin.text()}
        for name in (m.DLQ_ORIGIN_TOPIC, m.DLQ_ORIGIN_MESSAGE_ID):
            properties.pop(name, None)
        draft = Draft.make(
            retry.name_bytes, 0, kept.body, record.encode_properties(properties), kept.sys_flag, kept.born_ms,
            kept.born_host, kept.born_port,
        )  # fmt: skip
        tags = properties.get(m.TAGS, "")
        self._store.append(retry, retry.queues[0], draft, record.tags_code(tags) if tags else 0, origin)


def _message_id(found: Record) -> str:
    return found.decode_properties().get(m.UNIQ_KEY, "")


def _hand_on(saved: "asyncio.Future[int]", answer: "asyncio.Future[int]") -> None:
    if answer.done() or saved.cancelled():
        return
    error = saved.exception()
    if error is None:
        answer.set_result(saved.result())
    else:
        answer.set_exception(error)
