"""`rmq client`: who is connected to a running server, gRPC consumers and producers alike, and what they are doing."""

import click

from rmq import output
from rmq.commands import views
from rmq.commands.server import connected, endpoint_option, group_names, json_option


@click.group()
def client() -> None:
    """Shows connected clients, and what their threads do."""


@client.command("list")
@endpoint_option
@click.option("--group", "name", default="", shell_complete=group_names, help="Only this group's consumers.")
@json_option
def list_(endpoint: str, name: str, as_json: bool) -> None:
    """Lists clients: what they are, where they come from, what they read and write, and what the server leases them."""
    with connected(endpoint) as server:
        clients = list(server.clients(name))
    if as_json:
        output.document({"clients": [views.client_document(found) for found in clients]})
    elif clients:
        output.table(views.CLIENT_COLUMNS, [views.client_row(found) for found in clients])
    else:
        output.note(f"no consumer of {name} is connected" if name else "no client is connected")


@client.command()
@endpoint_option
@click.argument("client_id", metavar="CLIENT")
@json_option
def stack(endpoint: str, client_id: str, as_json: bool) -> None:
    """Shows what a client's threads do, as `rmq client list` names it.

    The client itself answers, within 5 s. Of the official ones Java's, Go's and C++'s can; Python's are silent.
    """
    with connected(endpoint) as server:
        told = server.stack(client_id)
    if as_json:
        output.document({"client_id": client_id, "stack": told})
        return
    for part in told.splitlines():
        output.line(part.expandtabs())
