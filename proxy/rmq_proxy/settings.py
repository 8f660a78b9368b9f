"""Merges a client's settings with the server's: the reply echoes what the client sent and overwrites what the server
decides.

Every SDK waits for some of these fields and hangs or throws without them; which and why: facts grpc.md 2.2 and 2.3.
"""

from rmq.port import GroupView
from rmq_proto import v2
from rmq_proxy.convert import set_ms
from rmq_proxy.status import write_ok
from rmq_proxy.validate import Limits

PRODUCER_ATTEMPTS_MAX = 3
PRODUCER_BACKOFF_INITIAL_MS = 10
PRODUCER_BACKOFF_MAX_MS = 1000
PRODUCER_BACKOFF_MULTIPLIER = 2.0
LITE_TYPES = (v2.LITE_PUSH_CONSUMER, v2.LITE_SIMPLE_CONSUMER)
PUSH_TYPES = (v2.PUSH_CONSUMER, v2.LITE_PUSH_CONSUMER)
PYTHON_NEEDS_METRIC_ON = (5, 1, 0)
NODE = "HTTP"  # as its header says; without an exponential policy what it consumes in order is a dead letter at once


def for_producer(sent: v2.Settings, limits: Limits) -> bytes:
    """The reply to publishing settings. Producers accept an exponential back-off only."""
    reply = _echo(sent)
    settings = reply.settings
    settings.backoff_policy.Clear()
    settings.backoff_policy.max_attempts = PRODUCER_ATTEMPTS_MAX
    backoff = settings.backoff_policy.exponential_backoff
    set_ms(backoff.initial, PRODUCER_BACKOFF_INITIAL_MS)
    set_ms(backoff.max, PRODUCER_BACKOFF_MAX_MS)
    backoff.multiplier = PRODUCER_BACKOFF_MULTIPLIER
    settings.publishing.validate_message_type = True
    settings.publishing.max_body_size = limits.message_bytes_max
    _metric(settings, on=False)
    return reply.SerializeToString()


def for_consumer(sent: v2.Settings, group: GroupView, limits: Limits, language: str, version: str) -> bytes:
    """The reply to subscription settings; `language` and `version` as the client's headers say."""
    reply = _echo(sent)
    settings = reply.settings
    lite = sent.client_type in LITE_TYPES
    _retry(settings.backoff_policy, group, exponential=(group.fifo or lite) and language.upper() == NODE)
    subscription = settings.subscription
    subscription.fifo = group.fifo
    subscription.receive_batch_size = limits.receive_batch_max
    set_ms(subscription.long_polling_timeout, limits.poll_ms_max)
    if lite:
        subscription.lite_subscription_quota = limits.lite_subscriptions_max
        subscription.max_lite_topic_size = limits.lite_topic_chars_max
    _metric(settings, on=sent.client_type in PUSH_TYPES and needs_metric_on(language, version))
    return reply.SerializeToString()


def needs_metric_on(language: str, version: str) -> bool:
    """Whether this push consumer dies of `metric.on` = false.

    The Python client up to 5.1.0 applies `metric` before the settings, and its push consumer then asks a metric
    provider for gauges that exists only where metrics are on: the exception ends its telemetry reader and start() waits
    for ever. From 5.1.1 on settings come first, so off is right there, as for everyone else (users-and-peers.md 48, 49;
    tried with each).
    """
    return language.upper() == "PYTHON" and _numbers(version) <= PYTHON_NEEDS_METRIC_ON


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split(".")
    return tuple(map(int, parts)) if all(p.isdecimal() and len(p) < 9 for p in parts) else (9,)


def _echo(sent: v2.Settings) -> v2.TelemetryCommand:
    reply = v2.TelemetryCommand()
    write_ok(reply.status)
    reply.settings.CopyFrom(sent)
    return reply


def _retry(policy: v2.RetryPolicy, group: GroupView, *, exponential: bool) -> None:
    """Steps, unless the group has none, or the client knows `exponential` back-off only: then from the first to the
    last of them.
    """
    policy.Clear()
    policy.max_attempts = group.attempts_max
    retry = group.retry
    if retry.steps_ms and not exponential:
        for step_ms in retry.steps_ms:
            set_ms(policy.customized_backoff.next.add(), step_ms)
        return
    initial_ms, max_ms = (retry.steps_ms[0], retry.steps_ms[-1]) if retry.steps_ms else (retry.initial_ms, retry.max_ms)
    set_ms(policy.exponential_backoff.initial, initial_ms)
    set_ms(policy.exponential_backoff.max, max_ms)
    policy.exponential_backoff.multiplier = retry.multiplier


def _metric(settings: v2.Settings, *, on: bool) -> None:
    """On: to the address that the client uses anyway, where its export is taken and thrown away
    (`telemetry.METRIC_SINK`).
    """
    settings.metric.Clear()
    settings.metric.on = on
    if on:
        settings.metric.endpoints.CopyFrom(settings.access_point)
