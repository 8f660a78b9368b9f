"""The broker behaves as its model: a quick campaign here, `bin/check --long simulation` for a long one."""

import os

import pytest
from hypothesis import HealthCheck, settings

from tests.model.machine import play
from tests.model.pulling import PullMachine

EXAMPLES = int(os.environ.get("RMQ_MODEL_EXAMPLES", "40"))


@pytest.mark.parametrize("flush", ["fast", "durable"])
def test_the_broker_behaves_as_its_model(flush: str) -> None:
    """Random verbs, time, clients that go, restarts, crashes, power cuts, failing calls and retention.

    RMQ_MODEL_EXAMPLES for more runs.
    """
    before = PullMachine.counts["runs"]
    machine = type("PullMachine", (PullMachine,), {"flush": flush})
    play(machine, settings(max_examples=EXAMPLES, stateful_step_count=40, suppress_health_check=list(HealthCheck)))
    assert PullMachine.counts["runs"] >= before + EXAMPLES
    assert PullMachine.counts["came due"]
    assert PullMachine.counts["recalled"]
    assert PullMachine.counts["pulled"]
    assert PullMachine.counts["committed"]
