"""The broker behaves as its model: a quick campaign here, `bin/check --long model` for a long one."""

import os

from hypothesis import HealthCheck, settings

from tests.model.delayed import DelayMachine
from tests.model.machine import play

EXAMPLES = int(os.environ.get("RMQ_MODEL_EXAMPLES", "40"))


def test_the_broker_behaves_as_its_model() -> None:
    """Random verbs, time, clients that go, restarts, crashes and retention; RMQ_MODEL_EXAMPLES for more runs."""
    before = DelayMachine.counts["runs"]
    play(DelayMachine, settings(max_examples=EXAMPLES, stateful_step_count=40, suppress_health_check=list(HealthCheck)))
    assert DelayMachine.counts["runs"] >= before + EXAMPLES
    assert DelayMachine.counts["came due"]
    assert DelayMachine.counts["recalled"]
