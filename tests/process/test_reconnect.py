"""What clients hear on their Telemetry streams as the server is told to stop."""

import contextlib
import queue
from collections.abc import Callable, Iterable, Iterator
from typing import cast

import grpc
import pytest

from rmq_proto import v2
from tests.process import wire
from tests.process.client import TIMEOUT_S, Client
from tests.process.conftest import complaints
from tests.serving import Server


class Stream:
    """A producer's open Telemetry stream; its settings were answered."""

    def __init__(self, client: Client, language: str) -> None:
        self._sent: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        metadata = (("x-mq-client-id", f"{language}@1"), ("x-mq-language", language))
        call = cast("Callable[..., Iterable[bytes]]", client.channel.stream_stream(wire.SERVICE + "Telemetry"))
        self._answers = iter(call(iter(self._sent.get, None), timeout=TIMEOUT_S, metadata=metadata))
        command = v2.TelemetryCommand()
        command.settings.client_type = v2.PRODUCER
        command.settings.publishing.topics.add().name = "t"
        self._sent.put(command.SerializeToString())
        assert v2.TelemetryCommand.FromString(next(self._answers)).HasField("settings")

    def rest(self) -> list[str]:
        """The commands that still come, until the stream ends."""
        try:
            return [v2.TelemetryCommand.FromString(data).WhichOneof("command") or "" for data in self._until_end()]
        finally:
            self._sent.put(None)

    def _until_end(self) -> Iterator[bytes]:
        with contextlib.suppress(grpc.RpcError):  # what ends a stream at a stop is told in the conformance suite
            yield from self._answers


@pytest.mark.parametrize("transport", ["native", "grpcio"])
@pytest.mark.parametrize(("setting", "heard"), [("true", ["reconnect_endpoints_command"]), ("false", [])])
def test_java_clients_are_told_to_reconnect_where_that_is_wanted(
    transport: str, setting: str, heard: list[str]
) -> None:
    """Before their stream ends; others are not."""
    with Server("--flush", "memory", env={"RMQ_RECONNECT_ON_STOP": setting, "RMQ_TRANSPORT": transport}) as server:
        client = Client(server.endpoint)
        java, python = Stream(client, "JAVA"), Stream(client, "PYTHON")
        server.stop()
        assert (java.rest(), python.rest()) == (heard, [])
        client.close()
        assert complaints(server) == []
        assert ("told 1 streams" in server.stderr()) == bool(heard)
