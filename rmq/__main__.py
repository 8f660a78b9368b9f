"""The console script, and `python -m rmq`.

SIGINT has its default, the end, until the command line knows what it is to do: a library that is being imported may
swallow a KeyboardInterrupt, and the server would go on.
"""

import signal


def main() -> None:
    """Runs the command line; exits."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from rmq.cli import main as run

    run()


if __name__ == "__main__":
    main()
