"""The command line: `rmq serve`, and the list of all other commands, which live in rmq/commands.

Owns the last word on errors: what went wrong is one line on standard error that begins with `rmq: `, and
rmq/commands/exits.py says which exit code it means. A command's module is imported when it is asked for, and what it
needs when it runs: --help and shell completion (click's own: `_RMQ_COMPLETE=bash_source rmq`) are quick.
"""

import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence

import click

from rmq import __version__
from rmq.commands.exits import FAILED, INTERRUPTED, UNUSABLE, exit_code
from rmq.errors import ConfigError
from rmq_store.errors import StoreError

Completion = Callable[[click.Context, click.Parameter, str], list[str]]

ELSEWHERE = {
    "bench": ("bench", "Measures a running server for a few seconds."),
    "client": ("client", "Shows connected clients, and what their threads do."),
    "config": ("config", "Shows or checks settings."),
    "dlq": ("dlq", "Shows dead letters and delivers them again."),
    "doctor": ("doctor", "Checks whether this machine is fit to run a server."),
    "env": ("env", "Prints exports for a shell, and what official clients need."),
    "group": ("group", "Creates, shows, changes and deletes consumer groups."),
    "health": ("health", "Says whether a server serves."),
    "message": ("message", "Sends and shows messages."),
    "store": ("store", "Looks into a data directory without a server."),
    "timer": ("timer", "Shows delayed messages that wait, and cancels them."),
    "topic": ("topic", "Creates, shows, changes and deletes topics."),
    "transaction": ("transaction", "Shows transactions that have not ended, and ends them."),
    "wait": ("health", "Waits until a server serves."),
}
"""Commands by name: the module in rmq/commands, and the line in --help."""


def main() -> None:
    """What rmq/__main__.py runs."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
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
        return _failed(error.format_message(), exit_code(error))
    except ConfigError as error:
        return _failed(str(error), UNUSABLE)
    except StoreError as error:
        return _failed(str(error), FAILED)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except OSError as error:
        return _failed(f"{error.filename or 'the system'}: {error.strerror}", FAILED)
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


class Commands(click.Group):
    """A group whose further commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, sorted."""
        return sorted([*super().list_commands(ctx), *ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """None for a name that there is not."""
        if cmd_name not in ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        found = getattr(importlib.import_module(f"rmq.commands.{ELSEWHERE[cmd_name][0]}"), cmd_name)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in --help, without importing any of them."""
        own = {name: command.get_short_help_str(80) for name, command in self.commands.items()}
        with formatter.section("Commands"):
            formatter.write_dl(sorted((own | {name: text for name, (_, text) in ELSEWHERE.items()}).items()))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
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
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the loop takes it: see rmq/__main__.py
    from rmq.configsource import load
    from rmq.log import logging_to

    config = load(path, os.environ, flags)
    from rmq.node import serve as serve_node

    with logging_to(sys.stderr, config.log_format, config.log_level):
        context.exit(serve_node(config))
