"""`rmq topic`: create, list, show, update and delete topics of a running server."""

from typing import TYPE_CHECKING

import click

from rmq import output
from rmq.commands import views
from rmq.commands.server import agreed, connected, endpoint_option, json_option, topic_names, yes_option

if TYPE_CHECKING:
    from rmq_proto import admin as pb

TYPES = ("NORMAL", "FIFO", "DELAY", "TRANSACTION", "PRIORITY", "LITE", "MIXED")
COLUMNS = ("TOPIC", "TYPE", "QUEUES", "MESSAGES", "GROUPS")
_type = click.Choice(TYPES, case_sensitive=False)
_queues = click.IntRange(min=1)


@click.group()
def topic() -> None:
    """Creates, shows, changes and deletes topics."""


@topic.command()
@endpoint_option
@click.argument("name")
@click.option("--type", "kind", type=_type, help="What it takes [NORMAL].")
@click.option("--queues", type=_queues, help="How many queues [the server's topic_queues].")
@click.option("--if-missing", is_flag=True, help="Leave it as it is where it is there already.")
def create(endpoint: str, name: str, kind: str | None, queues: int | None, if_missing: bool) -> None:
    """Makes a topic."""
    with connected(endpoint) as client:
        if if_missing and any(found.name == name for found in client.topics()):
            output.line(f"topic {name} is there already")
            return
        _tell(client.put_topic(name, kind or "", queues or 0, must_be_new=True))


@topic.command("list")
@endpoint_option
@click.option("--all", "with_system", is_flag=True, help="With those of retries, dead letters and the server.")
@json_option
def list_(endpoint: str, with_system: bool, as_json: bool) -> None:
    """Lists the topics."""
    with connected(endpoint) as client:
        topics = [found for found in client.topics() if with_system or not views.is_system(found.name)]
    if as_json:
        output.document({"topics": [views.topic_document(found) for found in topics]})
    elif topics:
        output.table(COLUMNS, [_row(found) for found in topics])
    else:
        output.note("there are no topics yet")


@topic.command()
@endpoint_option
@click.argument("name", shell_complete=topic_names)
@json_option
def show(endpoint: str, name: str, as_json: bool) -> None:
    """Shows a topic, its queues, and the groups that read it."""
    with connected(endpoint) as client:
        found = client.topics(name)[0]
    if as_json:
        output.document(views.topic_document(found))
        return
    _tell(found)
    output.line(f"groups: {' '.join(found.groups) or 'none'}")
    rows = [(q.id, q.min_offset, q.max_offset, q.max_offset - q.min_offset) for q in found.queues]
    output.table(("QUEUE", "MIN", "MAX", "MESSAGES"), rows)


@topic.command()
@endpoint_option
@click.argument("name", shell_complete=topic_names)
@click.option("--type", "kind", type=_type, help="What it takes from now on.")
@click.option("--queues", type=_queues, help="How many queues from now on; never fewer.")
def update(endpoint: str, name: str, kind: str | None, queues: int | None) -> None:
    """Changes a topic's type, or gives it more queues."""
    if not kind and not queues:
        raise click.UsageError("say what to change: --type, --queues or both")
    with connected(endpoint) as client:
        _tell(client.put_topic(name, kind or "", queues or 0, must_exist=True))


@topic.command()
@endpoint_option
@click.argument("name", shell_complete=topic_names)
@yes_option
def delete(endpoint: str, name: str, yes: bool) -> None:
    """Deletes a topic with its messages and every group's place in it."""
    with connected(endpoint) as client:
        found = client.topics(name)[0]
        agreed(f"Delete topic {name} with {views.kept_messages(found)} messages?", yes=yes)
        client.delete_topic(name)
    output.line(f"deleted topic {name}")


def _row(found: "pb.Topic") -> tuple[output.Cell, ...]:
    return found.name, found.type, len(found.queues), views.kept_messages(found), " ".join(found.groups)


def _tell(found: "pb.Topic") -> None:
    output.line(f"topic {found.name}: {found.type}, {len(found.queues)} queues, {views.kept_messages(found)} messages")
