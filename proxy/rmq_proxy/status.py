"""Turns what went wrong into the Status inside an answer: the one table of this front end from error to code and text.

A ClientError keeps its code; anything else is our fault, is logged with its traceback and becomes 50001 without
details.
"""

import logging
from typing import TypeAlias

from rmq.errors import ClientError, Code
from rmq_proto import v2

log = logging.getLogger(__name__)

OK = Code.OK.value
OK_TEXT = "OK"


Answering: TypeAlias = (
    v2.QueryRouteResponse
    | v2.QueryAssignmentResponse
    | v2.HeartbeatResponse
    | v2.NotifyClientTerminationResponse
    | v2.SendMessageResponse
    | v2.ReceiveMessageResponse
    | v2.AckMessageResponse
    | v2.ChangeInvisibleDurationResponse
    | v2.ForwardMessageToDeadLetterQueueResponse
    | v2.EndTransactionResponse
    | v2.RecallMessageResponse
    | v2.SyncLiteSubscriptionResponse
    | v2.PullMessageResponse
    | v2.UpdateOffsetResponse
    | v2.GetOffsetResponse
    | v2.QueryOffsetResponse
    | v2.TelemetryCommand
)


class Failed:
    """An error as one response type's bytes: `Failed(v2.SendMessageResponse)(error)`."""

    def __init__(self, response: type[Answering]) -> None:
        self._response = response

    def __call__(self, error: Exception) -> bytes:
        """Only the status is set, as Apache does for a request that failed as a whole."""
        answer = self._response()
        write(answer.status, explain(error))
        return answer.SerializeToString()


def code_of(error: Exception) -> Code:
    """The code that the client is told."""
    return error.code if isinstance(error, ClientError) else Code.INTERNAL_SERVER_ERROR


def explain(error: Exception) -> ClientError:
    """What the client is told; logs what is not the client's fault."""
    if isinstance(error, ClientError):
        return error
    log.error("a call failed inside the server", exc_info=error)
    return ClientError(code_of(error), "internal error; the server's log says more")


def write(status: v2.Status, error: ClientError) -> None:
    """Code and text; RocketMQ 5.5 puts the code's name where a text is empty."""
    status.code = error.code.value
    status.message = error.text or error.code.name


def write_ok(status: v2.Status) -> None:
    """20000, "OK"."""
    status.code = OK
    status.message = OK_TEXT


def plain(response: type[Answering], code: Code = Code.OK, text: str = OK_TEXT) -> bytes:
    """A whole answer that is nothing but a status, encoded once by whoever keeps it."""
    answer = response()
    write(answer.status, ClientError(code, text))
    return answer.SerializeToString()
