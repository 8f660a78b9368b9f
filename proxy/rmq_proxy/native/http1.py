"""HTTP/1.1, as much as a health probe or a lost browser needs: one request, one answer, then the end. Sans-I/O."""

from functools import partial
from http import HTTPStatus

from rmq.port import Answer
from rmq_proxy.answers import then
from rmq_proxy.native.site import Page, Pages

TOO_LARGE: Page = (431, "text/plain; charset=utf-8", b"the request is too large\n")
BAD: Page = (400, "text/plain; charset=utf-8", b"this is not a request of HTTP/1.1\n")


def answer(data: bytes, bytes_max: int, pages: Pages, peer: str) -> Answer[bytes] | None:
    """What to send before closing; None while the request's head is not whole. Its body is not read."""
    head, end, _ = data.partition(b"\r\n\r\n")
    if len(head) > bytes_max:
        return _encode("GET", TOO_LARGE)
    if not end:
        return None
    words = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return _encode("GET", BAD)
    return then(pages(words[0], words[1], peer), partial(_encode, words[0]))


def _encode(method: str, page: Page) -> bytes:
    status, content_type, body = page
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        f"content-type: {content_type}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + (b"" if method == "HEAD" else body)
