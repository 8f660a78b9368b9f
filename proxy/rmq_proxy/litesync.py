"""SyncLiteSubscription: which lite topics of a parent a client subscribes (facts: grpc.md 1.13).

A client says all it wants at its start and every 30 s (COMPLETE_ADD), and each change at once (PARTIAL_ADD,
PARTIAL_REMOVE), where a group goes on at with an offset option.
"""

from collections.abc import Mapping

from rmq.errors import ClientError, Code
from rmq.port import Answer, BrokerPort, LiteAction, LiteStart, LiteSync
from rmq_proto import v2
from rmq_proxy import validate
from rmq_proxy.answers import then
from rmq_proxy.caller import Caller
from rmq_proxy.sessions import Sessions
from rmq_proxy.status import Failed, plain
from rmq_proxy.validate import Limits

FAILED = Failed(v2.SyncLiteSubscriptionResponse)
OK = plain(v2.SyncLiteSubscriptionResponse)
_ACTIONS: Mapping[int, LiteAction] = {
    v2.PARTIAL_ADD: "add", v2.PARTIAL_REMOVE: "remove", v2.COMPLETE_ADD: "replace", v2.COMPLETE_REMOVE: "replace"
}  # fmt: skip
_POLICIES: Mapping[int, LiteStart] = {
    v2.OffsetOption.LAST: LiteStart(), v2.OffsetOption.MIN: LiteStart("min"), v2.OffsetOption.MAX: LiteStart("max")
}  # fmt: skip


class LiteSyncing:
    """The call."""

    def __init__(self, broker: BrokerPort, sessions: Sessions, limits: Limits) -> None:
        self._broker = broker
        self._sessions = sessions
        self._limits = limits

    def sync(self, caller: Caller, request: v2.SyncLiteSubscriptionRequest) -> Answer[bytes]:
        """The client counts as one of the group's from now on, until it is silent."""
        topic, group = caller.topic(request.topic), caller.group(request.group)
        action = _ACTIONS.get(request.action)
        if action is None:
            text = f"action {request.action} is none: send PARTIAL_ADD, PARTIAL_REMOVE, COMPLETE_ADD or COMPLETE_REMOVE"
            raise ClientError(Code.BAD_REQUEST, text)
        names = [] if request.action == v2.COMPLETE_REMOVE else list(request.lite_topic_set)
        for name in names:
            validate.lite_topic(name, self._limits)
        version = request.version if request.HasField("version") else None
        wanted = LiteSync(group, topic, caller.client_id, action, names, _start(request), version)
        known = self._sessions.lives(caller.client_id, group)
        return then(known, lambda _: then(self._broker.sync_lite(wanted), lambda _: OK, FAILED), FAILED)


def _start(request: v2.SyncLiteSubscriptionRequest) -> LiteStart:
    """Where it goes on; LAST where the request does not say. Raises ILLEGAL_OFFSET."""
    option = request.offset_option
    match option.WhichOneof("offset_type"):
        case "policy":
            found = _POLICIES.get(option.policy)
        case "offset":
            found = LiteStart("offset", option.offset) if option.offset >= 0 else None
        case "tail_n":
            found = LiteStart("tail", option.tail_n) if option.tail_n >= 0 else None
        case "timestamp":
            found = LiteStart("time", option.timestamp)
        case _:
            found = LiteStart()
    if found is None:
        text = "offset_option: policy LAST, MIN or MAX, or an offset, tail_n or timestamp that is not negative"
        raise ClientError(Code.ILLEGAL_OFFSET, text)
    return found
