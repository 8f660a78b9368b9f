"""Who is told fifo = true, and who gets several messages of a message group in one receive."""

import msgspec

from rmq.port import GroupView, ReceiveRequest
from rmq.retry import RetryPolicy
from rmq_proto import v2
from tests.proxy.rig import GROUP, TOPIC, Rig, a_call, receiving, subscribing

FIFO = GroupView(fifo=True, attempts_max=17, retry=RetryPolicy())


def told(rig: Rig, *, fifo: bool, language: str = "JAVA") -> bool:
    """What a client's settings are answered, where the group's topics are all FIFO or not."""
    rig.broker.view = msgspec.structs.replace(FIFO, fifo=fifo)
    return rig.tell(subscribing(TOPIC), a_call(x_mq_language=language)).settings.subscription.fifo


def gets_several(rig: Rig, language: str = "JAVA", attempt_id: str = "") -> bool:
    """Whether a receive of that client may bring several messages of a group."""
    request = receiving()
    request.attempt_id = attempt_id
    rig.receive(request, a_call(x_mq_language=language))
    wanted = rig.broker.of("receive")[-1][0]
    assert isinstance(wanted, ReceiveRequest)
    assert wanted.attempt_id == attempt_id
    return wanted.fifo


def test_settings_say_fifo_where_the_broker_does_for_the_topics_of_the_client() -> None:
    """The broker is asked with the topics that the settings name; then messages of a group may come together."""
    rig = Rig()
    assert told(rig, fifo=True)
    assert rig.broker.of("group") == [(GROUP, TOPIC)]
    assert gets_several(rig, attempt_id="x")


def test_a_client_that_told_no_settings_gets_one_of_each_group() -> None:
    """As one that was told fifo = false."""
    rig = Rig()
    assert not gets_several(rig)
    rig = Rig()
    assert not told(rig, fifo=False)
    assert not gets_several(rig)


def test_the_first_answer_stays() -> None:
    """A consumer that started before its topic was FIFO has chosen how it consumes, and settings are sent again."""
    rig = Rig()
    assert not told(rig, fifo=False)
    assert not told(rig, fifo=True)
    assert not gets_several(rig)


def test_a_client_that_was_there_before_its_first_settings_gets_one_of_each_group() -> None:
    """It outlived a start of the server, which may have told it otherwise."""
    rig = Rig()
    assert not gets_several(rig)
    assert told(rig, fifo=True)
    assert told(rig, fifo=True)
    assert not gets_several(rig)


def test_go_gets_one_of_each_group() -> None:
    """Its push consumer goes on with the next message while it retries one."""
    rig = Rig()
    assert told(rig, fifo=True, language="GO")
    assert not gets_several(rig, language="GO")


def test_a_fifo_topic_is_assigned_queue_by_queue() -> None:
    """As Apache does: a client has a receive under way for each of them, and each brings messages of all queues."""
    rig = Rig()
    rig.broker.view = FIFO
    request = v2.QueryAssignmentRequest(topic=v2.Resource(name=TOPIC), group=v2.Resource(name=GROUP))
    request.endpoints.addresses.add(host="h", port=1)
    request.endpoints.scheme = v2.IPv4
    answer = rig.ask(v2.QueryAssignmentResponse.FromString, "QueryAssignment", request)
    assert rig.broker.of("group") == [(GROUP, TOPIC)]
    queues = [one.message_queue.id for one in answer.assignments]
    assert queues == list(range(len(queues)))
    assert len(queues) > 1
