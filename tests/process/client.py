"""A client without an SDK: every call of the service, with any bytes and any headers, and what came back.

Owns one channel. Waits at most `timeout_s` for any answer; a status that gRPC itself answers is raised as `Refused`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar, cast

import grpc
from google.protobuf.message import Message as Request

from rmq_proto import v2
from tests.process import wire

R = TypeVar("R")
Metadata = Sequence[tuple[str, str]]
SEND = wire.SERVICE + "SendMessage"
TIMEOUT_S = 30.0
OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_metadata_size", 1 << 20),
]


class Refused(Exception):  # noqa: N818  # not an error of ours: it is what a test expects
    """The call ended with a gRPC status."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(f"{code.name}: {text}")
        self.code = code
        self.text = text


class Client:
    """One connection; `metadata` goes with every call."""

    def __init__(self, endpoint: str, metadata: Metadata = wire.METADATA, timeout_s: float = TIMEOUT_S) -> None:
        self.endpoint = endpoint
        self.channel = grpc.insecure_channel(endpoint, OPTIONS)
        self.metadata = metadata
        self.timeout_s = timeout_s

    def close(self) -> None:
        """No call is left."""
        self.channel.close()

    def unary(self, method: str, data: bytes) -> bytes:
        """One request, one answer. Raises Refused."""
        call = cast("Callable[..., bytes]", self.channel.unary_unary(wire.SERVICE + method))
        return _refusing(lambda: call(data, timeout=self.timeout_s, metadata=self.metadata))

    def listing(self, method: str, data: bytes) -> list[bytes]:
        """One request, all answers. Raises Refused."""
        call = cast("Callable[..., Iterable[bytes]]", self.channel.unary_stream(wire.SERVICE + method))
        return _refusing(lambda: list(call(data, timeout=self.timeout_s, metadata=self.metadata)))

    def telemetry(self, messages: Iterable[bytes]) -> list[v2.TelemetryCommand]:
        """Sends all, half-closes, and returns all that came. Raises Refused."""
        call = cast("Callable[..., Iterable[bytes]]", self.channel.stream_stream(wire.SERVICE + "Telemetry"))
        answers = _refusing(lambda: list(call(iter(messages), timeout=self.timeout_s, metadata=self.metadata)))
        return [v2.TelemetryCommand.FromString(answer) for answer in answers]

    def poll(self, request: v2.ReceiveMessageRequest) -> "Poll":
        """A receive that is left waiting."""
        call = cast("Callable[..., Iterator[bytes]]", self.channel.unary_stream(wire.SERVICE + "ReceiveMessage"))
        return Poll(call(request.SerializeToString(), timeout=60.0, metadata=self.metadata))

    def send(self, *messages: v2.Message) -> v2.SendMessageResponse:
        """In one call."""
        return self.ask("SendMessage", wire.send(*messages), v2.SendMessageResponse.FromString)

    def sending(self, message: v2.Message) -> "grpc.Future[bytes]":
        """A send in flight."""
        method = cast("grpc.UnaryUnaryMultiCallable[bytes, bytes]", self.channel.unary_unary(SEND))
        return method.future(wire.send(message).SerializeToString(), self.timeout_s, tuple(self.metadata))

    def ack(self, topic: str, group: str, *handles: str) -> v2.AckMessageResponse:
        """In one call."""
        return self.ask("AckMessage", wire.ack(topic, group, handles), v2.AckMessageResponse.FromString)

    def ask(self, method: str, request: Request, decode: Callable[[bytes], R]) -> R:
        """Any unary call. Raises Refused."""
        return decode(self.unary(method, request.SerializeToString()))

    def receive(self, request: v2.ReceiveMessageRequest) -> "Received":
        """Waits as the request says. Raises Refused."""
        return Received(self.listing("ReceiveMessage", request.SerializeToString()))


class Received:
    """A receive's stream: `code` and `text` of its status, its messages, and whether a timestamp ended it."""

    def __init__(self, answers: Sequence[bytes]) -> None:
        parts = [v2.ReceiveMessageResponse.FromString(answer) for answer in answers]
        kinds = [part.WhichOneof("content") for part in parts]
        assert kinds[0] == "status", kinds
        assert set(kinds[1:-1]) <= {"message"}, kinds
        self.code = parts[0].status.code
        self.text = parts[0].status.message
        self.messages = [part.message for part in parts if part.HasField("message")]
        self.whole = kinds[-1] == "delivery_timestamp"

    @property
    def bodies(self) -> list[bytes]:
        """Of the messages, in their order."""
        return [message.body for message in self.messages]

    @property
    def handles(self) -> list[str]:
        """Of the messages, in their order."""
        return [message.system_properties.receipt_handle for message in self.messages]


class Poll:
    """A waiting receive."""

    def __init__(self, call: Iterator[bytes]) -> None:
        self._call = call

    def result(self) -> Received:
        """Waits for its end, within the call's deadline. Raises Refused."""
        return Received(_refusing(lambda: list(self._call)))

    def cancel(self) -> None:
        """The client goes away."""
        cast(grpc.Call, self._call).cancel()


def _refusing(call: Callable[[], R]) -> R:
    try:
        return call()
    except grpc.RpcError as error:
        raise Refused(error.code(), error.details() or "") from None
