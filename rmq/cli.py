"""The command line: `rmq serve`, `rmq config`.

Owns flags, exit codes and the last word on errors: 0 done, 1 the store or the machine, 2 a flag or a setting; what went
wrong is one line on standard error that begins with `rmq: `. What a command needs is imported when it runs: --help and
shell completion (click's own: `_RMQ_COMPLETE=bash_source rmq`) are quick.
"""

import os
import sys
from collections.abc import Callable, Sequence

import click

from rmq import __version__
from rmq.errors import ConfigError
from rmq_store.errors import StoreError

Completion = Callable[[click.Context, click.Parameter, str], list[str]]


def main() -> None:
    """The console script."""
    _occupy_standard_streams()
    sys.exit(run(sys.argv[1:]))


def _occupy_standard_streams() -> None:
    """A closed one of 0 to 2 would become a file of the store, and then get what others print."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)


def run(args: Sequence[str]) -> int:
    """Runs one command; returns the exit code."""
    try:
        code = cli.main(args=list(args), prog_name="rmq", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        return _failed(error.format_message(), 2)
    except ConfigError as error:
        return _failed(str(error), 2)
    except StoreError as error:
        return _failed(str(error), 1)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except OSError as error:
        return _failed(f"{error.filename or 'the system'}: {error.strerror}", 1)
    return code if isinstance(code, int) else 0


def _failed(text: str, code: int) -> int:
    click.echo(f"rmq: {' '.join(text.split())}", err=True)
    return code


def _values_of(key: str) -> Completion:
    """Completes with what the setting `key` may be."""

    def complete(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
        from rmq.config import choices

        return [choice for choice in choices(key) if choice.startswith(begun)]

    return complete


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rmq", message="%(prog)s %(version)s")
def cli() -> None:
    """A RocketMQ 5 server: broker and proxy in one process."""


@cli.command()
@click.option("--data", metavar="DIR", type=click.Path(), help="Directory of all that is stored [./rmq-data].")
@click.option("--host", metavar="ADDRESS", help="Address to listen on [both loopbacks].")
@click.option("--port", metavar="PORT", help="Port for gRPC clients, 0 picks a free one [8081].")
@click.option("--advertise", metavar="HOST:PORT", help="Endpoint that clients are told [the one they named].")
@click.option("--profile", metavar="dev|strict", shell_complete=_values_of("profile"), help="dev makes topics on use.")
@click.option(
    "--flush",
    metavar="durable|fast|memory",
    shell_complete=_values_of("flush"),
    help="What an acknowledged message survives [durable: a power cut].",
)
@click.option("--topic", "topics", metavar="NAME[:TYPE[:QUEUES]]", multiple=True, help="Topic to make at start.")
@click.option("--group", "groups", metavar="NAME[:ATTEMPTS_MAX]", multiple=True, help="Group to make at start.")
@click.option("--config", "path", metavar="FILE", type=click.Path(), help="File of settings [RMQ_CONFIG, else none].")
@click.option("--ready-file", metavar="FILE", type=click.Path(), help="Appears when clients can connect.")
@click.option("--log-format", metavar="text|json", shell_complete=_values_of("log_format"), help="Lines of the log.")
@click.option(
    "--log-level", metavar="LEVEL", shell_complete=_values_of("log_level"), help="Least serious record [info]."
)
@click.option("--manual-clock", is_flag=True, flag_value=True, default=None, help="Tests move the time by hand.")
@click.pass_context
def serve(context: click.Context, /, path: str | None, **flags: object) -> None:
    """Runs the server until SIGTERM or SIGINT.

    Standard output carries one line of JSON when clients can connect; all else goes to standard error. Every setting
    can also come from the environment (RMQ_PORT=8081) or a file: see `rmq config show`.
    """
    from rmq.configsource import load
    from rmq.log import logging_to

    config = load(path, os.environ, flags)
    from rmq.node import serve as serve_node

    with logging_to(sys.stderr, config.log_format, config.log_level):
        context.exit(serve_node(config))


@cli.group()
def config() -> None:
    """Shows or checks settings."""


@config.command()
def show() -> None:
    """Prints the manual: every setting with its default, limits and reason. It is itself a file for --config."""
    from rmq.configsource import manual

    click.echo(manual(), nl=False)


@config.command()
@click.option("--config", "path", metavar="FILE", type=click.Path(), help="File of settings [RMQ_CONFIG, else none].")
def check(path: str | None) -> None:
    """Checks the file and the environment, and prints what they set."""
    from rmq.configsource import build, settings

    given = settings(path, os.environ, {})
    build(given)
    for setting in given:
        value = ", ".join(setting.value) if isinstance(setting.value, dict) else setting.value
        click.echo(f"{setting.origin}: {setting.key} = {value}")
    click.echo("ok")
