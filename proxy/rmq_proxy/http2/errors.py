"""What can go wrong in HTTP/2, by what it ends: a stream or the whole connection."""

import enum


class ErrorCode(enum.IntEnum):
    """RFC 9113, section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class PeerError(Exception):
    """The peer broke a rule that holds the connection together: it ends in GOAWAY."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class StreamError(Exception):
    """The peer broke a rule of one stream: that stream ends in RST_STREAM, the others go on.

    `flood` is what it counts as, a name of floods.COUNTED; empty for what comes of a race and costs next to nothing.
    """

    def __init__(self, stream_id: int, code: ErrorCode, text: str, flood: str = "errors") -> None:
        super().__init__(text)
        self.stream_id = stream_id
        self.code = code
        self.text = text
        self.flood = flood
