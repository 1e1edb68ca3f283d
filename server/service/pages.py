"""Long lists in pages."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Sequence
from typing import TypeVar

from onnx_attribution.errors import InvalidArgument, Reason

Item = TypeVar("Item")


def page(items: Sequence[Item], size: int, limit: int, token: str, query: str) -> tuple[Sequence[Item], str]:
    """A page and the token of the next; a token holds for the query that it came from."""
    if size < 0:
        message = f"must be at least 0, not {size}"
        raise InvalidArgument(f"page_size {message}", violations={"page_size": message})
    mark = f"{zlib.crc32(query.encode()):08x}"
    start = 0
    if token:
        try:
            text, found = base64.urlsafe_b64decode(token).decode().split(".")
            start = int(text)
        except (binascii.Error, UnicodeDecodeError, ValueError):
            found = ""
        if found != mark or start <= 0:
            raise InvalidArgument("page_token is not one of this query", reason=Reason.PAGE_TOKEN_INVALID)
    end = start + min(size, limit)
    following = base64.urlsafe_b64encode(f"{end}.{mark}".encode()).decode() if end < len(items) else ""
    return items[start:end], following
