"""`rmq store`: looks into a data directory whose server is stopped, and changes nothing there."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rmq import output
from rmq.commands.exits import FAILED
from rmq.commands.server import json_option

if TYPE_CHECKING:
    from rmq_store.commitlog import Gap
    from rmq_store.inspection import Inspection
    from rmq_store.record import Record

REPORT_EVERY = 1000  # records between two steps of the progress bar
_directory = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))


@click.group()
def store() -> None:
    """Looks into a data directory without a server. Nothing in it is changed."""


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
    """Checks every byte of the log: exit code 1 where something is damaged."""
    from rmq.commands import storeviews
    from rmq_store.inspection import Inspection

    with Inspection(directory) as found:
        report = storeviews.Checked()
        for one in _scanned(found, "checking"):
            report.count(one)
        report.finish(found)
        if as_json:
            output.document(report.document(found))
        else:
            report.print(found)
    context.exit(FAILED if report.damaged else 0)


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
