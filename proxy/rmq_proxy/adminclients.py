"""The admin service's calls about clients: who is connected, and what an operator asks one of them over its stream.

Promises that a question ends, with an answer or with one line that says why there is none: 5 s after it was asked, or
when the client leaves. Not every SDK answers (facts: grpc.md 2.6): Java's answers all, Go's and C#'s know stacks but
not how to verify, Node's invents a stack, Python's is silent. Nothing is taken from any group.
"""

from collections.abc import Callable, Sequence
from typing import NoReturn

from rmq.adminport import AdminPort, Kept
from rmq.clock import Clock
from rmq.errors import ClientError, Code
from rmq.message import Delivered
from rmq.port import Answer
from rmq_proto import admin as pb
from rmq_proto import v2
from rmq_proxy import adminconvert as convert
from rmq_proxy.answers import let_go, then
from rmq_proxy.rpc import Call
from rmq_proxy.sessions import Client, Sessions
from rmq_proxy.status import explain
from rmq_proxy.telemetry import Telemetry

CLIENTS_MAX = 1000
_CANNOT = (Code.NOT_IMPLEMENTED, Code.UNSUPPORTED, Code.VERSION_UNSUPPORTED, Code.VERIFY_FIFO_MESSAGE_UNSUPPORTED)


class AdminClients:
    """Handlers of the admin service's table, see admin.py."""

    def __init__(self, admin: AdminPort, sessions: Sessions, telemetry: Telemetry, clock: Clock) -> None:
        self._admin = admin
        self._sessions = sessions
        self._telemetry = telemetry
        self._clock = clock

    def list(self, _: Call, request: pb.ListClientsRequest) -> pb.ListClientsResponse:
        """ListClients."""
        group = request.group
        if group:
            self._admin.group_info(group)  # a name that is not there is a mistake, not a group without clients
        found = [client for client in self._sessions.clients() if not group or group in client.groups]
        found.sort(key=lambda client: client.client_id)
        shown = found[:CLIENTS_MAX]
        return pb.ListClientsResponse(clients=map(self._client, shown), left_out=len(found) - len(shown))

    def _client(self, known: Client) -> pb.Client:
        leases = sum(self._admin.renewed(group, known.client_id) for group in known.groups)
        stream = self._telemetry.call_of(known.client_id)
        return convert.client(known, stream, self._clock.monotonic_s(), leases)

    def stack(self, _: Call, request: pb.PrintThreadStackTraceRequest) -> Answer[pb.PrintThreadStackTraceResponse]:
        """PrintThreadStackTrace."""
        known = self._connected(request.client_id)

        def answer(text: str) -> pb.PrintThreadStackTraceResponse:
            return pb.PrintThreadStackTraceResponse(thread_stack_trace=text)

        told = self._telemetry.stack(next(iter(known.groups), ""), known.client_id)
        return then(told, answer, self._unanswered(known), let_go)

    def verify(self, _: Call, request: pb.VerifyMessageRequest) -> Answer[pb.VerifyMessageResponse]:
        """VerifyMessage."""
        known = self._consumer(request.group, request.client_id)
        found = self._admin.copies(request.message_id, request.topic)
        return then(found, lambda copies: self._verify(request, known, copies), None, let_go)

    def _verify(
        self, request: pb.VerifyMessageRequest, known: Client, copies: Sequence[Kept]
    ) -> Answer[pb.VerifyMessageResponse]:
        if not copies:
            where = f"in topic {request.topic}" if request.topic else "in any topic"
            raise ClientError(Code.MESSAGE_NOT_FOUND, f"there is no message {request.message_id} {where}")
        topics = [self._admin.whereabouts(copy).sent_to for copy in copies]
        read = known.groups.get(request.group, {})
        chosen = next((n for n, topic in enumerate(topics) if not read or topic in read), None)
        if chosen is None:
            text = f"client {known.client_id} reads {', '.join(sorted(read))}, but the message is of {topics[0]}"
            raise ClientError(Code.PRECONDITION_FAILED, f"{text}: ask a consumer of that topic")
        topic = topics[chosen]

        def answer(error: ClientError | None) -> pb.VerifyMessageResponse:
            if error is not None and error.code in _CANNOT:
                raise error
            code, text = (error.code, error.text) if error is not None else (Code.OK, "")
            return pb.VerifyMessageResponse(client_id=known.client_id, topic=topic, status=code.name, text=text)

        verdict = self._telemetry.verify(request.group, known.client_id, _delivered(topic, copies[chosen]))
        return then(verdict, answer, self._unanswered(known), let_go)

    def _connected(self, client_id: str) -> Client:
        """One with a stream. Raises NOT_FOUND."""
        known = self._sessions.get(client_id)
        if known is None:
            raise ClientError(Code.NOT_FOUND, f"there is no client {client_id}: `rmq client list` shows who is there")
        if self._telemetry.call_of(client_id) is None:
            text = f"client {client_id} has no command stream open: it has just gone, or has not come back yet"
            raise ClientError(Code.NOT_FOUND, text)
        return known

    def _consumer(self, group: str, client_id: str) -> Client:
        """The client, if it is of the group; where none is named, any of the group that can be asked."""
        if client_id:
            known = self._connected(client_id)
            if group not in known.groups:
                raise ClientError(Code.NOT_FOUND, f"client {client_id} is no consumer of group {group}")
            return known
        self._admin.group_info(group)
        for known in self._sessions.clients():
            if group in known.groups and self._telemetry.call_of(known.client_id) is not None:
                return known
        raise ClientError(Code.NOT_FOUND, f"no consumer of group {group} is connected")

    def _unanswered(self, known: Client) -> Callable[[Exception], NoReturn]:
        """Says who did not do what it was asked, and why."""

        def tell(caught: Exception) -> NoReturn:
            error = explain(caught)
            if error.code is Code.NOT_FOUND:
                raise ClientError(Code.NOT_FOUND, f"client {known.client_id} left before it answered")
            language, version = convert.agent(known.settings or v2.Settings(), self._telemetry.call_of(known.client_id))
            who = f"client {known.client_id} ({f'{language} {version}'.strip() or 'of an SDK that it does not name'})"
            if error.code is Code.PROXY_TIMEOUT:
                text = f"{who}: {error.text}; it hangs, or its SDK does not know the question"
            elif error.code in _CANNOT:
                text = f"{who} cannot do that: it answered {error.code.name}; Java's SDK can"
            else:
                text = f"{who} answered {error.code.name}{f': {error.text}' if error.text else ''}"
            raise ClientError(Code.PRECONDITION_FAILED, text)

        return tell


def _delivered(topic: str, kept: Kept) -> Delivered:
    """As a first delivery would be, but without a receipt handle: there is nothing to acknowledge."""
    return Delivered(
        topic, kept.queue_id, kept.offset, kept.body, kept.properties, kept.sys_flag, kept.born_ms, kept.born_host,
        kept.store_ms, "", kept.attempt + 1, "",
    )  # fmt: skip
