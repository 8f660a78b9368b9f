"""The pytest plugin as its users meet it: fixtures, options, workers, reports, and what it costs."""

import re
import statistics
import subprocess
import sys

import pytest

import rmq.testing
from rmq.testing.process import environment
from tests.testing.conftest import Runs

pytest_plugins = ["pytester"]

USES = """
def test_it(rocketmq):
    rocketmq.send("orders", "one")
    assert [m.text for m in rocketmq.messages("orders")] == ["one"]
"""


def test_each_test_has_clean_topics_and_groups_on_one_server(runs: Runs) -> None:
    """`rocketmq_server` is the session's, `rocketmq` is the same without a trace of earlier tests."""
    result = runs(
        """
import pytest

PIDS = set()

@pytest.mark.parametrize("number", range(3))
def test_it(rocketmq, rocketmq_server, number):
    assert rocketmq is rocketmq_server
    assert rocketmq.topics() == {} == rocketmq.groups()
    rocketmq.send("orders", str(number))
    rocketmq.admin.put_group("billing")
    PIDS.add(rocketmq.pid)
    assert len(PIDS) == 1
"""
    )
    result.assert_outcomes(passed=3)


def test_a_clean_server_costs_a_test_under_20_ms_and_a_session_0_6_s(runs: Runs) -> None:
    """50 tests that leave topics, messages and a group behind. To be free of what else the machine does, the start
    is measured by its CPU time, and the tenth of the tests that was disturbed least counts.
    """
    result = runs(
        """
import pytest

@pytest.mark.parametrize("number", range(50))
def test_it(rocketmq, number):
    for n in range(4):
        rocketmq.send(f"topic-{n}", "x")
    rocketmq.admin.put_group("billing")
""",
        "-s",
        conftest_py="""
import resource, time
import pytest

@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef):
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    result = yield
    print("\\nfixture", fixturedef.argname, time.perf_counter() - began_s, time.process_time() - began_cpu_s)
    return result

def pytest_unconfigure():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print("\\nchildren", used.ru_utime + used.ru_stime)
""",
    )
    result.assert_outcomes(passed=50)
    text = result.stdout.str()
    cleaning_s = [float(took) for took in re.findall(r"fixture rocketmq (\S+)", text)]
    assert len(cleaning_s) == 50
    assert statistics.quantiles(cleaning_s, n=10)[0] < 0.02
    (here_s,) = (float(took) for took in re.findall(r"fixture rocketmq_server \S+ (\S+)", text))
    (there_s,) = (float(took) for took in re.findall(r"children (\S+)", text))
    assert here_s < 0.6
    assert there_s < 2.0, "the whole life of the server"


@pytest.mark.slow
def test_workers_of_xdist_do_not_meet(runs: Runs, pytester: pytest.Pytester) -> None:
    """Each has a server of its own."""
    result = runs(
        """
import os, pathlib, pytest

@pytest.mark.parametrize("number", range(12))
def test_it(rocketmq, number):
    worker = os.environ["PYTEST_XDIST_WORKER"]
    assert rocketmq.topics() == {}
    rocketmq.send("orders", worker)
    assert [m.text for m in rocketmq.messages("orders")] == [worker]
    pathlib.Path(f"seen-{worker}-{rocketmq.port}-{rocketmq.pid}").touch()
""",
        "-n4",
    )
    result.assert_outcomes(passed=12)
    seen = [path.name.split("-")[1:] for path in pytester.path.glob("seen-*")]
    assert [len(set(column)) for column in zip(*seen, strict=True)] == [4, 4, 4]


@pytest.mark.slow
def test_a_port_that_was_given_is_the_first_worker_s(runs: Runs) -> None:
    """The next worker gets the next port."""
    with rmq.testing.server() as server:
        port = server.port  # free a moment later
    result = runs(
        f"""
import os, pytest

@pytest.mark.parametrize("number", range(4))
def test_it(rocketmq, number):
    assert rocketmq.port == {port} + int(os.environ["PYTEST_XDIST_WORKER"][2:])
""",
        "-n2",
        f"--rocketmq-port={port}",
    )
    result.assert_outcomes(passed=4)


@pytest.mark.slow
def test_workers_do_not_share_a_running_server(runs: Runs) -> None:
    """They would clean each other's topics."""
    result = runs(USES, "-n1", "--rocketmq-endpoint=localhost:1")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*workers of xdist would clean each other's topics*run without -n*"])


