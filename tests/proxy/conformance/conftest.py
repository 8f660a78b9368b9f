"""The suite runs on each transport with each gRPC stack as its client; one whose tools are missing here is skipped."""

from collections.abc import Iterator

import pytest

from tests.clients.builders import STACKS, Language
from tests.clients.conftest import open_driver
from tests.proxy.stacks import GRPCIO, Driven, Stack
from tests.proxy.transports import TRANSPORTS, Maker

LANGUAGES = [
    pytest.param(None, id=GRPCIO.name),
    *(pytest.param(language, id=language.name, marks=pytest.mark.foreign) for language in STACKS),
]


@pytest.fixture(scope="session", params=LANGUAGES)
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Each stack in turn; a driver runs while its tests do."""
    language: Language | None = request.param
    if language is None:
        yield GRPCIO
        return
    with open_driver(language, tmp_path_factory.mktemp(language.name)) as process:
        yield Driven(language.name, process)


@pytest.fixture(params=list(TRANSPORTS))
def make(request: pytest.FixtureRequest, stack: Stack) -> Maker:
    """A transport to be, and who calls it."""
    return Maker(TRANSPORTS[request.param], stack)
