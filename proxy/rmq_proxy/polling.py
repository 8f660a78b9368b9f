"""How long a poll may wait: what the client asks, within our limits, and never past the call's deadline."""

from rmq.clock import Clock
from rmq.errors import ClientError, Code
from rmq_proto import v2
from rmq_proxy.caller import CLIENT_VERSION, Caller
from rmq_proxy.convert import to_ms
from rmq_proxy.rpc import Call
from rmq_proxy.validate import Limits

POLLING_CODE_VERSION = "5.0.3"  # clients from here on know ILLEGAL_POLLING_TIME; compared as text, as Apache does


class Polling:
    """Receives and pulls. A negative time is ILLEGAL_POLLING_TIME, BAD_REQUEST towards clients older than 5.0.3."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock

    def receive_ms(self, caller: Caller, request: v2.ReceiveMessageRequest) -> int:
        """Within 5 to 20 s, and less where the deadline is nearer.

        RocketMQ 5.5 refuses a deadline nearer than 5 s and a call without one; both are fine here.
        """
        limits = self._limits
        left_ms = self._left_ms(caller.call)
        if request.HasField("long_polling_timeout"):
            asked_ms = _asked_ms(caller.call, request.long_polling_timeout)
        elif left_ms is None:
            asked_ms = limits.poll_ms_max
        else:
            asked_ms = left_ms - self._request_timeout_ms(caller) // 2
        return self._in_time(min(limits.poll_ms_max, max(limits.poll_ms_min, asked_ms)), left_ms)

    def pull_ms(self, caller: Caller, request: v2.PullMessageRequest) -> int:
        """At most 20 s, and less where the deadline is nearer; who asks for no time is answered at once."""
        asked_ms = _asked_ms(caller.call, request.long_polling_timeout)
        return self._in_time(min(self._limits.poll_ms_max, asked_ms), self._left_ms(caller.call))

    def _left_ms(self, call: Call) -> int | None:
        return None if call.deadline_s is None else int((call.deadline_s - self._clock.monotonic_s()) * 1000)

    def _in_time(self, poll_ms: int, left_ms: int | None) -> int:
        return poll_ms if left_ms is None else max(min(poll_ms, left_ms - self._limits.poll_reserve_ms), 0)

    def _request_timeout_ms(self, caller: Caller) -> int:
        settings = caller.client.settings if caller.client else None
        if settings is None or not settings.HasField("request_timeout"):
            return self._limits.request_timeout_ms
        return to_ms(settings.request_timeout)


def _asked_ms(call: Call, timeout: v2.Duration) -> int:
    asked_ms = to_ms(timeout)
    if asked_ms < 0:
        knows = call.header(CLIENT_VERSION) >= POLLING_CODE_VERSION
        code = Code.ILLEGAL_POLLING_TIME if knows else Code.BAD_REQUEST
        raise ClientError(code, f"long_polling_timeout cannot be negative, it is {asked_ms} ms")
    return asked_ms
