"""Who calls: client id, what is known of it, and the namespace that its bare names belong to."""

from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import DecodeError

from rmq_proto import v2
from rmq_proxy import validate
from rmq_proxy.rpc import Call, GrpcCode, RpcError
from rmq_proxy.sessions import Client, Sessions

CLIENT_ID = "x-mq-client-id"
CLIENT_VERSION = "x-mq-client-version"
LANGUAGE = "x-mq-language"
NAMESPACE = "x-mq-namespace"

Request = TypeVar("Request")


class Caller:
    """One call's sender. Making one is a sign of life; raises CLIENT_ID_REQUIRED."""

    __slots__ = ("call", "client", "client_id")

    def __init__(self, call: Call, sessions: Sessions) -> None:
        self.call = call
        self.client_id = call.header(CLIENT_ID)
        self.client: Client | None = sessions.touch(self.client_id)
        if self.client is None:
            validate.client_id(self.client_id)

    def namespace(self, resource: v2.Resource) -> str:
        """The request's own, else the header's, else that of the client's settings."""
        return resource.resource_namespace or self.default_namespace()

    def default_namespace(self) -> str:
        """For a name that comes without one."""
        return self.call.header(NAMESPACE) or (self.client.namespace if self.client else "")

    def topic(self, resource: v2.Resource) -> str:
        """The stored name. Raises ILLEGAL_TOPIC."""
        return validate.topic_name(self.namespace(resource), resource.name)

    def group(self, resource: v2.Resource) -> str:
        """The stored name. Raises ILLEGAL_CONSUMER_GROUP."""
        return validate.group_name(self.namespace(resource), resource.name)


def parse(decode: Callable[[bytes], Request], data: bytes) -> Request:
    """`decode` is a message class's FromString. Garbage ends the call with INVALID_ARGUMENT: its culprit is the
    client.
    """
    try:
        return decode(data)
    except DecodeError as error:
        raise RpcError(GrpcCode.INVALID_ARGUMENT, f"the request is not valid protobuf: {error}") from None
