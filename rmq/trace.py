"""What 4.x clients tell of a message: the bodies of the trace topic as events. Pure: no server, no clock.

A body is UTF-8 text of records; a client puts many into one message, whose keys are the ids (and keys) that they are
about (facts: remoting.md 5.14). Fields are joined by 01, each record ends with 02:

    Pub            time, region, group, topic, id, tag, keys, store host, body bytes, cost, type, offset id, success
    SubBefore      time, region, group, request, id, retries, keys
    SubAfter       request, id, cost, success, keys, code, time, group
    EndTransaction time, region, group, topic, id, tag, keys, store host, type, transaction id, outcome, from check
    Recall         time, region, group, topic, id, success

Older clients leave out fields at the end, and `null` is how Java writes a text that is not there. Times are
milliseconds since 1970 by the client's clock, costs are milliseconds. A record that is none of these is left out.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

UNKNOWN: Final = -1
_CODES = ("SUCCESS", "TIME_OUT", "EXCEPTION", "RETURN_NULL", "FAILED")
"""How a listener ended, by ConsumeReturnType's ordinal."""


class Event(msgspec.Struct):
    """One thing that a client did with a message. `what`: sent, delivered, consumed, transaction or recalled.

    `time_ms` 0: it does not say; `cost_ms` UNKNOWN: likewise. `attempt` counts deliveries from 1; 0: none was made.
    `request` pairs a `delivered` with its `consumed`.
    """

    what: str
    message_id: str
    time_ms: int = 0
    group: str = ""
    topic: str = ""
    status: str = ""
    cost_ms: int = UNKNOWN
    attempt: int = 0
    request: str = ""
    client: str = ""


def events(bodies: Sequence[tuple[str, str]], message_id: str) -> list[Event]:
    """Those about one message, in the order of their times; `bodies` are (who wrote it, text)."""
    found = [event for client, text in bodies for event in decode(text, client) if event.message_id == message_id]
    _pair(found)
    return sorted(found, key=lambda event: event.time_ms)


def decode(text: str, client: str) -> Iterator[Event]:
    """All events of one body, in its order."""
    for record in text.split("\x02"):
        kind, *fields = record.split("\x01")
        read = _READERS.get(kind)
        if read is None:
            continue
        try:
            event = read(["" if field == "null" else field for field in fields])
        except (IndexError, ValueError):  # cut off, or no number where one belongs
            continue
        event.client = client
        yield event


def _pair(found: Sequence[Event]) -> None:
    """A `consumed` of an older client names neither group nor time: its `delivered` does."""
    began = {event.request: event for event in found if event.what == "delivered"}
    for event in found:
        before = began.get(event.request) if event.what == "consumed" else None
        if before is not None:
            event.group = event.group or before.group
            event.time_ms = event.time_ms or before.time_ms + max(event.cost_ms, 0)
            event.attempt = before.attempt


def _published(fields: Sequence[str]) -> Event:
    success = fields[12] if len(fields) > 12 else fields[11]
    return Event("sent", fields[4], int(fields[0]), fields[2], fields[3], _outcome(success), int(fields[9]))


def _before(fields: Sequence[str]) -> Event:
    return Event("delivered", fields[4], int(fields[0]), fields[2], attempt=int(fields[5]) + 1, request=fields[3])


def _after(fields: Sequence[str]) -> Event:
    status = _outcome(fields[3])
    if len(fields) > 5 and fields[3] != "true":
        status = _code(int(fields[5]))
    time_ms = int(fields[6]) if len(fields) > 6 else 0
    group = fields[7] if len(fields) > 7 else ""
    return Event("consumed", fields[1], time_ms, group, "", status, int(fields[2]), request=fields[0])


def _transaction(fields: Sequence[str]) -> Event:
    checked = " (checked)" if len(fields) > 11 and fields[11] == "true" else ""
    return Event("transaction", fields[4], int(fields[0]), fields[2], fields[3], fields[10] + checked)


def _recalled(fields: Sequence[str]) -> Event:
    return Event("recalled", fields[4], int(fields[0]), fields[2], fields[3], _outcome(fields[5]))


_READERS: Mapping[str, Callable[[Sequence[str]], Event]] = {
    "Pub": _published,
    "SubBefore": _before,
    "SubAfter": _after,
    "EndTransaction": _transaction,
    "Recall": _recalled,
}


def _outcome(success: str) -> str:
    return "SUCCESS" if success == "true" else "FAILED"


def _code(ordinal: int) -> str:
    return _CODES[ordinal] if 0 < ordinal < len(_CODES) else "FAILED"
