"""What the admin service tells of messages: found ones, dead letters, delayed ones, transactions."""

from rmq.adminport import Timer, Transaction, TransactionState
from rmq_proto import admin as pb
from rmq_proxy.admin import PAGE_BYTES_MAX
from tests.proxy.admin_rig import (
    Run,
    an_admin,
    ids,
    kept,
)
from tests.proxy.rig import NOW_MS, TOPIC
from tests.proxy.transports import Maker


def test_finding_messages(make: Maker, run: Run) -> None:
    """By id or by key, within a limit."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            for request in (
                pb.FindMessagesRequest(topic=TOPIC, message_id="m"),
                pb.FindMessagesRequest(topic=TOPIC, key="k", limit=5),
            ):
                page = await admin.ask("FindMessages", request, pb.PeekResponse.FromString)
                assert (ids(page), list(page.messages[0].keys), dict(page.next)) == (["id-0-3"], ["k"], {})
            assert admin.port.of("find") == [(TOPIC, "m", "", 32), (TOPIC, "", "k", 5)]

    run(scenario())


def test_dead_letters(make: Maker, run: Run) -> None:
    """They can be listed, and replayed: all, or some."""

    async def scenario() -> None:
        async with an_admin(make) as admin:
            page = await admin.ask("ListDeadLetters", pb.ListDeadLettersRequest(group="g"), pb.PeekResponse.FromString)
            assert [message.topic for message in page.messages] == ["%DLQ%g"]
            for chosen in ([], ["id-1", "id-2"]):
                request = pb.ReplayDeadLettersRequest(group="g", message_ids=chosen)
                answer = await admin.ask("ReplayDeadLetters", request, pb.ReplayDeadLettersResponse.FromString)
                assert answer.replayed == 4
            assert admin.port.of("replay") == [("g", ()), ("g", ("id-1", "id-2"))]

    run(scenario())


def test_timers(make: Maker, run: Run) -> None:
    """They are listed, one is shown, one is cancelled; an answer stays small, and has one at least."""

    async def scenario() -> None:
        async with an_admin(make) as admin:

            async def listed(request: pb.ListTimersRequest) -> list[tuple[int, int, str]]:
                page = await admin.ask("ListTimers", request, pb.ListTimersResponse.FromString)
                return [(timer.number, timer.due_ms, timer.message.message_id) for timer in page.timers]

            assert await listed(pb.ListTimersRequest(topic=TOPIC, limit=5)) == [
                (5, NOW_MS + 5, "id-0-5"),
                (7, NOW_MS + 7, "id-0-7"),
            ]
            assert admin.port.of("timers") == [(TOPIC, 5)]
            assert await listed(pb.ListTimersRequest(number=0)) == [(0, NOW_MS + 9, "id-0-0")]
            large = kept(1, body=bytes(PAGE_BYTES_MAX))
            admin.port.answers["timers"] = [Timer(n, NOW_MS, large) for n in (1, 2)]
            assert await listed(pb.ListTimersRequest()) == [(1, NOW_MS, "id-0-1")]
            await admin.ask("CancelTimer", pb.CancelTimerRequest(number=3), pb.CancelTimerResponse.FromString)
            assert admin.port.of("cancel_timer") == [(3,)]

    run(scenario())


def test_transactions(make: Maker, run: Run) -> None:
    """They are listed, one is shown, ended either way; an answer stays small; a lost message is not set."""

    async def scenario() -> None:
        async with an_admin(make) as admin:

            async def listed(request: pb.ListTransactionsRequest) -> list[pb.Transaction]:
                page = await admin.ask("ListTransactions", request, pb.ListTransactionsResponse.FromString)
                return list(page.transactions)

            first, second = await listed(pb.ListTransactionsRequest(topic=TOPIC, limit=5, parked=True))
            assert (first.number, first.topic, first.state, first.checks) == (5, TOPIC, "checked", 1)
            assert (second.due_ms, second.message.message_id) == (NOW_MS + 7, "id-0-7")
            assert admin.port.of("transactions") == [(TOPIC, 5, True)]
            assert [one.number for one in await listed(pb.ListTransactionsRequest(number=0))] == [0]
            large = kept(1, body=bytes(PAGE_BYTES_MAX))
            admin.port.answers["transactions"] = [
                Transaction(n, TOPIC, TransactionState.PARKED, 15, 0, message) for n, message in ((1, None), (2, large))
            ]
            (lost,) = await listed(pb.ListTransactionsRequest())
            assert (lost.number, lost.HasField("message")) == (1, False)
            for commit in (True, False):
                request = pb.ResolveTransactionRequest(number=3, commit=commit)
                await admin.ask("ResolveTransaction", request, pb.ResolveTransactionResponse.FromString)
            assert admin.port.of("end_transaction") == [(3, True), (3, False)]

    run(scenario())
