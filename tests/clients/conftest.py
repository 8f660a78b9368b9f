"""Gives tests an official client of each language, with a server to talk to.

Skips, with the reason, a language whose tools or packages can't be had here.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients import builders
from tests.clients.builders import FOREIGN, PYTHON, Language
from tests.clients.harness import Process, Session
from tests.serving import Server

TWO_TRIES = "refused"
LANGUAGES = [
    pytest.param(PYTHON, id=PYTHON.name),
    *(pytest.param(language, id=language.name, marks=pytest.mark.foreign) for language in FOREIGN),
]


def open_driver(language: Language, home: Path) -> Process:
    """Starts the driver of `language`, which is built first where that has not been done."""
    try:
        command = builders.ready(language)
    except builders.UnavailableError as reason:
        pytest.skip(f"{language.name}: {reason}")
    return Process(command, home, language.env)


@pytest.fixture(scope="session", params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> Language:
    """Each official client in turn."""
    chosen: Language = request.param
    return chosen


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all languages, with a group of two attempts for each."""
    names = [language.name for language in (PYTHON, *FOREIGN)]
    config = tmp_path_factory.mktemp("server") / "config.yaml"
    groups = "".join(f"  {TWO_TRIES}-{name}: {{attempts_max: 2, retry_ms: [1000]}}\n" for name in names)
    config.write_text(f"groups:\n{groups}")
    with Server("--config", str(config)) as running:
        yield running


@pytest.fixture(scope="session")
def process(language: Language, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """The running driver of `language`."""
    with open_driver(language, tmp_path_factory.mktemp(language.name)) as running:
        yield running


@pytest.fixture(scope="session")
def session(process: Process, server: Server) -> Session:
    """Makes clients of `language` that talk to `server`."""
    return Session(process, server.endpoint)
