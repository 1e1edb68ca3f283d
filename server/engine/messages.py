"""What onnxruntime's messages say: whether the memory did not suffice, which operator it lacks, and why in a line."""

from __future__ import annotations

import re

LONGEST = 4000

_MEMORY = re.compile(
    r"failed to allocate|bad_?alloc|alloc_failed|out of memory|available memory of", re.IGNORECASE
)
_NODE = re.compile(
    r".*Non-zero status code returned while running (\S+) node\. Name:'([^']*)' Status Message: "
)
_PLACE = re.compile(
    r"\S+\.(?:cc|cpp|h|cuh?):\d+ (?:(?:[\w:<>*&]+ ){0,3}?[\w:~<>]+\(.*?\)(?: const)?(?: \[with [^\]]*\])? |\w+ )?"
    r"(?:.* was false\. )?"
)


_MISSING = re.compile(
    r"Fatal error: (?P<domain>[\w.-]*):(?P<operator>\w+)\(-?\d+\) is not a registered"
    r"|No Op registered for (?P<standard>\w+) with"
    r"|Could not find an implementation for (?P<kernel>[\w.]+)\(\d+\) node with name '(?P<node>[^']+)'"
)


def is_of_memory(error: Exception) -> bool:
    """Whether the memory did not suffice."""
    return _MEMORY.search(_told(error)) is not None


def missing(error: Exception) -> dict[str, str]:
    """The operator that onnxruntime does not have, and the node where it is one node that it cannot run."""
    found = _MISSING.search(_told(error))
    if found is None:
        return {}
    name = found["operator"] or found["standard"] or found["kernel"]
    return {"domain": found["domain"] or "", "operator": name, "node": found["node"] or ""}


def _told(error: Exception) -> str:
    """A message without the rest of a name that never ends, in which expressions would be sought for as long."""
    return str(error)[:LONGEST]


def text_of(error: Exception) -> str:
    """The first line of an onnxruntime message: the node that failed, and why, without places in its source."""
    line = (_told(error).strip().splitlines() or [type(error).__name__])[0]
    node = _NODE.match(line)
    if node is not None:  # the innermost, where graphs are nested
        line = f"{node[1]} (node {node[2]!r}): {line[node.end() :]}"
    plain = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", _PLACE.sub("", line))
    parts = [word for word in plain.split() if not word.startswith("/")]
    return " ".join(parts)[:300]
