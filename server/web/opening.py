"""Opens the page in the browser, without its key among the arguments of a program, which every user can read."""

from __future__ import annotations

import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def in_browser(url: str) -> Iterator[None]:
    """The browser is given a file that leads to the address; this user alone can read it, until the end."""
    with TemporaryDirectory(prefix="onnx-attribution-open-") as folder:
        file, address = Path(folder) / "page.html", escape(url)
        file.touch(mode=0o600)
        file.write_text(
            f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={address}">'
            f'<title>onnx-attribution</title><a href="{address}">Open the page</a>\n',
            encoding="utf-8",
        )
        webbrowser.open(file.as_uri())
        yield
