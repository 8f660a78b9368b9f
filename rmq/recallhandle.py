"""A recall handle: which delayed message. Opaque to gRPC clients; RocketMQ's form, since Remoting clients read it.

URL-safe base64 of `v1 topic broker due_ms id`, five words with spaces between (facts: grpc.md 1.10). Our id is
`number:message id`, the number that the timer goes by (rmq_store/timers.py). The table of timers and the timer's record
decide what a handle is worth.
"""

import base64
import binascii
from typing import NamedTuple

from rmq.errors import ClientError, Code

_VERSION = "v1"
_DIGITS_MAX = 18


class RecallHandle(NamedTuple):
    """The fields that a handle carries."""

    topic: str
    broker: str
    due_ms: int
    number: int
    message_id: str

    def text(self) -> str:
        """What the producer gets."""
        words = f"{_VERSION} {self.topic} {self.broker} {self.due_ms} {self.number}:{self.message_id}"
        return base64.urlsafe_b64encode(words.encode()).decode()

    @classmethod
    def parse(cls, text: str) -> "RecallHandle":
        """Raises ILLEGAL_MESSAGE_ID for what is none."""
        try:
            words = base64.b64decode(text, altchars=b"-_", validate=True).decode().split(" ", 4)
        except (binascii.Error, ValueError):
            words = []
        if len(words) != 5 or words[0] != _VERSION:
            raise _garbage()
        number, colon, message_id = words[4].partition(":")
        if not colon or not _is_number(words[3]) or not _is_number(number):
            raise _garbage()
        return cls(words[1], words[2], int(words[3]), int(number), message_id)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _DIGITS_MAX


def _garbage() -> ClientError:
    return ClientError(Code.ILLEGAL_MESSAGE_ID, "recall handle is not one of this server's")
