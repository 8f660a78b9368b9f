"""`rmq config`: the manual of settings, and a check of those that are given."""

import enum
import os

import click

from rmq import output
from rmq.commands.server import json_option


@click.group()
def config() -> None:
    """Shows or checks settings."""


@config.command()
@json_option
def show(as_json: bool) -> None:
    """Prints the manual: every setting with its default, limits and reason. It is itself a file for --config."""
    from rmq.configsource import manual

    if not as_json:
        click.echo(manual(), nl=False)
        return
    import msgspec

    from rmq.config import FIELDS, Config, allowed

    defaults = msgspec.to_builtins(Config())
    settings = [{"key": key, "default": defaults[key], "allowed": allowed(key)} for key in FIELDS]
    output.document({"settings": settings})


@config.command()
@click.option("--config", "path", metavar="FILE", type=click.Path(), help="File of settings [RMQ_CONFIG, else none].")
@json_option
def check(path: str | None, as_json: bool) -> None:
    """Checks the file and the environment, and prints what they set."""
    from rmq.configsource import build, settings

    given = settings(path, os.environ, {})
    build(given)
    if as_json:
        rows = [{"origin": one.origin, "key": one.key, "value": _plain(one.value)} for one in given]
        output.document({"settings": rows})
        return
    for setting in given:
        value = ", ".join(setting.value) if isinstance(setting.value, dict) else setting.value
        output.line(f"{setting.origin}: {setting.key} = {value}")
    output.line("ok")


def _plain(value: object) -> object:
    """A setting as JSON holds it; a topic's type by its name."""
    import msgspec

    if not isinstance(value, dict):
        return value
    return {
        name: {field: _name(part) for field, part in msgspec.structs.asdict(row).items()} for name, row in value.items()
    }


def _name(part: object) -> object:
    return part.name if isinstance(part, enum.Enum) else part
