"""`rmq timer`: delayed messages that wait for their time."""

from typing import TYPE_CHECKING, Any

import click

from rmq import output
from rmq.commands import views
from rmq.commands.server import agreed, connected, endpoint_option, json_option, topic_names, yes_option

if TYPE_CHECKING:
    from rmq_proto import admin as pb

COLUMNS = ("TIMER", "DUE", "TOPIC", "MESSAGE ID", "TAG", "KEYS", "BODY")
LIST_MAX = 1000
NUMBER = click.IntRange(min=0)


@click.group()
def timer() -> None:
    """Shows delayed messages that wait, and cancels them."""


@timer.command("list")
@endpoint_option
@click.argument("topic", required=False, default="", shell_complete=topic_names)
@click.option("--limit", type=click.IntRange(1, LIST_MAX), default=100, show_default=True, help="How many at most.")
@json_option
def list_(endpoint: str, topic: str, limit: int, as_json: bool) -> None:
    """Lists delayed messages that wait, of TOPIC or of all topics, the earliest first."""
    with connected(endpoint) as client:
        timers = list(client.timers(topic, limit))
    if as_json:
        output.document({"timers": [_document(one) for one in timers]})
    elif timers:
        output.table(COLUMNS, [_row(one) for one in timers])
    else:
        output.note(f"no delayed message waits{f' for topic {topic}' if topic else ''}")


@timer.command()
@endpoint_option
@click.argument("number", type=NUMBER)
@json_option
def show(endpoint: str, number: int, as_json: bool) -> None:
    """Shows one, with its properties; NUMBER as `rmq timer list` prints it."""
    with connected(endpoint) as client:
        [found] = client.timers(number=number)
    if as_json:
        output.document(_document(found))
        return
    output.table(COLUMNS, [_row(found)])
    for name, value in sorted(found.message.properties.items()):
        output.line(f"{name}={value}")


@timer.command()
@endpoint_option
@click.argument("number", type=NUMBER)
@yes_option
def cancel(endpoint: str, number: int, yes: bool) -> None:
    """Ends one: it will never be delivered, as if its sender had recalled it."""
    with connected(endpoint) as client:
        [found] = client.timers(number=number)
        what = f"delayed message {found.message.message_id} of topic {found.message.topic}"
        agreed(f"Cancel {what}?", yes=yes)
        client.cancel_timer(number)
    output.line(f"cancelled {what}")


def _document(found: "pb.Timer") -> dict[str, Any]:
    return {"number": found.number, "due_ms": found.due_ms, "message": views.message_document(found.message)}


def _row(found: "pb.Timer") -> tuple[output.Cell, ...]:
    _, _, _, message_id, tag, keys, body = views.message_row(found.message)
    return found.number, output.moment(found.due_ms), found.message.topic, message_id, tag, keys, body
