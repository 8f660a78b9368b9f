"""The broker behaves as its model: a quick campaign here, `bin/check --long simulation` for a long one."""

import os

import pytest
from hypothesis import HealthCheck, settings

from tests.model.machine import play
from tests.model.transacting import TransactMachine

EXAMPLES = int(os.environ.get("RMQ_MODEL_EXAMPLES", "40"))


@pytest.mark.parametrize("flush", ["fast", "durable"])
def test_the_broker_behaves_as_its_model(flush: str) -> None:
    """Random verbs, time, clients that go, restarts, crashes, power cuts, failing calls and retention.

    RMQ_MODEL_EXAMPLES for more runs.
    """
    before = TransactMachine.counts["runs"]
    machine = type("TransactMachine", (TransactMachine,), {"flush": flush})
    play(machine, settings(max_examples=EXAMPLES, stateful_step_count=40, suppress_health_check=list(HealthCheck)))
    assert TransactMachine.counts["runs"] >= before + EXAMPLES
    assert TransactMachine.counts["came due"]
    assert TransactMachine.counts["recalled"]
    assert TransactMachine.counts["committed"]
    assert TransactMachine.counts["checked"]
