"""How a command ends. The one place that says which exit code means what.

    0    done; what was asked about is there, healthy, undamaged
    1    what was asked about is not there (or there already), not healthy or damaged; the store or the machine failed
    2    the command could not begin: a flag, a setting, no server to talk to, or one that refuses to talk
    130  interrupted

`health` and `wait` ask whether a server is there: for them an absent server is the answer, thus 1.
"""

import click

OK = 0
FAILED = 1
UNUSABLE = 2
INTERRUPTED = 130


class Failed(click.ClickException):
    """Ends a command with one line on standard error that says what to do, and with an exit code."""

    def __init__(self, text: str, code: int = FAILED) -> None:
        super().__init__(text)
        self.code = code


def exit_code(error: click.ClickException) -> int:
    """Click's own errors are about flags and arguments."""
    return error.code if isinstance(error, Failed) else UNUSABLE
