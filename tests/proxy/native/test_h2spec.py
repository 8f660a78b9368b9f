"""h2spec 2.2.1, the conformance suite for HTTP/2, in the clear and over TLS: every test passes, the strict ones too."""

import asyncio
import hashlib
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rmq_proxy.native.certificates import self_signed
from rmq_proxy.native_transport import NativeTransport
from tests.clients.builders import UnavailableError, cache, fetch, run
from tests.proxy.transports import ECHO, LOG, RecordingGate

MODULE = Path(__file__).parent / "h2spec"
TESTS = 146

pytestmark = pytest.mark.foreign


@pytest.fixture(scope="module")
def h2spec() -> str:
    """The program, built once from the versions of go.sum."""
    if shutil.which("go") is None:
        pytest.skip("no go on PATH")
    target = cache() / f"h2spec-{hashlib.sha256((MODULE / 'go.sum').read_bytes()).hexdigest()[:16]}"
    if not target.exists():
        try:
            fetch("go", "mod", "download", cwd=MODULE)
        except UnavailableError as error:
            pytest.skip(str(error))
        partial = target.with_suffix(".partial")
        program = "github.com/summerwind/h2spec/cmd/h2spec"
        run("go", "build", "-mod=mod", "-buildvcs=false", "-o", str(partial), program, cwd=_copy(target))
        partial.rename(target)
    return str(target)


def _copy(target: Path) -> Path:
    """The module in a folder of its own: nothing is written beside the sources."""
    folder = target.with_suffix(".module")
    shutil.copytree(MODULE, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server on a loop of its own thread."""
    pytest.importorskip("cryptography")
    started, ports = threading.Event(), []
    loop = asyncio.new_event_loop()

    async def serve(stop: asyncio.Event) -> None:
        transport = NativeTransport(
            {ECHO.path: ECHO}, RecordingGate(), request_bytes_max=1 << 20, log=LOG, certificates=self_signed(None)
        )
        ports.append(await transport.start(["127.0.0.1"], 0))
        started.set()
        await stop.wait()
        await transport.stop(0)

    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(stop),))
    thread.start()
    assert started.wait(10)
    yield ports[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


@pytest.mark.parametrize("flags", [(), ("--tls", "--insecure")])
def test_h2spec(h2spec: str, port: int, flags: tuple[str, ...], tmp_path: Path) -> None:
    """Its exit code says whether all passed, its report how many there were."""
    report = tmp_path / "report.xml"
    run(h2spec, "--strict", "--port", str(port), "--junit-report", str(report), *flags, cwd=tmp_path)
    counts = re.findall(r'tests="(\d+)"', report.read_text())
    assert sum(map(int, counts)) >= TESTS
