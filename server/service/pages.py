"""Long lists in pages."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from onnx_attribution.errors import InvalidArgument, Reason

Item = TypeVar("Item")
MAX_BYTES = 1 << 20
"""Of a page: clients refuse messages of more than 4 MiB unless they are told otherwise."""


def page(
    items: Sequence[Item],
    to_message: Callable[[Item], Any],
    request: Any,
    sizes: tuple[int, int],
    query: str = "",
) -> tuple[list[Any], str]:
    """The messages of a page and the token of the next; a token holds for the query that it came from.

    `request` says its page_size and page_token; `sizes` are that of a page by default, and the largest. A page of many
    bytes ends earlier.
    """
    if request.page_size < 0:
        message = f"must be at least 0, not {request.page_size}"
        raise InvalidArgument(f"page_size {message}", violations={"page_size": message})
    mark = f"{zlib.crc32(query.encode()):08x}"
    start = _start(request.page_token, mark) if request.page_token else 0
    default, most = sizes
    found: list[Any] = []
    taken = 0
    for item in items[start : start + min(request.page_size or default, most)]:
        message = to_message(item)
        taken += message.ByteSize()
        if found and taken > MAX_BYTES:
            break
        found.append(message)
    end = start + len(found)
    return found, base64.urlsafe_b64encode(f"{end}.{mark}".encode()).decode() if end < len(items) else ""


def _start(token: str, mark: str) -> int:
    """Where a token says that its page begins. Raises: InvalidArgument: it is not one of the query with this mark."""
    try:
        text, found = base64.urlsafe_b64decode(token).decode().split(".")
        start = int(text)
    except (binascii.Error, UnicodeDecodeError, ValueError):
        start, found = 0, ""
    if found != mark or start <= 0:
        raise InvalidArgument("page_token is not one of this query", reason=Reason.PAGE_TOKEN_INVALID)
    return start
