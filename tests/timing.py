"""Time that a machine with much to do does not falsify, for the few promises that are seconds."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection meanwhile: it goes through all that the tests before have left, and counts as CPU time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
