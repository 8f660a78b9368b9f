"""`python -m rmq.testing FLAGS`: `rmq serve FLAGS` that ends with its standard input.

So a server goes away with the test that started it, even where that was killed: the system then closes the pipe. A
test in any language may start it in this way; it must not close the pipe before it is done.
"""

import os
import signal
import sys
import threading
import time

from rmq.cli import run

GRACE_S = 5.0


def end_with_stdin() -> None:
    """Waits for the end of standard input, then asks this process to end, and after GRACE_S makes it."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with_stdin, name="parent", daemon=True).start()
    sys.exit(run(["serve", *sys.argv[1:]]))
