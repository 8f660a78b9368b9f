"""`rmq message trace` and `rmq message verify`: what became of one message, and what a consumer makes of it now.

A trace has two sources and says which told what: the server's tables, and the records that clients write into the trace
topic. What neither knows is said, too.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from rmq import output, trace
from rmq.commands import views
from rmq.commands.exits import Failed
from rmq.commands.server import connected, endpoint_option, group_names, json_option, topic_names
from rmq.message import DLQ_PREFIX, RETRY_PREFIX, SYSTEM_TOPIC_PREFIX, TRACE_TOPIC
from rmq.trace import UNKNOWN, Event

if TYPE_CHECKING:
    from rmq_proto import admin as pb
    from rmq_proxy.admin_client import AdminClient

RECORDS_MAX = 1000
COLUMNS = ("TIME", "EVENT", "GROUP", "WHERE", "COST", "STATUS", "TOLD BY")
NO_RECORDS = (
    "no client has told of it: official gRPC clients write no trace records, 4.x clients do where their message trace "
    "is on"
)
SETTLED = (
    "SETTLED: acknowledged, filtered out, a dead letter, or passed over by the group's start or a reset; the server "
    "keeps neither which nor when"
)
_STATES = {
    "WAITING": "not delivered yet",
    "PARKED": "not delivered yet, others of its message group come first",
    "READY": "to be delivered again",
    "ACKED": "acknowledged, settled once those before it in its message group are",
}


class Row(NamedTuple):
    """One line of a trace. `time_ms` 0: now."""

    time_ms: int
    event: str
    group: str
    where: str
    cost_ms: int
    status: str
    told_by: str

    def cells(self) -> tuple[output.Cell, ...]:
        """Under COLUMNS."""
        cost = output.duration(self.cost_ms) if self.cost_ms != UNKNOWN else ""
        time = output.moment(self.time_ms) or "now"
        return time, self.event, self.group, self.where, cost, self.status, self.told_by


@click.command("trace")
@endpoint_option
@click.argument("message_id", metavar="ID")
@click.option("--topic", default="", shell_complete=topic_names, help="That it was sent to [any].")
@click.option(
    "--trace-topic", metavar="NAME", default=TRACE_TOPIC, show_default=True, help="Where clients tell what they did."
)
@json_option
def trace_(endpoint: str, message_id: str, topic: str, trace_topic: str, as_json: bool) -> None:
    """Tells what became of a message: stored, delivered, consumed, as the server and its clients know it."""
    with connected(endpoint) as client:
        copies = list(client.locate(message_id, topic))
        records = _records(client, trace_topic, message_id)
    bodies = [(one.born_host, views.body_of(one).decode(errors="replace")) for one in records]
    told = trace.events(bodies, message_id)
    if not copies and not told:
        raise Failed(f"message {message_id} is not stored here, and no client has told of it")
    if as_json:
        output.document(_document(message_id, copies, told))
        return
    output.table(COLUMNS, [row.cells() for row in _rows(copies, told)])
    if not told:
        output.note(NO_RECORDS)
    if any(holding.state == "SETTLED" for copy in copies for holding in copy.groups):
        output.note(SETTLED)


def _records(client: "AdminClient", trace_topic: str, message_id: str) -> "Sequence[pb.Message]":
    """The trace messages about it; none where nobody ever wrote one."""
    from rmq_proxy.admin_client import AdminError

    try:
        return client.find(trace_topic, key=message_id, limit=RECORDS_MAX)
    except AdminError as error:
        if error.kind != "not_found":
            raise
        return []


def _rows(copies: "Sequence[pb.Copy]", told: Sequence[Event]) -> list[Row]:
    """By time; what is so now comes last."""
    rows = [row for copy in copies for row in _of_copy(copy)] + [_of_event(event) for event in told]
    return sorted(rows, key=lambda row: (row.time_ms == 0, row.time_ms))


def _of_copy(copy: "pb.Copy") -> Iterator[Row]:
    message = copy.message
    place = f"{message.topic} {message.queue_id}@{message.offset}"
    event, group = "stored", ""
    for prefix, name in ((DLQ_PREFIX, "dead letter"), (RETRY_PREFIX, "carried on")):
        if message.topic.startswith(prefix):
            event, group = name, message.topic.removeprefix(prefix)
    status = f"{copy.body_bytes} bytes"
    if message.topic.startswith(SYSTEM_TOPIC_PREFIX):
        event, place = "delayed", copy.sent_to
        status = f"until {output.moment(copy.due_ms)}" if copy.due_ms else "delivered or recalled"
    yield Row(message.stored_ms, event, group, place, UNKNOWN, status, "server")
    for holding in copy.groups:
        yield from _of_holding(holding)


def _of_holding(holding: "pb.Holding") -> Iterator[Row]:
    if holding.state == "LEASED":
        status = f"attempt {holding.attempt}, until {output.moment(holding.due_ms)}"
        yield Row(holding.leased_ms, "leased", holding.group, holding.client_id, UNKNOWN, status, "server")
        return
    attempt = f"attempt {holding.attempt}" if holding.attempt else ""
    status = ", ".join(filter(None, (attempt, _STATES.get(holding.state, ""))))
    yield Row(0, holding.state, holding.group, "", UNKNOWN, status, "server")


def _of_event(event: Event) -> Row:
    status = " ".join(filter(None, (event.status, f"attempt {event.attempt}" if event.attempt else "")))
    return Row(event.time_ms, event.what, event.group, event.client, event.cost_ms, status, "client")


def _document(message_id: str, copies: "Sequence[pb.Copy]", told: Sequence[Event]) -> dict[str, Any]:
    return {
        "message_id": message_id,
        "copies": [_copy_document(copy) for copy in copies],
        "events": [
            {
                "event": event.what,
                "time_ms": event.time_ms,
                "group": event.group,
                "topic": event.topic,
                "status": event.status,
                "cost_ms": None if event.cost_ms == UNKNOWN else event.cost_ms,
                "attempt": event.attempt,
                "client": event.client,
            }
            for event in told
        ],
    }


def _copy_document(copy: "pb.Copy") -> dict[str, Any]:
    message = views.message_document(copy.message)
    for key in ("body", "body_base64"):
        del message[key]
    groups = [
        {
            "group": one.group,
            "state": one.state,
            "attempt": one.attempt,
            "leased_ms": one.leased_ms,
            "due_ms": one.due_ms,
            "client_id": one.client_id,
        }
        for one in copy.groups
    ]
    return {**message, "body_bytes": copy.body_bytes, "sent_to": copy.sent_to, "due_ms": copy.due_ms, "groups": groups}


@click.command()
@endpoint_option
@click.argument("message_id", metavar="ID")
@click.option("--group", required=True, shell_complete=group_names, help="Whose consumer is asked.")
@click.option("--client", "client_id", metavar="CLIENT", default="", help="Which of them [any].")
@click.option("--topic", default="", shell_complete=topic_names, help="That it was sent to [any].")
@json_option
def verify(endpoint: str, message_id: str, group: str, client_id: str, topic: str, as_json: bool) -> None:
    """Has a live consumer run its listener on a message, and says how that ended.

    It is a delivery beside all others: nothing is taken from the group, nothing is acknowledged. Of the official
    clients Java's push consumers can. The exit code is 1 where the listener fails.
    """
    with connected(endpoint) as client:
        told = client.verify(group, message_id, client_id, topic)
    if as_json:
        output.document(
            {
                "message_id": message_id,
                "group": group,
                "client_id": told.client_id,
                "topic": told.topic,
                "status": told.status,
                "text": told.text,
            }
        )
    if told.status != "OK":
        raise Failed(f"client {told.client_id} answered {told.status}{f': {told.text}' if told.text else ''}")
    if not as_json:
        output.line(f"client {told.client_id} has consumed {message_id} of topic {told.topic}")
