"""How a command reaches a server: --endpoint, one connection, errors as exit codes, and names for shell completion."""

import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import click

from rmq.commands.exits import FAILED, UNUSABLE, Failed

if TYPE_CHECKING:
    from rmq_proxy.admin_client import AdminClient

Command = TypeVar("Command", bound=Callable[..., object])
Completion = Callable[[click.Context, click.Parameter, str], list[str]]

ENDPOINT_VARIABLE = "RMQ_ENDPOINT"
ENDPOINT_DEFAULT = "localhost:8081"
TIMEOUT_S = 5.0
COMPLETION_S = 0.3  # who waits for a shell completion is typing

CODES = {
    "down": UNUSABLE,
    "not_ours": UNUSABLE,
    "busy": UNUSABLE,
    "refused": UNUSABLE,
    "invalid": UNUSABLE,
    "not_found": FAILED,
    "exists": FAILED,
    "failed": FAILED,
}
"""What AdminError's kinds mean for the exit code."""


def endpoint_option(command: Command) -> Command:
    """Adds --endpoint."""
    return click.option(
        "--endpoint",
        metavar="HOST:PORT",
        envvar=ENDPOINT_VARIABLE,
        default=ENDPOINT_DEFAULT,
        help=f"The server [{ENDPOINT_VARIABLE}, else {ENDPOINT_DEFAULT}].",
    )(command)


def json_option(command: Command) -> Command:
    """Adds --json."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON document; times in ms, sizes in bytes.")(
        command
    )


def yes_option(command: Command) -> Command:
    """Adds --yes."""
    return click.option("--yes", "-y", is_flag=True, help="Do not ask.")(command)


@contextmanager
def connected(endpoint: str, timeout_s: float = TIMEOUT_S) -> "Iterator[AdminClient]":
    """A client for one command. What it cannot do ends the command: Failed, with the server's own words."""
    from rmq_proxy.admin_client import AdminClient, AdminError

    try:
        with AdminClient(endpoint, timeout_s=timeout_s) as client:
            yield client
    except AdminError as error:
        raise Failed(error.text, CODES[error.kind]) from None


def agreed(question: str, *, yes: bool) -> None:
    """Asks before something goes for good. Raises Failed for a no, and where there is nobody to ask."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise Failed(f"{question} There is no terminal to ask on: say --yes", UNUSABLE)
    if not click.confirm(question, err=True):
        raise Failed("nothing was changed")


def topic_names(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """Completes with the topics of the server that the command line names, if it answers at once."""
    return _names(context, begun, lambda client: [topic.name for topic in client.topics()])


def group_names(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """Completes with the server's groups, likewise."""
    return _names(context, begun, lambda client: [group.name for group in client.groups()])


def _names(context: click.Context, begun: str, ask: "Callable[[AdminClient], list[str]]") -> list[str]:
    endpoint = context.params.get("endpoint") or ENDPOINT_DEFAULT
    if not _listens(endpoint):
        return []
    try:
        with connected(endpoint, COMPLETION_S) as client:
            return [name for name in ask(client) if name.startswith(begun)]
    except Failed:
        return []


def _listens(endpoint: str) -> bool:
    """Spares whoever has no server running the import of gRPC."""
    host, _, port = endpoint.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), COMPLETION_S):
            return True
    except (OSError, ValueError):
        return False
