"""Behaves as `rmq serve` does towards its parent, and is no broker: what tests/serving.py is tried on.

The first argument says in what way it misbehaves: none, silent, chatty, stubborn, dead.
"""

import json
import os
import signal
import sys
import time


def main() -> None:
    """Prints the line, then waits for SIGTERM, at most a minute."""
    manner, *rest = sys.argv[1:]
    flags = dict(zip(rest[::2], rest[1::2], strict=True))
    print(f"stub: {manner}", file=sys.stderr, flush=True)
    if manner == "dead":
        sys.exit(3)
    os.makedirs(flags["--data"], exist_ok=True)
    stop = signal.SIG_IGN if manner == "stubborn" else lambda *_: sys.exit(0)
    signal.signal(signal.SIGTERM, stop)
    endpoint = f"127.0.0.1:{int(flags['--port']) or 40001}"
    line = {"pid": os.getpid(), "endpoint": endpoint, "data": flags["--data"], "flush": "durable", "profile": "dev"}
    if manner != "silent":
        print(json.dumps(line) + ("\none more line" if manner == "chatty" else ""), flush=True)
    time.sleep(60)


if __name__ == "__main__":
    main()
