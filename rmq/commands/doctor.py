"""`rmq doctor`: is this machine, with these settings, fit to run a server? One line a check; the checks: checks.py."""

import os

import click

from rmq import output
from rmq.commands.exits import FAILED
from rmq.commands.server import json_option

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.option("--data", metavar="DIR", type=click.Path(), help="As for rmq serve.")
@click.option("--host", metavar="ADDRESS", help="As for rmq serve.")
@click.option("--port", metavar="PORT", help="As for rmq serve.")
@click.option("--config", "path", metavar="FILE", type=click.Path(), help="File of settings [RMQ_CONFIG, else none].")
@json_option
@click.pass_context
def doctor(context: click.Context, /, path: str | None, as_json: bool, **flags: str | None) -> None:
    """Checks ports, disk, clock, limits and what else runs here: one line each, ok, warn or fail, and what to do.

    The exit code is 1 where a check fails. Nothing is left behind.
    """
    from rmq.commands.checks import run
    from rmq.configsource import load

    findings = []
    for finding in run(load(path, os.environ, flags)):
        findings.append(finding)
        if not as_json:
            state = click.style(f"{finding.state:4}", fg=COLOURS[finding.state])
            advice = f"; {finding.advice}" if finding.advice else ""
            click.echo(f"{state}  {finding.check:7}  {output.safe(finding.found + advice)}")
    failed = any(finding.state == "fail" for finding in findings)
    if as_json:
        output.document({"ok": not failed, "checks": [finding._asdict() for finding in findings]})
    context.exit(FAILED if failed else 0)
