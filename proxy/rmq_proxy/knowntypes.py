"""Which message types a client can be told of: some clients refuse a route that names a type they do not know.

Java and C# clients raise an error for the whole topic then, even where they only consume. All others pass over it.
Versions are those of apache/rocketmq-clients that first have the type, by its tags.
"""

import re
from collections.abc import Sequence

from rmq.message import MessageType
from rmq_proxy.caller import CLIENT_VERSION, LANGUAGE
from rmq_proxy.rpc import Call

SINCE: dict[str, dict[MessageType, tuple[int, ...]]] = {
    "JAVA": {MessageType.PRIORITY: (5, 2, 0), MessageType.LITE: (5, 1, 0)},
    "DOTNET": {MessageType.PRIORITY: (5, 2, 1), MessageType.LITE: (5, 2, 1)},
}
_VERSION = re.compile(r"(\d{1,9})\.(\d{1,9})\.(\d{1,9})", re.ASCII)


def known(kinds: Sequence[MessageType], call: Call) -> Sequence[MessageType]:
    """Those of `kinds` that the caller's client knows; a version that cannot be read is an old one."""
    since = SINCE.get(call.header(LANGUAGE).upper())
    if since is None:
        return kinds
    found = _VERSION.match(call.header(CLIENT_VERSION))
    version = tuple(map(int, found.groups())) if found else ()
    return [kind for kind in kinds if version >= since.get(kind, ())]
