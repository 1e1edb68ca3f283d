"""What a cluster says of a process that was killed reaches no caller: neither a traceback nor an address."""

from __future__ import annotations

import grpc

from onnx_attribution.client.errors import from_rpc_error
from onnx_attribution.errors import NotReady

RAY = """The actor died unexpectedly before finishing this task.
\tclass_name: ServeReplica:default:Server
\tpid: 4711
\tip: 10.0.0.5
Traceback (most recent call last):
  File "/opt/ray/serve/_private/proxy.py", line 3, in send
"""


class Ended(grpc.RpcError):  # type: ignore[misc]
    """A call whose process is gone, as Ray's proxy ends it: INTERNAL, without details of ours."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.INTERNAL

    def details(self) -> str:
        return RAY

    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()


def test_the_words_of_a_lost_call_are_our_own() -> None:
    found = from_rpc_error(Ended())
    assert isinstance(found, NotReady)  # asked again by the client
    assert found.message == "the call was lost: the process that answered it has ended"
    assert not found.metadata
