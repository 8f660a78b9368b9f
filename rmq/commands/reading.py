"""Reading a topic without taking anything from anyone: pages of Peek, put together. Prints nothing."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from rmq_proto import admin as pb
    from rmq_proxy.admin_client import AdminClient

Start: TypeAlias = str | int | Mapping[int, int]
"""begin or end, milliseconds since 1970, or offsets by queue id: only the queues that are named are read then."""


class Wanted(NamedTuple):
    """Which messages: tags as a consumer writes them, or a SQL92 filter; neither: all."""

    tags: str = ""
    sql: str = ""


PAGE_MESSAGES = 100
WAIT_MS = 2000  # for news, at a time; also how soon a queue that was added is noticed


def first(client: "AdminClient", topic: str, start: Start, count: int, wanted: Wanted) -> "list[pb.Message]":
    """The first `count` messages from `start` on that match the filter `wanted`, in the order they were stored."""
    ends = {queue.id: queue.max_offset for queue in client.topics(topic)[0].queues}
    found: list[pb.Message] = []
    for messages in _pages(client, topic, start, ends, min(count, PAGE_MESSAGES), wanted):
        found += messages
        if len(found) >= count:
            break
    return found[:count]


def last(client: "AdminClient", topic: str, count: int, wanted: Wanted) -> "list[pb.Message]":
    """The last `count` messages that match: looks further back, fourfold, until there are enough."""
    queues = client.topics(topic)[0].queues
    ends = {queue.id: queue.max_offset for queue in queues}
    back = count
    while True:
        starts = {queue.id: max(queue.min_offset, queue.max_offset - back) for queue in queues}
        found: deque[pb.Message] = deque(maxlen=count)
        for messages in _pages(client, topic, starts, ends, PAGE_MESSAGES, wanted):
            found.extend(messages)
        if len(found) == count or all(starts[queue.id] == queue.min_offset for queue in queues):
            return list(found)
        back *= 4


def _pages(
    client: "AdminClient", topic: str, start: Start, ends: Mapping[int, int], limit: int, wanted: Wanted
) -> "Iterator[list[pb.Message]]":
    """Up to where the topic ended when `ends` was asked for."""
    while True:
        page = _peek(client, topic, start, limit, wanted)
        yield [message for message in page.messages if message.offset < ends.get(message.queue_id, 0)]
        start = dict(page.next)
        if all(at >= ends.get(queue_id, 0) for queue_id, at in start.items()):
            return


def _peek(client: "AdminClient", topic: str, start: Start, limit: int, wanted: Wanted) -> "pb.PeekResponse":
    match start:
        case str():
            return client.peek(
                topic,
                from_begin=start == "begin",
                from_end=start == "end",
                limit=limit,
                filter=wanted.tags,
                sql=wanted.sql,
            )
        case int():
            return client.peek(topic, from_ms=start, limit=limit, filter=wanted.tags, sql=wanted.sql)
        case _:
            return client.peek(topic, start, limit=limit, filter=wanted.tags, sql=wanted.sql)


def follow(
    client: "AdminClient", topic: str, wanted: Wanted, left_ms: Callable[[], int]
) -> "Iterator[list[pb.Message]]":
    """What is new from now on, until `left_ms` says that no time is left."""
    offsets = dict(client.peek(topic, from_end=True, limit=1, filter=wanted.tags, sql=wanted.sql).next)
    while (wait_ms := min(WAIT_MS, left_ms())) > 0:
        page = client.peek(
            topic, offsets, from_begin=True, limit=PAGE_MESSAGES, filter=wanted.tags, sql=wanted.sql, wait_ms=wait_ms
        )
        offsets = dict(page.next)
        if page.messages:
            yield list(page.messages)
