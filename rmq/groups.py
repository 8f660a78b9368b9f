"""Consumer groups: which there are, how they come to be, how often a message is tried."""

from rmq.config import AS_IS, GROUP_FLAGS, Config, GroupFlags
from rmq.errors import ClientError, Code
from rmq.port import GroupView
from rmq.retry import RetryPolicy
from rmq_store.journal import GroupPut
from rmq_store.store import Store

GROUP_BYTES_MAX = 120  # RocketMQ's limit; %RETRY%<group> then is a topic name of at most 127


class Groups:
    """Policy over the store's table of groups."""

    def __init__(self, store: Store, config: Config) -> None:
        self._store = store
        self._config = config
        self._dev = config.profile == "dev"
        self.default_retry = RetryPolicy()
        self._views: dict[str, tuple[GroupPut, GroupView]] = {}

    def require(self, name: str) -> GroupView:
        """For a use that makes it in profile dev. Raises CONSUMER_GROUP_NOT_FOUND in profile strict."""
        if name not in self._store.state.groups:
            if not self._dev:
                raise self._missing(name)
            self.make(name, self._config.attempts_max, self.default_retry)
        return self.view(name)

    def _missing(self, name: str) -> ClientError:
        return ClientError(
            Code.CONSUMER_GROUP_NOT_FOUND,
            f"subscription group not exist: {name}. Profile strict makes no group by itself: "
            f"run `rmq group create {name}`, or list it under groups: in the server's config.yaml",
        )

    def make(self, name: str, attempts_max: int, retry: RetryPolicy, flags: GroupFlags = AS_IS) -> None:
        """Makes a group or changes it. Raises ILLEGAL_CONSUMER_GROUP or FORBIDDEN at the limits."""
        groups = self._store.state.groups
        if len(name.encode()) > GROUP_BYTES_MAX:
            raise ClientError(Code.ILLEGAL_CONSUMER_GROUP, f"group name longer than {GROUP_BYTES_MAX} bytes: {name}")
        if name not in groups and len(groups) >= self._config.groups_max:
            raise ClientError(
                Code.FORBIDDEN, f"no more than groups_max = {self._config.groups_max} groups: delete some"
            )
        known = groups.get(name)
        on = (flags_of(known).said() if known is not None else {}) | flags.said()
        put = GroupPut(name, attempts_max, retry.steps_ms, retry.initial_ms, retry.max_ms, retry.multiplier, **on)
        if known != put:
            self._store.apply(put)

    def view(self, name: str) -> GroupView:
        """The group's settings; defaults where profile dev has not made it yet. Raises CONSUMER_GROUP_NOT_FOUND."""
        if name not in self._store.state.groups and not self._dev:
            raise self._missing(name)
        return self.rules(name)

    def rules(self, name: str) -> GroupView:
        """As view, for what the group holds already: a group that is not there has the defaults."""
        put = self._store.state.groups.get(name)
        if put is None:
            return GroupView(False, self._config.attempts_max, self.default_retry)
        known = self._views.get(name)
        if known is None or known[0] is not put:
            known = self._views[name] = (put, GroupView(put.orderly, put.attempts_max, policy(put)))
        return known[1]

    def forget(self, name: str) -> None:
        """It is about to be deleted."""
        self._views.pop(name, None)


def policy(put: GroupPut) -> RetryPolicy:
    """The group's back-off, as it is stored."""
    return RetryPolicy(put.steps_ms, put.initial_ms, put.max_ms, put.multiplier)


def flags_of(put: GroupPut) -> GroupFlags:
    """What the group does and does not, as it is stored."""
    return GroupFlags(**{name: getattr(put, name) for name in GROUP_FLAGS})
