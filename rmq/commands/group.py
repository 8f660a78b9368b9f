"""`rmq group`: create, list, show, update and delete consumer groups of a running server, and move where they read."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from rmq import output
from rmq.commands import values, views
from rmq.commands.server import agreed, connected, endpoint_option, group_names, json_option, topic_names, yes_option

if TYPE_CHECKING:
    from rmq_proto import admin as pb

_attempts = click.IntRange(min=1)
_RULES = (
    click.option("--attempts-max", type=_attempts, help="Deliveries until a message is a dead letter [a new one: 17]."),
    click.option(
        "--retry",
        "retry_ms",
        metavar="DURATION,...",
        type=values.durations,
        help="Pauses before delivery 2, 3, ..., the last one repeating: 10s,30s,1m [a new one: RocketMQ's steps].",
    ),
    click.option(
        "--backoff",
        metavar="FIRST,MAX[,TIMES]",
        type=values.backoff,
        help="Instead of --retry: pauses that grow, each TIMES [2] the one before.",
    ),
    click.option(
        "--orderly/--no-orderly",
        default=None,
        help="In order per queue, on topics without message groups, too [no].",
    ),
    click.option(
        "--lite-exclusive/--lite-shared",
        default=None,
        help="The last client that subscribes a lite topic takes it over, or its clients share it [shared].",
    ),
    click.option(
        "--lite-reset-on-takeover/--no-lite-reset-on-takeover",
        default=None,
        help="Then the group reads the lite topic from its beginning again [no].",
    ),
    click.option(
        "--lite-reset-on-unsubscribe/--no-lite-reset-on-unsubscribe",
        default=None,
        help="So it does when a client unsubscribes one [no].",
    ),
)


def _rules(command: Callable[..., None]) -> Callable[..., None]:
    """The options that a group is made and changed with."""
    for option in reversed(_RULES):
        command = option(command)
    return command


@click.group()
def group() -> None:
    """Creates, shows, changes and deletes consumer groups."""


@group.command()
@endpoint_option
@click.argument("name")
@_rules
def create(
    endpoint: str,
    name: str,
    attempts_max: int | None,
    retry_ms: tuple[int, ...] | None,
    backoff: tuple[int, int, float] | None,
    **flags: bool | None,
) -> None:
    """Makes a consumer group."""
    growing = _growing(retry_ms, backoff)
    with connected(endpoint) as client:
        pauses = retry_ms or ()
        _tell(
            client.put_group(
                name, attempts_max or 0, pauses, backoff=growing, must_be_new=True, must_exist=False, **flags
            )
        )


@group.command("list")
@endpoint_option
@json_option
def list_(endpoint: str, as_json: bool) -> None:
    """Lists the groups with their lag, in messages and in time, and what they hold."""
    with connected(endpoint) as client:
        groups = list(client.groups())
    if as_json:
        output.document({"groups": [views.group_document(found) for found in groups]})
    elif groups:
        output.table(views.GROUP_COLUMNS, [views.group_row(found) for found in groups])
    else:
        output.note("there are no groups yet")


@group.command()
@endpoint_option
@click.argument("name", shell_complete=group_names)
@click.option("--leases", is_flag=True, help="With the open messages, 1000 at most.")
@json_option
def show(endpoint: str, name: str, leases: bool, as_json: bool) -> None:
    """Shows a group: places and lag, what is leased or to be delivered again, waiting polls, live consumers."""
    with connected(endpoint) as client:
        found = client.groups(name, leases=leases)[0]
        consumers = list(client.clients(name))
    if as_json:
        output.document(views.group_document(found) | {"consumers": [views.client_document(c) for c in consumers]})
        return
    _tell(found)
    if found.topics:
        output.line()
        output.table(views.GROUP_TOPIC_COLUMNS, [views.group_topic_row(topic) for topic in found.topics])
        output.line()
        rows = [views.place_row(topic.topic, place) for topic in found.topics for place in topic.places]
        output.table(views.PLACE_COLUMNS, rows)
    if leases:
        output.line()
        rows = [views.lease_row(topic.topic, lease) for topic in found.topics for lease in topic.leases]
        output.table(views.LEASE_COLUMNS, rows)
    output.line()
    if consumers:
        output.table(views.CLIENT_COLUMNS, [views.client_row(consumer) for consumer in consumers])
    else:
        output.line("no consumer of this group is connected")


@group.command()
@endpoint_option
@click.argument("name", shell_complete=group_names)
@_rules
def update(
    endpoint: str,
    name: str,
    attempts_max: int | None,
    retry_ms: tuple[int, ...] | None,
    backoff: tuple[int, int, float] | None,
    **flags: bool | None,
) -> None:
    """Changes how often, when and in which order a group gets messages."""
    growing = _growing(retry_ms, backoff)
    if not attempts_max and not retry_ms and growing is None and set(flags.values()) == {None}:
        raise click.UsageError("say what to change: --attempts-max, --retry, --backoff, --orderly or --lite-exclusive")
    with connected(endpoint) as client:
        pauses = retry_ms or ()
        _tell(
            client.put_group(
                name, attempts_max or 0, pauses, backoff=growing, must_be_new=False, must_exist=True, **flags
            )
        )


def _growing(retry_ms: tuple[int, ...] | None, backoff: tuple[int, int, float] | None) -> "pb.Backoff | None":
    if retry_ms and backoff:
        raise click.UsageError("--retry and --backoff exclude each other")
    if backoff is None:
        return None
    from rmq_proto import admin as pb  # with protobuf it costs 30 ms

    return pb.Backoff(initial_ms=backoff[0], max_ms=backoff[1], multiplier=backoff[2])


@group.command("reset-offset")
@endpoint_option
@click.argument("name", metavar="GROUP", shell_complete=group_names)
@click.argument("topic", shell_complete=topic_names)
@click.option(
    "--to",
    metavar="begin|end|TIME",
    type=values.place,
    required=True,
    help="All again, only what is new, or what was stored from then on.",
)
def reset_offset(endpoint: str, name: str, topic: str, to: str | int) -> None:
    """Lets a group go on from elsewhere in a topic. What it holds or was to get again there is settled."""
    with connected(endpoint) as client:
        if isinstance(to, int):
            found = client.reset_offset(name, topic, time_ms=to)
        else:
            found = client.reset_offset(name, topic, begin=to == "begin", end=to == "end")
    lag = sum(place.lag_messages for place in found.topics if place.topic == topic)
    output.line(f"group {name} goes on in {topic}: {lag} messages lie before it")


@group.command()
@endpoint_option
@click.argument("name", shell_complete=group_names)
@yes_option
def delete(endpoint: str, name: str, yes: bool) -> None:
    """Deletes a group with its places and leases; its dead letters stay."""
    with connected(endpoint) as client:
        found = client.groups(name)[0]
        agreed(f"Delete group {name} with its places in {len(found.topics)} topics?", yes=yes)
        client.delete_group(name)
    output.line(f"deleted group {name}")


def _tell(found: "pb.Group") -> None:
    steps = ", ".join(output.duration(step) for step in found.retry_ms)
    if found.HasField("backoff"):
        first, last = output.duration(found.backoff.initial_ms), output.duration(found.backoff.max_ms)
        steps = f"{first}, each pause {found.backoff.multiplier:g} times the one before, at most {last}"
    more = "".join(f", {words}" for flag, words in views.GROUP_FLAG_WORDS.items() if getattr(found, flag))
    output.line(f"group {found.name}: {found.attempts_max} deliveries at most, again after {steps}{more}")
