"""Polls that wait, on the event loop that the server runs on."""

import asyncio
import sys

import pytest

from rmq.waiters import Waiters
from rmq_store.ledger import Subscription
from tests.rmq.rig import request


@pytest.mark.skipif(sys.platform == "win32", reason="no uvloop on Windows")
def test_polls_whose_end_has_passed_when_they_come_end_at_once() -> None:
    """Under uvloop the handle of a call that is already due knows no time; the second poll must not ask it."""
    import uvloop

    async def ends() -> list[object]:
        waiters = Waiters(asyncio.get_running_loop(), polls_max=10, per_group_max=10)
        subscription = Subscription("billing", "orders")
        polls = [waiters.add(subscription, request(poll_ms=poll_ms)) for poll_ms in (-50, -100, 20)]
        return list(await asyncio.wait_for(asyncio.gather(*polls), 30))

    assert uvloop.run(ends()) == [[], [], []]