def test_a_factory_s_argument_wins_over_the_command_line_and_that_over_the_ini_file(runs: Runs) -> None:
    """In this order for each option by itself."""
    result = runs(
        """
import rmq.pytest_plugin

durable_server = rmq.pytest_plugin.server_factory(flush="fast", profile="strict", topics=["mine"], groups={"g": 2})
durable = rmq.pytest_plugin.client_factory("durable_server")

def test_arguments(durable):
    facts = durable.admin.describe()
    assert (facts.flush, facts.profile, set(durable.topics())) == ("fast", "strict", {"mine", "filed"})
    assert durable.topics()["mine"].queues == 3

def test_command_line_and_ini(rocketmq):
    facts = rocketmq.admin.describe()
    assert (facts.flush, facts.profile) == ("memory", "dev")
    assert set(rocketmq.topics()) == {"filed"}
    assert rocketmq.host == "[::1]"
""",
        "--rocketmq-profile=dev",
        "--rocketmq-host=::1",
        pytest_ini="[pytest]\nrocketmq_profile = strict\nrocketmq_config = rmq.yaml\nrocketmq_timeout = 30\n",
        rmq_yaml="topic_queues: 3\ntopics: {filed: {}}\n",
    )
    result.assert_outcomes(passed=2)


def test_a_running_server_may_be_used(runs: Runs) -> None:
    """By its endpoint; it is cleaned too, and goes on afterwards."""
    with rmq.testing.server() as server:
        server.send("leftover", "x")
        runs(USES, f"--rocketmq-endpoint={server.endpoint}").assert_outcomes(passed=1)
        assert set(server.topics()) == {"orders"}


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--rocketmq-flush=disk"], "*flush is 'disk', must be durable or fast or memory*"),
        pytest.param(
            ["--rocketmq-timeout=soon"],
            "*rocketmq_timeout is 'soon', must be a number of seconds*",
            marks=pytest.mark.slow,
        ),
        pytest.param(["--rocketmq-host=192.0.2.1"], "*192.0.2.1*", marks=pytest.mark.slow),
        pytest.param(["--rocketmq-config=missing.yaml"], "*missing.yaml: cannot be read*", marks=pytest.mark.slow),
    ],
)
def test_a_server_that_does_not_start_is_one_clear_error(runs: Runs, args: list[str], text: str) -> None:
    """Said once for each test, without a traceback through the plugin."""
    result = runs(USES, *args)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([text])
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*pytest_plugin.py*")


def test_a_server_that_keeps_its_data_is_not_cleaned(runs: Runs) -> None:
    """The one that somebody else started, that is."""
    with rmq.testing.server(flush="fast") as server:
        server.send("precious", "x")
        result = runs(USES, f"--rocketmq-endpoint={server.endpoint}")
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["*this server keeps its data*"])
        assert set(server.topics()) == {"precious"}


def test_a_failing_test_s_report_shows_its_server(runs: Runs) -> None:
    """Topics with their last messages, and what was delivered and not acknowledged; a passing test's shows nothing."""
    result = runs(
        """
from rocketmq import ClientConfiguration, Credentials, FilterExpression, SimpleConsumer

def test_wrong(rocketmq):
    rocketmq.send("orders", "one book", tag="new", keys=["k-1"])
    server = ClientConfiguration(rocketmq.endpoint, Credentials())
    consumer = SimpleConsumer(server, "billing", {"orders": FilterExpression()})
    consumer.startup()
    got = consumer.receive(16, 60)
    consumer.shutdown()
    assert got == []

def test_right(rocketmq):
    rocketmq.send("secret", "x")
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*- rocketmq: topics and un-acked messages -*",
            "topic orders (NORMAL): 1 messages",
            "  01* tag=new keys=k-1 'one book'",
            "group billing: 1 un-acked, 0 never delivered",
            "  orders 01* attempt 1, leased",
        ]
    )
    result.stdout.no_fnmatch_line("*secret*")


def test_a_server_of_the_test_s_own_is_shown_too(runs: Runs) -> None:
    """Whatever fixture it comes from, in whichever loop; one that is gone is no second error."""
    result = runs(
        """
import asyncio, pytest, rmq.testing

@pytest.fixture
def gone():
    with rmq.testing.server() as server:
        pass
    return server

@pytest.fixture
def inside():
    loop = asyncio.new_event_loop()
    server = rmq.testing.broker(topics=["mine"])
    loop.run_until_complete(server.__aenter__())
    yield server
    loop.run_until_complete(server.stop())
    loop.close()

def test_wrong(gone, inside):
    assert False
"""
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the server cannot be asked: the rmq server does not run*"])
    result.stdout.fnmatch_lines(["topic mine (NORMAL): 0 messages"])


def test_a_failing_test_without_a_server_is_reported_as_ever(runs: Runs) -> None:
    """There is nothing to show."""
    result = runs("def test_wrong(): assert False")
    result.assert_outcomes(failed=1)
    result.stdout.no_fnmatch_line("*un-acked*")


def test_whoever_does_not_use_it_pays_next_to_nothing() -> None:
    """The plugin is loaded in every pytest run: under 5 ms, and none of the server's modules."""
    program = """
import pytest, sys, time
before, began_s = set(sys.modules), time.process_time()
import rmq.pytest_plugin
print(time.process_time() - began_s, *sorted(set(sys.modules) - before))
"""
    took_s = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=True, timeout=60
        )
        took, *modules = done.stdout.split()
        assert modules == ["rmq", "rmq.pytest_plugin"]
        took_s.append(float(took))
    assert min(took_s) < 0.005
