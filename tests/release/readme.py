"""The README as a package index shows it, where no file lies beside it: `python -m tests.release.readme FILE [URL]`.

URL is where the tree can be read, as `https://HOST/OWNER/NAME`. Links to files lead there, to the version's tag.
Without it only their words are left, and no pictures.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)")


def shown(text: str, url: str = "") -> str:
    """The text with links that lead somewhere from anywhere."""

    def link(found: re.Match[str]) -> str:
        picture, words, target = found.groups()
        if not url:
            return "" if picture else words
        return f"{picture}[{words}]({url.rstrip('/')}/{'raw' if picture else 'blob'}/v{VERSION}/{target})"

    return LINK.sub(link, text)


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(shown(file.read_text(), *sys.argv[2:]))
