"""`rmq message`: send one, look at what is stored, find one, follow what comes.

Reading takes nothing from any group.
"""

import math
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from rmq import output
from rmq.clock import SystemClock
from rmq.commands import messagelife, reading, values, views
from rmq.commands.exits import FAILED, Failed
from rmq.commands.server import connected, endpoint_option, json_option, topic_names

if TYPE_CHECKING:
    from rmq_proto import admin as pb
    from rmq_proxy.admin_client import AdminClient

SHOWN_MAX = 100_000
FOUND_MAX = 1000
PRIORITY_MAX = 2**31 - 1
LINE_CHARS_MAX = 400
_filter = click.option("--filter", "tags", metavar="TAGS", default="", help="As a consumer writes it: a || b.")
_sql = click.option("--sql", metavar="EXPRESSION", default="", help='A SQL92 filter on properties: "price > 5".')


@click.group()
def message() -> None:
    """Sends and shows messages."""


message.add_command(messagelife.trace_)
message.add_command(messagelife.verify)


@message.command()
@endpoint_option
@click.argument("topic", shell_complete=topic_names)
@click.argument("body", required=False)
@click.option("--tag", default="", help="One tag.")
@click.option("--key", "keys", multiple=True, help="A key to find it by; may be repeated.")
@click.option(
    "--property",
    "properties",
    metavar="KEY=VALUE",
    type=values.pair,
    multiple=True,
    help="A property of yours; may be repeated.",
)
@click.option("--message-group", metavar="NAME", default="", help="In order with all others of this name (FIFO).")
@click.option(
    "--priority", type=click.IntRange(0, PRIORITY_MAX), help="Before lower ones, on a topic of type PRIORITY."
)
@click.option("--lite-topic", metavar="NAME", default="", help="To a lite topic of TOPIC.")
@click.option("--delay", "delay_ms", metavar="DURATION", type=values.duration, help="Delivered so much later: 10s, 5m.")
@click.option("--at", "at_ms", metavar="TIME", type=values.moment, help="Delivered at that time.")
@json_option
def send(
    endpoint: str,
    topic: str,
    body: str | None,
    tag: str,
    keys: tuple[str, ...],
    properties: tuple[tuple[str, str], ...],
    message_group: str,
    priority: int | None,
    lite_topic: str,
    delay_ms: int | None,
    at_ms: int | None,
    as_json: bool,
) -> None:
    """Sends one message; without BODY, or with -, it comes from standard input."""
    if delay_ms is not None and at_ms is not None:
        raise click.UsageError("--delay and --at exclude each other")
    content = _body(body)
    with connected(endpoint) as client:
        if delay_ms is not None:
            at_ms = client.describe().now_ms + delay_ms  # by the server's clock, moved or not
        sent = client.send(topic, content, tag, keys, dict(properties), message_group, at_ms, priority, lite_topic)
    if as_json:
        output.document({"topic": topic, "message_id": sent.message_id, "offset": sent.offset})
    else:
        output.line(f"sent {sent.message_id} to {topic}")


def _body(argument: str | None) -> bytes:
    """The argument as UTF-8, else standard input as it is."""
    if argument is not None and argument != "-":
        return argument.encode(errors="surrogateescape")
    if sys.stdin.isatty() and argument is None:
        raise click.UsageError("say what to send: a BODY, or - to type it")
    return sys.stdin.buffer.read()


@message.command()
@endpoint_option
@click.argument("topic", shell_complete=topic_names)
@click.option("--first", type=click.IntRange(1, SHOWN_MAX), help="The first so many [10].")
@click.option("--last", type=click.IntRange(1, SHOWN_MAX), help="The last so many.")
@click.option("--from", "position", metavar="begin|end|TIME", type=values.place, help="Where to start [begin].")
@click.option(
    "--offset",
    "offsets",
    metavar="QUEUE:OFFSET",
    type=values.queue_offset,
    multiple=True,
    help="Start there, in this queue; may be repeated.",
)
@_filter
@_sql
@json_option
def peek(
    endpoint: str,
    topic: str,
    first: int | None,
    last: int | None,
    position: str | int | None,
    offsets: tuple[tuple[int, int], ...],
    tags: str,
    sql: str,
    as_json: bool,
) -> None:
    """Shows stored messages in the order in which they came."""
    if (first is not None) + (last is not None) > 1 or (last is not None and (position is not None or offsets)):
        raise click.UsageError("--last excludes --first, --from and --offset")
    if position is not None and offsets:
        raise click.UsageError("--from and --offset exclude each other")
    wanted = _wanted(tags, sql)
    start: reading.Start = dict(offsets) or ("begin" if position is None else position)
    with connected(endpoint) as client:
        if last is not None:
            found = reading.last(client, topic, last, wanted)
        else:
            found = reading.first(client, topic, start, first or 10, wanted)
    if as_json:
        output.document({"messages": [views.message_document(one) for one in found]})
    elif found:
        output.table(views.MESSAGE_COLUMNS, [views.message_row(one) for one in found])
    else:
        output.note(f"topic {topic} has no such message")


