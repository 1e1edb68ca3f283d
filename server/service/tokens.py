"""The token file: who may call, and as what. It holds SHA-256 digests, so that who reads it can not call.

    # NAME  ROLE       WHAT
    alice   attribute  sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    ci      admin      certificate

A caller is known by a token, or by the common name of the certificate that it connects with.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from onnx_attribution.errors import InvalidArgument

__all__ = ["Caller", "Role", "Tokens", "add_token", "read_tokens"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")
DIGEST = re.compile(r"sha256:([0-9a-fA-F]{64})")
CERTIFICATE = "certificate"


class Role(StrEnum):
    """What a caller may do; each may do what those before it may."""

    READ = "read"
    ATTRIBUTE = "attribute"
    ADMIN = "admin"

    def covers(self, other: Role) -> bool:
        """Whether this role may do what the other one may."""
        order = list(Role)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True)
class Caller:
    """Who calls: the name that belongs to a token or a certificate, or else the address."""

    name: str
    role: Role


@dataclass(frozen=True)
class Tokens:
    """Callers by the digests of their tokens, and by the names of their certificates."""

    by_digest: Mapping[str, Caller] = field(default_factory=dict)
    by_certificate: Mapping[str, Caller] = field(default_factory=dict)

    def of_token(self, token: str) -> Caller | None:
        # The digest is looked up, not the token: how long that takes tells nothing about any token.
        return self.by_digest.get(_digest(token))

    def of_certificate(self, name: str) -> Caller | None:
        return self.by_certificate.get(name)


def read_tokens(file: Path) -> Tokens:
    """The callers of a file. Raises: InvalidArgument, naming the line that is none."""
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise InvalidArgument(f"the token file {file.name!r} cannot be read") from None
    by_digest, by_certificate = dict[str, Caller](), dict[str, Caller]()
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        what = f"line {number} of the token file {file.name!r}"
        if len(words) != 3:
            raise InvalidArgument(
                f"{what} is not of the form NAME ROLE sha256:DIGEST, or NAME ROLE certificate"
            )
        caller = Caller(_name(words[0], what), _role(words[1], what))
        digest = DIGEST.fullmatch(words[2])
        if digest is None and words[2] != CERTIFICATE:  # which may be a token: not told
            raise InvalidArgument(
                f"{what} ends neither in sha256: and 64 hexadecimal digits nor in {CERTIFICATE!r}; "
                "`onnx-attribution token` writes such lines"
            )
        known, key = (by_certificate, caller.name) if digest is None else (by_digest, digest[1].lower())
        if key in known:
            raise InvalidArgument(f"{what} is there twice")
        known[key] = caller
    return Tokens(by_digest, by_certificate)


def add_token(file: Path, name: str, role: str) -> str:
    """Adds a line with a new token to the file, which is made if need be, and returns the token.

    Raises: InvalidArgument, for a name, a role or a file that cannot be used.
    """
    line_of = (_name(name, "the token"), _role(role, "the token"))
    if file.exists():
        read_tokens(file)
    token = secrets.token_urlsafe(32)
    try:
        with open(
            os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a", encoding="utf-8"
        ) as opened:
            opened.write(f"{line_of[0]} {line_of[1]} sha256:{_digest(token)}\n")
    except OSError as error:
        raise InvalidArgument(f"cannot write {str(file)!r}: {error.strerror}") from None
    return token


def _name(name: str, what: str) -> str:
    if not NAME.fullmatch(name):
        raise InvalidArgument(
            f"{what}: {name!r} is no name: letters, digits, '.', '_', '@', '-', no sign first"
        )
    return name


def _role(role: str, what: str) -> Role:
    try:
        return Role(role)
    except ValueError:
        raise InvalidArgument(f"{what}: {role!r} is no role; there are: {', '.join(Role)}") from None


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
