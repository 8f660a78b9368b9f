"""A test that fails leaves no thread and no loop behind."""

import contextlib
from collections.abc import Iterator

import pytest

from rmq_store.errors import StoreError
from tests.store.support import Rig


@pytest.fixture(autouse=True)
def _no_rig_stays_open() -> Iterator[None]:
    yield
    while Rig.opened:
        with contextlib.suppress(StoreError, OSError):  # the files are gone already
            Rig.opened[-1].crash()
