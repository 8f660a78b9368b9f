"""`rmq bench`: how fast a running server takes and gives messages, as far as a client in Python can tell."""

from typing import Any

import click
import msgspec

from rmq import output
from rmq.commands.exits import UNUSABLE, Failed
from rmq.commands.server import endpoint_option, json_option

COLUMNS = ("WHAT", "MESSAGES/S", "P50 MS", "P99 MS")


@click.command()
@endpoint_option
@click.option("--seconds", type=click.FloatRange(0.1, 600), metavar="S", default=3.0, help="Of each phase [3].")
@click.option("--body-bytes", type=click.IntRange(16, 4 << 20), metavar="N", default=1024, help="Of a message [1024].")
@click.option("--batch", type=click.IntRange(1, 128), metavar="N", default=1, help="Messages in a send [1].")
@click.option("--at-once", type=click.IntRange(1, 1024), metavar="N", default=32, help="Sends in flight [32].")
@json_option
def bench(endpoint: str, as_json: bool, **plan: Any) -> None:
    """Measures a running server: sends, then receives, then one message at a time.

    Topic and group are its own, rmq-bench, and stay. The client is Python: it may be the slower side.
    """
    from rmq.bench import Plan, rows, run
    from rmq_proxy.admin_client import AdminError, split_endpoint
    from rmq_proxy.messageclient import CallFailed

    try:
        host, port = split_endpoint(endpoint)
        report = run(Plan(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", **plan))
    except AdminError as error:
        raise Failed(error.text, UNUSABLE) from None
    except CallFailed as error:
        raise Failed(str(error), UNUSABLE) from None
    if as_json:
        output.document(msgspec.to_builtins(report))
        return
    output.table(COLUMNS, rows(report))
    if report.left:
        output.note(f"{report.left} of {report.sent} messages have not come back; the next run takes them away")
