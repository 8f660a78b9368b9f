"""`rmq dlq`: what a group gave up on, and how to deliver it again."""

from typing import TYPE_CHECKING

import click

from rmq import output
from rmq.commands import views
from rmq.commands.exits import Failed
from rmq.commands.server import agreed, connected, endpoint_option, group_names, json_option, yes_option

if TYPE_CHECKING:
    from rmq_proto import admin as pb

COLUMNS = ("DEAD SINCE", "MESSAGE ID", "TOPIC", "TAG", "KEYS", "BODY")
LIST_MAX = 1000


@click.group()
def dlq() -> None:
    """Shows dead letters and delivers them again."""


@dlq.command("list")
@endpoint_option
@click.argument("group", shell_complete=group_names)
@click.option("--limit", type=click.IntRange(1, LIST_MAX), default=100, show_default=True, help="How many at most.")
@json_option
def list_(endpoint: str, group: str, limit: int, as_json: bool) -> None:
    """Lists a group's dead letters that were not delivered again yet, the oldest first."""
    with connected(endpoint) as client:
        client.groups(group)  # a group that is not there is a mistake, not one without dead letters
        letters = list(client.dead_letters(group, limit))
    if as_json:
        output.document({"dead_letters": [_document(letter) for letter in letters]})
    elif letters:
        output.table(COLUMNS, [_row(letter) for letter in letters])
    else:
        output.note(f"group {group} has no dead letters")


@dlq.command()
@endpoint_option
@click.argument("group", shell_complete=group_names)
@click.option("--id", "message_ids", metavar="ID", multiple=True, help="Only this message; may be repeated.")
@yes_option
def replay(endpoint: str, group: str, message_ids: tuple[str, ...], yes: bool) -> None:
    """Delivers dead letters to their group again, as new; all of them unless --id says which."""
    with connected(endpoint) as client:
        if not message_ids:
            count = len(client.dead_letters(group, LIST_MAX))
            if not count:
                output.note(f"group {group} has no dead letters")
                return
            shown = f"{count} or more" if count == LIST_MAX else str(count)
            agreed(f"Deliver {shown} dead letters of group {group} again?", yes=yes)
        replayed = client.replay(group, message_ids)
    if replayed < len(message_ids):
        raise Failed(f"delivered {replayed} of {len(message_ids)} again: the others are no dead letters of {group}")
    output.line(f"delivered {replayed} dead letters of group {group} again")


def _origin(letter: "pb.Message") -> str:
    """The topic that it died in."""
    return letter.system.get("DLQ_ORIGIN_TOPIC", "")


def _document(letter: "pb.Message") -> dict[str, object]:
    return views.message_document(letter) | {"origin_topic": _origin(letter)}


def _row(letter: "pb.Message") -> tuple[output.Cell, ...]:
    stored, _, _, message_id, tag, keys, body = views.message_row(letter)
    return stored, message_id, _origin(letter), tag, keys, body
