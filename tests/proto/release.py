"""Writes the protocol as released: from then on a change that breaks a client fails a test."""

from __future__ import annotations

from tests.proto.test_contract import RELEASED, current

if __name__ == "__main__":
    RELEASED.write_bytes(current().SerializeToString(deterministic=True))
