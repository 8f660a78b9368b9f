"""`rmq transaction`: transactions that have not ended."""

from typing import TYPE_CHECKING, Any

import click

from rmq import output
from rmq.commands import views
from rmq.commands.server import agreed, connected, endpoint_option, json_option, topic_names, yes_option

if TYPE_CHECKING:
    from rmq_proto import admin as pb

COLUMNS = ("TRANSACTION", "STATE", "CHECKS", "NEXT CHECK", "SENT", "TOPIC", "MESSAGE ID", "TAG", "KEYS", "BODY")
LIST_MAX = 1000
NUMBER = click.IntRange(min=0)


@click.group()
def transaction() -> None:
    """Shows transactions that have not ended, and ends them.

    checked: a producer of the topic is asked now and then. waiting: none is there to be asked. parked: none is asked
    any more, somebody has to decide.
    """


@transaction.command("list")
@endpoint_option
@click.argument("topic", required=False, default="", shell_complete=topic_names)
@click.option("--parked", is_flag=True, help="Only those that wait for somebody to decide.")
@click.option("--limit", type=click.IntRange(1, LIST_MAX), default=100, show_default=True, help="How many at most.")
@json_option
def list_(endpoint: str, topic: str, parked: bool, limit: int, as_json: bool) -> None:
    """Lists transactions that have not ended, of TOPIC or of all topics, in order of sending."""
    with connected(endpoint) as client:
        found = list(client.transactions(topic, limit, parked=parked))
    if as_json:
        output.document({"transactions": [_document(one) for one in found]})
    elif found:
        output.table(COLUMNS, [_row(one) for one in found])
    else:
        what = "is parked" if parked else "waits for its end"
        output.note(f"no transaction{f' of topic {topic}' if topic else ''} {what}")


@transaction.command()
@endpoint_option
@click.argument("number", type=NUMBER)
@json_option
def show(endpoint: str, number: int, as_json: bool) -> None:
    """Shows one, with its properties; NUMBER as `rmq transaction list` prints it."""
    with connected(endpoint) as client:
        [found] = client.transactions(number=number)
    if as_json:
        output.document(_document(found))
        return
    output.table(COLUMNS, [_row(found)])
    for name, value in sorted(found.message.properties.items()):
        output.line(f"{name}={value}")


@transaction.command()
@endpoint_option
@click.argument("number", type=NUMBER)
@yes_option
def commit(endpoint: str, number: int, yes: bool) -> None:
    """Commits one: its message is delivered, as if its producer had committed it."""
    _end(endpoint, number, "Commit", "committed", yes=yes)


@transaction.command()
@endpoint_option
@click.argument("number", type=NUMBER)
@yes_option
def rollback(endpoint: str, number: int, yes: bool) -> None:
    """Rolls one back: its message is never delivered, as if its producer had rolled it back."""
    _end(endpoint, number, "Roll back", "rolled back", yes=yes)


def _end(endpoint: str, number: int, verb: str, done: str, *, yes: bool) -> None:
    with connected(endpoint) as client:
        [found] = client.transactions(number=number)
        what = f"transaction {number} of topic {found.topic}, message {found.message.message_id}"
        agreed(f"{verb} {what}?", yes=yes)
        client.resolve_transaction(number, commit=verb == "Commit")
    output.line(f"{done}: {what}")


def _document(found: "pb.Transaction") -> dict[str, Any]:
    message = views.message_document(found.message) if found.HasField("message") else None
    return {
        "number": found.number,
        "topic": found.topic,
        "state": found.state,
        "checks": found.checks,
        "due_ms": found.due_ms,
        "message": message,
    }


def _row(found: "pb.Transaction") -> tuple[output.Cell, ...]:
    due = output.moment(found.due_ms) if found.due_ms else ""
    first = (found.number, found.state, found.checks, due)
    if not found.HasField("message"):
        return (*first, "", found.topic, "(lost)", "", "", "")
    sent, _, _, *label = views.message_row(found.message)
    return (*first, sent, found.topic, *label)
