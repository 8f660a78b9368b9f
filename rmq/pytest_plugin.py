"""pytest fixtures over a real server: `rocketmq_server` runs for the session, `rocketmq` is the same one, cleaned.

    def test_buying_tells_the_warehouse(rocketmq):
        shop = Shop(rocketmq.endpoint)
        shop.buy("book")
        assert [m.text for m in rocketmq.messages("orders")] == ["book"]

Owns the options --rocketmq-*, their ini twins, and the section that a failing test's report gets. With xdist each
worker has a server of its own. What a server can do: rmq.testing, which is imported when the first test wants one;
importing this module costs next to nothing, because every pytest run of whoever has rmq installed does.
"""

import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import pytest

if TYPE_CHECKING:
    from rmq.testing import Connection

OPTIONS = (
    ("endpoint", "HOST:PORT", "take this running server, which has --flush memory, instead of starting one"),
    ("host", "ADDRESS", "where the server listens [both loopbacks]"),
    ("port", "PORT", "where the server listens, worker gwN of xdist on PORT+N [a free one]"),
    ("profile", "dev|strict", "strict makes no topics on use [dev]"),
    ("flush", "memory|fast|durable", "what survives a crash of the server [memory]"),
    ("config", "FILE", "settings: topics, groups, limits"),
    ("timeout", "SECONDS", "how long the server may take to start [20]"),
)
LOG_CHARS_SHOWN = 4000
NAMES = {"timeout": "timeout_s"}  # the arguments that are called otherwise


def server_factory(**options: object) -> Callable[..., "Iterator[Connection]"]:
    """A session fixture that is a server, with these options of `rmq.testing.server`, or `endpoint`.

    An option that is given here wins over the command line's, which wins over the ini file's.

        rocketmq_server = server_factory(topics={"orders": "NORMAL"}, groups={"billing": 3})
    """

    @pytest.fixture(scope="session")
    def server(request: pytest.FixtureRequest) -> "Iterator[Connection]":
        with _plainly(), _made(request.config, options) as running:
            yield running

    return cast("Callable[..., Iterator[Connection]]", server)


def client_factory(server_fixture: str = "rocketmq_server") -> Callable[..., "Connection"]:
    """A fixture that is the server of the named fixture, cleaned: no topics and groups but the configured ones."""

    @pytest.fixture
    def clean(request: pytest.FixtureRequest) -> "Connection":
        server: Connection = request.getfixturevalue(server_fixture)
        with _plainly(server):
            server.reset()
        return server

    return cast("Callable[..., Connection]", clean)


rocketmq_server = server_factory()
rocketmq = client_factory()


def pytest_addoption(parser: pytest.Parser) -> None:
    """--rocketmq-NAME and the ini line rocketmq_NAME."""
    group = parser.getgroup("rocketmq", "a RocketMQ server for tests")
    for name, metavar, text in OPTIONS:
        group.addoption(f"--rocketmq-{name}", metavar=metavar, help=text)
        parser.addini(f"rocketmq_{name}", text)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds what is in its servers to a failing test's report."""
    result = yield
    if result.failed and result.when != "teardown":
        result.sections.extend(_sections(getattr(item, "funcargs", {})))
    return result


def _sections(arguments: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    if "rmq.testing" not in sys.modules:
        return  # so there is no server among the arguments
    from rmq.testing.report import report
    from rmq.testing.seen import Views

    servers = {id(value): (name, value) for name, value in arguments.items() if isinstance(value, Views)}
    for name, server in servers.values():
        yield f"{name}: topics and un-acked messages", report(server)


def _made(config: pytest.Config, options: Mapping[str, object]) -> "Connection":
    """A server that starts when it is entered, or a connection to one that runs. Raises ConfigError."""
    import rmq.testing

    chosen = {**_said(config), **options}
    worker = _worker(config)
    if (endpoint := chosen.pop("endpoint", None)) is not None:
        if worker is not None:
            text = "workers of xdist would clean each other's topics on one server"
            raise rmq.testing.ConfigError(f"{text}: leave out its endpoint, or run without -n")
        return rmq.testing.connect(str(endpoint))
    port = str(chosen.get("port", 0))
    if worker is not None and port.isdecimal() and int(port):
        chosen["port"] = int(port) + worker
    path = chosen.pop("config", None)
    timeout_s = _seconds(chosen.pop("timeout_s", rmq.testing.READY_WITHIN_S))
    return rmq.testing.server(config=None if path is None else str(path), timeout_s=timeout_s, **chosen)


def _said(config: pytest.Config) -> dict[str, object]:
    """What the command line says, else the ini file; a relative path there begins at the root of the tests."""
    said: dict[str, object] = {}
    for name, _, _ in OPTIONS:
        value = config.getoption(f"rocketmq_{name}")
        if not value and (value := config.getini(f"rocketmq_{name}")) and name == "config":
            value = config.rootpath / value
        if value:
            said[NAMES.get(name, name)] = value
    return said


def _seconds(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        from rmq.testing import ConfigError

        raise ConfigError(f"rocketmq_timeout is {value!r}, must be a number of seconds") from None


def _worker(config: pytest.Config) -> int | None:
    """The number of this worker of xdist; None: there are none."""
    found: Mapping[str, str] = getattr(config, "workerinput", {})
    return int(found["workerid"].removeprefix("gw")) if found else None


@contextmanager
def _plainly(server: "Connection | None" = None) -> Iterator[None]:
    """What a server could not do is said without a traceback through this module, with what the server said."""
    from rmq.testing import ConfigError, ServerError
    from rmq_proxy.admin_client import AdminError

    try:
        yield
    except (ConfigError, ServerError, AdminError) as error:
        log = f"\nlog of the rmq server:\n{server.log[-LOG_CHARS_SHOWN:]}" if server and server.log else ""
        raise pytest.fail.Exception(f"{error}{log}", pytrace=False) from None
