"""`rmq health`, `rmq wait`: whether a server serves, for scripts, probes and containers."""

import time

import click

from rmq import output
from rmq.clock import SystemClock
from rmq.commands.exits import FAILED, UNUSABLE, Failed
from rmq.commands.server import endpoint_option, json_option

ASK_S = 1.0  # for one answer
PAUSE_S = 0.05  # between two questions


@click.command()
@endpoint_option
@click.option("--timeout", "timeout_s", type=click.FloatRange(0.1), metavar="S", default=3.0, show_default=True)
@json_option
def health(endpoint: str, timeout_s: float, as_json: bool) -> None:
    """Says whether a server serves: exit code 0, else 1."""
    problem = _problem(endpoint, timeout_s)
    if as_json:
        output.document({"endpoint": endpoint, "serving": not problem, "problem": problem})
    elif not problem:
        output.line(f"{endpoint} is serving")
    if problem:
        raise Failed(problem, FAILED)


@click.command()
@endpoint_option
@click.option("--timeout", "timeout_s", type=click.FloatRange(0), metavar="S", default=30.0, show_default=True)
def wait(endpoint: str, timeout_s: float) -> None:
    """Waits until a server serves: exit code 0, or 1 when the time is up."""
    clock = SystemClock()
    end_s = clock.monotonic_s() + timeout_s
    while problem := _problem(endpoint, min(max(end_s - clock.monotonic_s(), PAUSE_S), ASK_S)):
        left_s = end_s - clock.monotonic_s()
        if left_s <= 0:
            raise Failed(f"not serving after {timeout_s:g} s: {problem}", FAILED)
        time.sleep(min(PAUSE_S, left_s))
    output.line(f"{endpoint} is serving")


def _problem(endpoint: str, timeout_s: float) -> str:
    """Why it does not serve; empty where it does. A wrong endpoint is no answer: raises Failed."""
    from rmq_proxy.admin_client import AdminClient, AdminError, split_endpoint

    try:
        split_endpoint(endpoint)
    except AdminError as error:
        raise Failed(error.text, UNUSABLE) from None
    try:
        with AdminClient(endpoint, timeout_s=timeout_s) as client:
            return "" if client.health() else f"{endpoint} is shutting down; start it again"
    except AdminError as error:
        return error.text
