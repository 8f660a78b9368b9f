"""Fixtures of the native port: the loop of production, and a certificate."""

import asyncio
import sys
from collections.abc import Callable, Iterator

import pytest

from rmq_proxy.native.certificates import Certificates, self_signed
from tests.proxy.native.portrig import Scenario


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[[Scenario], None]]:
    """Runs a scenario on the loop of production."""
    factory = None
    if sys.platform != "win32":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        yield lambda scenario: runner.run(asyncio.wait_for(scenario, 60))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A certificate that signs itself."""
    pytest.importorskip("cryptography")
    return self_signed(tmp_path_factory.mktemp("tls"))