def _wanted(tags: str, sql: str) -> reading.Wanted:
    if tags and sql:
        raise click.UsageError("--filter and --sql exclude each other")
    return reading.Wanted(tags, sql)


@message.command()
@endpoint_option
@click.argument("topic", shell_complete=topic_names)
@click.option("--id", "message_id", metavar="ID", default="", help="The id that its sender got.")
@click.option("--key", default="", help="One of its keys.")
@click.option("--limit", type=click.IntRange(1, FOUND_MAX), default=32, show_default=True, help="How many at most.")
@json_option
def get(endpoint: str, topic: str, message_id: str, key: str, limit: int, as_json: bool) -> None:
    """Finds messages by id or by key and shows them whole, the newest first."""
    if bool(message_id) == bool(key):
        raise click.UsageError("say which: --id ID or --key KEY")
    with connected(endpoint) as client:
        found = list(client.find(topic, message_id=message_id, key=key, limit=limit))
    if as_json:
        output.document({"messages": [views.message_document(one) for one in found]})
    for one in () if as_json else found:
        _show(one)
    if not found:
        raise Failed(f"topic {topic} has no message with {'id ' + message_id if message_id else 'key ' + key}")


def _show(one: "pb.Message") -> None:
    """All of one message, then an empty line."""
    body = views.body_of(one)
    text = output.as_text(body)
    lines = [
        ("message", one.message_id),
        ("place", f"{one.topic} queue {one.queue_id} offset {one.offset}"),
        ("born", f"{output.moment(one.born_ms)} on {one.born_host}"),
        ("stored", output.moment(one.stored_ms)),
        ("tag", one.tag),
        ("keys", " ".join(one.keys)),
        *((f"property {key}", value) for key, value in sorted(one.properties.items())),
        *((f"system {key}", value) for key, value in sorted(one.system.items())),
        (
            "body",
            f"{len(body)} bytes{', compressed' if one.compressed else ''}{'' if text is not None else ', not text'}",
        ),
    ]
    for name, value in lines:
        if value:
            output.line(f"{name}: {value}")
    for part in (text if text is not None else body[:256].hex(" ")).split("\n"):
        output.line(f"  {part}")
    output.line()


@message.command()
@endpoint_option
@click.argument("topic", shell_complete=topic_names)
@_filter
@_sql
@click.option("--count", type=click.IntRange(min=1), help="End after so many.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0), metavar="S", help="End after so many seconds.")
@json_option
@click.pass_context
def tail(
    context: click.Context,
    endpoint: str,
    topic: str,
    tags: str,
    sql: str,
    count: int | None,
    timeout_s: float | None,
    as_json: bool,
) -> None:
    """Shows new messages as they come, until Ctrl-C; with --json one document a line.

    The exit code is 1 where --timeout ended it before --count messages came.
    """
    wanted = _wanted(tags, sql)
    shown = 0
    try:
        with connected(endpoint) as client:
            for one in _new(client, topic, wanted, timeout_s):
                output.document_line(views.message_document(one)) if as_json else output.line(_line(one))
                shown += 1
                if shown == count:
                    return
    except KeyboardInterrupt:
        return
    if count is not None:
        context.exit(FAILED)


def _new(client: "AdminClient", topic: str, wanted: reading.Wanted, timeout_s: float | None) -> "Iterator[pb.Message]":
    clock = SystemClock()
    end_s = math.inf if timeout_s is None else clock.monotonic_s() + timeout_s

    def left_ms() -> int:
        return math.ceil(min(end_s - clock.monotonic_s(), reading.WAIT_MS) * 1000)

    for messages in reading.follow(client, topic, wanted, left_ms):
        yield from messages


def _line(one: "pb.Message") -> str:
    """One message on one line: when, where, which, what."""
    labels = "".join(f" {label}={text}" for label, text in (("tag", one.tag), ("keys", ",".join(one.keys))) if text)
    where = f"{one.queue_id}@{one.offset} {one.message_id}"
    return f"{output.moment(one.stored_ms)} {where}{labels} {output.body_shown(views.body_of(one), LINE_CHARS_MAX)}"
