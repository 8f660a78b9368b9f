"""The broker behaves as its model: a quick campaign here, `bin/check --long simulation` for a long one."""

import os

import pytest
from hypothesis import HealthCheck, seed, settings

from tests.model.litecrashes import LiteMachine
from tests.model.machine import BrokerMachine, play
from tests.sim.rig import quiet, unsynced

EXAMPLES = int(os.environ.get("RMQ_MODEL_EXAMPLES", "40"))

ROUNDS_MAX = 5  # chance may pass over something in one
COUNTED = (
    "came due",
    "recalled",
    "pulled",
    "places committed",
    "committed",
    "checked",
    "judged by priority",
    "came in a lower one's turn",
    "sent to lite topics",
    "received of lite topics",
    "lite topics: add",
    "lite topics: remove",
    "lite topics: replace",
    "places in lite topics moved",
    "left lite topics",
    "lite topics taken over",
    "lite topics of others refused",
    "lite topics read anew",
    "lite topics ended",
    "refused for lite topics",
    "lite verbs undone",
)


def missed() -> list[str]:
    """What no run did."""
    return [what for what in COUNTED if not LiteMachine.counts[what]]


@pytest.mark.parametrize("flush", ["fast", "durable"])
def test_the_broker_behaves_as_its_model(flush: str) -> None:
    """Random verbs, time, clients that go, restarts, crashes, power cuts, failing calls and retention.

    RMQ_MODEL_EXAMPLES for more runs. Each round has a seed of its own: where the variable CI is set Hypothesis would
    give all of them the same one.
    """
    before = LiteMachine.counts["runs"]
    how = settings(max_examples=EXAMPLES, stateful_step_count=40, suppress_health_check=list(HealthCheck))
    for number in range(ROUNDS_MAX):
        play(seed(number)(type("LiteMachine", (LiteMachine,), {"flush": flush})), how)
        if not missed():
            break
    assert LiteMachine.counts["runs"] >= before + EXAMPLES
    assert not missed()


def test_the_model_follows_acks_behind_others_of_a_message_group() -> None:
    """The last of three first, over a kill: it is settled once those before it are, and nothing comes twice."""
    with unsynced(), quiet():
        machine = BrokerMachine()
        machine.subscribe()
        machine.send_fifo(rows=[("a", "x")] * 3, topic="bills")
        machine.receive(pick=0, batch=5, client="", invisible_ms=30_000, fifo=True)
        machine.ack_early(pick=1)
        assert [place.over for (group, _), place in machine.places.items() if group == "all"] == ["", "", "early"]
        machine.crash([("ack", 2)], turns=0, fault=("write", 0), pause_ms=0, seed=0, end="killed")
        machine.teardown()
