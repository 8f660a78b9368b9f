"""Gives tests an official client of each language, with a server to talk to: twice, the second time through a kill.

The first time in the clear; the second time with TLS, in a process of its own, and with a server of its own that is
killed and started again in the middle of each test, where the test says so (Session.middle). Skips, with the reason, a
language whose tools or packages can't be had here.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from rmq_proxy.native.certificates import self_signed
from tests.clients import builders
from tests.clients.builders import FOREIGN, PYTHON, Language, through_a_kill
from tests.clients.harness import Process, Session
from tests.serving import Server

KILLED_SOON = {"RMQ_POLL_MS_MIN": "1000", "RMQ_AUTO_RENEW_MS": "20000"}
"""A server that is to be killed. What a push consumer was given in an answer that the kill cut off comes again by then;
after a minute otherwise.
"""
TWO_TRIES = "refused"
IN_THE_CLEAR = [
    pytest.param(PYTHON, id=PYTHON.name),
    *(pytest.param(language, id=language.name, marks=pytest.mark.foreign) for language in FOREIGN),
]
KILLED = {
    language.name: pytest.param(
        through_a_kill(language),
        id=f"{language.name}-{'tls-' * language.knows_tls}killed",
        marks=[pytest.mark.slow, *([pytest.mark.foreign] if language in FOREIGN else [])],
    )
    for language in (PYTHON, *FOREIGN)
}
in_the_clear = pytest.mark.parametrize("language", IN_THE_CLEAR, indirect=True, scope="session")
"""For a test where TLS makes no difference, and that no kill is to fall into."""
with_and_without_tls = pytest.mark.parametrize(
    "language",
    [*IN_THE_CLEAR, *(KILLED[language.name] for language in (PYTHON, *FOREIGN) if language.knows_tls)],
    indirect=True,
    scope="session",
)
"""For a test that kills the server itself."""


def open_driver(language: Language, home: Path, trusted: Mapping[str, str] | None = None) -> Process:
    """Starts the driver of `language`, which is built first where that has not been done.

    `trusted`: what a secure one needs that checks certificates.
    """
    try:
        command = builders.ready(language)
    except builders.UnavailableError as reason:
        pytest.skip(f"{language.name}: {reason}")
    return Process(command, home, {**language.env, **(trusted or {})})


@pytest.fixture(scope="session", params=[*IN_THE_CLEAR, *KILLED.values()])
def language(request: pytest.FixtureRequest) -> Language:
    """Each official client in turn."""
    chosen: Language = request.param
    return chosen


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """What a server makes at its first start, but one for all servers: their settings in the environment."""
    folder = tmp_path_factory.mktemp("certificate")
    self_signed(folder)
    return {"RMQ_TLS_CERT": str(folder / "tls-cert.pem"), "RMQ_TLS_KEY": str(folder / "tls-key.pem")}


@pytest.fixture(scope="session")
def trusted(certificate: Mapping[str, str]) -> Mapping[str, str]:
    """The clients that check certificates trust that one: the environment of Python's and Node's gRPC."""
    cert = certificate["RMQ_TLS_CERT"]
    return {"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": cert, "NODE_EXTRA_CA_CERTS": cert}


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A group of two attempts for each language."""
    names = [language.name for language in (PYTHON, *FOREIGN)]
    config = tmp_path_factory.mktemp("server") / "config.yaml"
    groups = "".join(f"  {TWO_TRIES}-{name}: {{attempts_max: 2, retry_ms: [1000]}}\n" for name in names)
    config.write_text(f"groups:\n{groups}")
    return config


@pytest.fixture(scope="session")
def server(settings: Path) -> Iterator[Server]:
    """One server for all languages."""
    with Server("--config", str(settings)) as running:
        yield running


@pytest.fixture(scope="session")
def process(
    language: Language, trusted: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Process]:
    """The running driver of `language`."""
    with open_driver(language, tmp_path_factory.mktemp(language.name), trusted) as running:
        yield running


@pytest.fixture(scope="session")
def session(
    process: Process, language: Language, settings: Path, certificate: Mapping[str, str], request: pytest.FixtureRequest
) -> Iterator[Session]:
    """Makes clients of `language` that talk to a server: to everyone's, or to one that may be killed."""
    if not language.killed:
        server: Server = request.getfixturevalue("server")
        yield Session(process, server.endpoint)
        return
    with Server("--config", str(settings), env={**certificate, **KILLED_SOON}) as victim:
        yield Session(process, victim.endpoint, victim)
