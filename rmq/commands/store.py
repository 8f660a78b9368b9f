"""`rmq store`: looks into a data directory whose server is stopped. Only `repair` changes anything there."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rmq import output
from rmq.commands.exits import FAILED, UNUSABLE, Failed
from rmq.commands.server import json_option

if TYPE_CHECKING:
    from rmq_store.commitlog import Gap
    from rmq_store.inspection import Inspection
    from rmq_store.record import Record

REPORT_EVERY = 1000  # records between two steps of the progress bar
_directory = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))


@click.group()
def store() -> None:
    """Looks into a data directory without a server, and repairs it. All but `repair` change nothing in it."""


@store.command()
@_directory
@json_option
def inspect(directory: Path, as_json: bool) -> None:
    """Shows files and sizes, and the topics, groups and places that a start would recover."""
    from rmq.commands import storeviews
    from rmq_store.inspection import Inspection

    with Inspection(directory) as found:
        for one in _scanned(found, "reading"):
            found.replay(one)
        if as_json:
            output.document(storeviews.inspected(found))
        else:
            storeviews.print_inspected(found)


@store.command()
@_directory
@json_option
@click.pass_context
def check(context: click.Context, directory: Path, as_json: bool) -> None:
    """Checks every byte of the log and what is made from it: exit code 1 where the log is damaged."""
    from rmq.commands import storeviews
    from rmq_store.inspection import Inspection

    with Inspection(directory) as found:
        report = storeviews.Checked()
        for one in _scanned(found, "checking"):
            report.count(found.log, one)
        report.finish(found)
        if as_json:
            output.document(report.document(found))
        else:
            report.print(found)
    context.exit(FAILED if report.damaged else 0)


@store.command()
@_directory
@click.option("--dry-run", is_flag=True, help="Only say what would be done; exit code 1 if it is anything.")
@click.option("--yes", is_flag=True, help="Do it without asking.")
@json_option
@click.pass_context
def repair(context: click.Context, directory: Path, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Gives up what is damaged, and says exactly what. Asks first.

    For a store that a server refuses, or that `rmq store check` calls damaged. What is cut out of the log is kept in
    lost+found. All other messages stay, with their positions and offsets.
    """
    from rmq.commands import storeviews
    from rmq_store.repair import survey

    if as_json and not (yes or dry_run):
        raise Failed("--json cannot ask: add --yes or --dry-run", UNUSABLE)
    plan = survey(directory)
    if not as_json:
        storeviews.print_plan(plan)
    if plan.steps and not dry_run:
        if not yes:
            click.confirm("Do this to the store?", abort=True, err=True)
        plan.carry_out()
    if as_json:
        output.document(storeviews.repaired(plan, done=not dry_run))
    else:
        storeviews.print_repaired(plan, done=not dry_run)
    context.exit(FAILED if plan.steps and dry_run else 0)


@store.command()
@_directory
@click.option("--from", "position", type=click.IntRange(0), metavar="POSITION", help="The first record from there on.")
@click.option("--limit", type=click.IntRange(1), help="How many records at most.")
@click.option("--topic", help="Only this topic's messages.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document a line.")
def dump(directory: Path, position: int | None, limit: int | None, topic: str | None, as_json: bool) -> None:
    """Prints the records of the log in order, the journal's decoded."""
    from rmq.commands import storeviews
    from rmq_store.inspection import Inspection

    printed = 0
    with Inspection(directory) as found:
        for one in found.scan(position):
            if topic is not None and storeviews.topic_of(one) != topic:
                continue
            if as_json:
                output.document_line(storeviews.dumped(one))
            else:
                storeviews.print_dumped(one)
            printed += 1
            if printed == limit:
                break


def _scanned(found: "Inspection", label: str) -> "Iterator[Record | Gap]":
    """The whole log, with a bar on a terminal."""
    total = found.log.segments[-1].end - found.begin if found.log.segments else 0
    with output.progress(label, total) as report:
        for number, one in enumerate(found.scan()):
            if number % REPORT_EVERY == 0:
                report(found.end - found.begin)
            yield one
