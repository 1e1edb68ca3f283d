"""The reasons of errors: one closed list of words, each with what it means and what would work instead.

An error carries one as `reason`; over gRPC it is the `reason` of google.rpc.ErrorInfo. docs/errors.md shows them all.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self

__all__ = ["Reason"]


class Reason(StrEnum):
    """A reason by its word, with the names of the errors that have it: the word can be relied on, messages may change.

    `Reason(word)` of a word that is not in the list, such as one of a newer server, keeps the word without a meaning.
    """

    errors: tuple[str, ...]
    meaning: str
    instead: str
    status: str

    def __new__(
        cls, word: str, errors: str = "", meaning: str = "", instead: str = "", status: str = ""
    ) -> Self:
        """`errors` are names of classes between spaces; `status` is that of gRPC where the class does not settle it."""
        self = str.__new__(cls, word)
        self._value_ = word
        self.errors, self.meaning, self.instead = tuple(errors.split()), meaning, instead
        self.status = status
        return self

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        self = str.__new__(cls, value)
        self._name_ = self._value_ = value
        self.errors, self.meaning, self.instead, self.status = (), "", "", ""
        return self

    def __reduce_ex__(self, protocol: object) -> tuple[type[Reason], tuple[str]]:
        """By its word: before Python 3.11.4 enums are pickled by names, which words of later versions have not."""
        return Reason, (self.value,)

    # fmt: off

    # --- what is asked for

    PARAMETER_INVALID = (
        "PARAMETER_INVALID", "InvalidArgument",
        "a parameter, an option or a file has a value that cannot be used",
        "take a value that the message lists",
    )
    INPUT_MISSING = (
        "INPUT_MISSING", "InvalidArgument",
        "an input of the model is not given",
        "give an array for each input of the model; `onnx-attribution layers` lists them",
    )
    INPUT_UNKNOWN = (
        "INPUT_UNKNOWN", "InvalidArgument",
        "the model has no input of that name",
        "take one of the names that the message lists",
    )
    INPUT_DUPLICATE = (
        "INPUT_DUPLICATE", "InvalidArgument",
        "the request holds an input twice",
        "send each input once",
    )
    INPUT_INVALID = (
        "INPUT_INVALID", "InvalidArgument",
        "the inputs are no arrays by name, have several faults, or are such that the model does not run on them",
        "mend what the message names: an index out of range, sizes that do not belong together",
    )
    DTYPE_MISMATCH = (
        "DTYPE_MISMATCH", "InvalidArgument",
        "an array has another type than the model takes, or numbers outside of that type",
        "convert the array to the type that the message names",
    )
    SHAPE_MISMATCH = (
        "SHAPE_MISMATCH", "InvalidArgument",
        "an array has another shape than the model takes, or inputs differ in their number of samples",
        "give the shape that the message names, or state where the samples lie (batch_axes, --batch-axis)",
    )
    BYTES_MISMATCH = (
        "BYTES_MISMATCH", "InvalidArgument",
        "a tensor of the wire has other bytes than its type and shape take",
        "send raw little-endian bytes of exactly that type and shape, chunks in order",
    )
    NON_FINITE_INPUT = (
        "NON_FINITE_INPUT", "InvalidArgument",
        "a source holds NaN or infinite numbers, and the method takes differences there",
        "name the other sources, a hidden tensor that is finite, or take a method that takes no differences",
    )
    TARGET_INVALID = (
        "TARGET_INVALID", "InvalidArgument",
        "the target is no tensor of floats of one shape, or its index, region, mask or weights do not fit",
        "name a tensor and an index that the message lists as legal",
    )
    LAYER_INVALID = (
        "LAYER_INVALID", "InvalidArgument",
        "a layer is a constant or no tensor",
        "name a tensor that is computed from the inputs; `onnx-attribution layers` lists them",
    )
    LAYER_AMBIGUOUS = (
        "LAYER_AMBIGUOUS", "InvalidArgument",
        "the name matches several tensors",
        "write one of the full names that the message lists",
    )
    SOURCE_INVALID = (
        "SOURCE_INVALID", "InvalidArgument",
        "a source is a constant or no tensor",
        "name an input, or a tensor that is computed from the inputs",
    )
    BASELINE_INVALID = (
        "BASELINE_INVALID", "InvalidArgument",
        "a baseline or references belong to no source, or have a shape, type or numbers that do not fit",
        "give a number, or an array that broadcasts to the source; References for several",
    )
    GROUPS_INVALID = (
        "GROUPS_INVALID", "InvalidArgument",
        "groups, windows or strides belong to no source, do not fit it, or the method knows none",
        "give integers from 0 of the shape of a sample, or a window no larger than it, to a method that knows them",
    )
    REQUEST_TOO_LARGE = (
        "REQUEST_TOO_LARGE", "InvalidArgument",
        "the request holds more samples or groups than one may",
        "send fewer samples at once, or take larger groups",
    )
    RESULT_TOO_LARGE = (
        "RESULT_TOO_LARGE", "InvalidArgument",
        "the answer would be larger than a message may be",
        "name fewer layers, send fewer samples, or take the stream",
    )
    DEADLINE_TOO_LONG = (
        "DEADLINE_TOO_LONG", "InvalidArgument",
        "the call allows more time than the server does",
        "give a timeout of at most `limit` seconds",
    )
    AUDIT_PROTOCOL = (
        "AUDIT_PROTOCOL", "InvalidArgument",
        "a message of an audit is out of place: no `open` first, a second one, or sequence numbers that do not rise",
        "send `open` once, then items whose sequence numbers rise",
    )
    UPLOAD_DIGEST_MISMATCH = (
        "UPLOAD_DIGEST_MISMATCH", "InvalidArgument",
        "the bytes that came are not those that were announced",
        "send the file's size and sha256 first, then exactly its bytes",
    )
    UPLOADS_OFF = (
        "UPLOADS_OFF", "Unsupported",
        "the server takes no models from clients",
        "put the file into its model directory and call LoadModel, or start the server with uploads",
    )
    PAGE_TOKEN_INVALID = (
        "PAGE_TOKEN_INVALID", "InvalidArgument",
        "the page token does not come from this query",
        "begin again without a token, and leave the other fields as they are from page to page",
    )
    VERSION_EXISTS = (
        "VERSION_EXISTS", "InvalidArgument",
        "two files are the same version of one model",
        "give one of them another name or version",
    )

    # --- what is not there

    NODE_NOT_FOUND = (
        "NODE_NOT_FOUND", "NotFound InvalidArgument",
        "no tensor, node or module has the name, or it is a weight, a constant or inside of a node's graph",
        "take one of the close names; `onnx-attribution layers` lists all",
    )
    MODEL_NOT_FOUND = (
        "MODEL_NOT_FOUND", "NotFound",
        "no model has the name",
        "take one of the close names; ListModels lists all",
    )
    VERSION_NOT_FOUND = (
        "VERSION_NOT_FOUND", "NotFound",
        "the model has no such version",
        "take one that the message lists, or none for the newest",
    )

    # --- the model

    MODEL_LOAD_FAILED = (
        "MODEL_LOAD_FAILED", "ModelError",
        "the model was read but cannot be made ready, such as when no input is found on which it runs",
        "give an example or input shapes; `onnx-attribution check` says what stands in the way",
    )
    MODEL_INVALID = (
        "MODEL_INVALID", "ModelError",
        "the file is not there, is no ONNX model, lacks values, or onnxruntime does not accept it",
        "export the model again, with its external data beside it; onnx.checker says more",
    )
    HEAD_INVALID = (
        "HEAD_INVALID", "ModelError",
        "the head of a classifier is not linear, or what reads its classes could not take more of them",
        "name the last Gemm, MatMul or 1x1 Conv before the scores; the message names the node that stands in the way",
    )
    CARD_INVALID = (
        "CARD_INVALID", "ModelError",
        "the small file beside the model (NAME.toml), or one that it names, cannot be read or does not fit the model",
        "the message names the line or the key: change it there, or take the file away",
    )
    OPSET_UNSUPPORTED = (
        "OPSET_UNSUPPORTED", "ModelError",
        "the file has a newer opset or IR version than can be run",
        "export the model with an older opset, or convert it (onnx.version_converter)",
    )
    PROVIDER_UNAVAILABLE = (
        "PROVIDER_UNAVAILABLE", "ModelError",
        "onnxruntime has no such provider here",
        "take the provider auto or cpu, or install the gpu extra",
    )
    RUNTIME_FAILURE = (
        "RUNTIME_FAILURE", "ModelError",
        "onnxruntime fails when it runs the model, and no input explains it",
        "run the model in plain onnxruntime with the same inputs; report it where that works",
        "INTERNAL",
    )

    # --- what has no derivative

    NO_PATH = (
        "NO_PATH", "NotDifferentiable",
        "nothing leads from the tensor to the target, so that its derivative is zero everywhere",
        "choose a layer before the target, or another target; `layers` lists those between source and target",
    )
    ZERO_DERIVATIVE = (
        "ZERO_DERIVATIVE", "NotDifferentiable check",
        "every way to the target goes through operators that are constant between jumps, compare, or give positions",
        "take the tensor before the named operator as target, or a method without derivatives",
    )
    NOT_FLOAT = (
        "NOT_FLOAT", "NotDifferentiable check",
        "the source, layer or target holds integers, text or truth values; only floats have a derivative",
        "take a float tensor: the embedding's output for tokens, the scores before a final ArgMax",
    )
    NO_RULE = (
        "NO_RULE", "NotDifferentiable check",
        "an operator on the way has no gradient: `onnx-attribution ops` lists those that have one",
        "choose a layer behind the named node, or a method without derivatives",
    )
    NO_SECANT = (
        "NO_SECANT", "NotDifferentiable",
        "DeepLIFT cannot share the change at an operator: several of its inputs move together, or x and x' go "
        "different ways there",
        "use a method of gradients, a layer behind the node, or a reference that goes the way of x",
    )
    INPUT_WITHOUT_RULE = (
        "INPUT_WITHOUT_RULE", "NotDifferentiable",
        "the operator has a gradient, but not at this input: regions, sizes and shapes are not differentiated",
        "keep that input fixed: a source or layer that leads to the operator by another input",
    )
    FORM_WITHOUT_RULE = (
        "FORM_WITHOUT_RULE", "NotDifferentiable",
        "the operator has a gradient, but not with these attributes, sizes or outputs",
        "export the model with the form that the message names, or choose a layer behind the node",
    )
    UNKNOWN_RANK = (
        "UNKNOWN_RANK", "NotDifferentiable",
        "the rank or a size of a tensor cannot be inferred, nor was it seen in a run",
        "declare the shapes in the file (onnx.shape_inference), or state input shapes with --shape",
    )
    RANDOM = (
        "RANDOM", "NotDifferentiable",
        "the operator draws at random, so that two runs are two functions",
        "export the model for inference",
    )
    OLD_OPSET = (
        "OLD_OPSET", "NotDifferentiable",
        "the file stays at an opset that lacks an operator of the backward pass",
        "convert the file to opset 16 or later",
    )
    SEQUENCE = (
        "SEQUENCE", "NotDifferentiable",
        "the value is a list of tensors whose length is known only when the model runs",
        "export the model with stacked tensors in place of lists, or choose a layer behind the node",
    )
    NOT_RUNNABLE = (
        "NOT_RUNNABLE", "check",
        "no input was found on which the model runs, or the program does not run",
        "give an example or input shapes (--shape)",
    )
    NOT_FINITE = (
        "NOT_FINITE", "check",
        "the target or its gradient holds NaN or infinite numbers at the example",
        "give another example; report the model if its outputs are finite there",
    )
    NOT_CONFIRMED = (
        "NOT_CONFIRMED", "check",
        "the gradient differs from the difference of two runs along it",
        "report the model: either a rule is wrong or the function jumps there",
    )

    # --- the server and the call

    SERVER_UNREACHABLE = (
        "SERVER_UNREACHABLE", "NotReady",
        "no server answers at the address, or the connection broke",
        "look whether it runs, at this address, and whether the port can be reached; then try again",
    )
    MODEL_NOT_READY = (
        "MODEL_NOT_READY", "NotReady",
        "the model is being loaded, or requests still run on one that is being unloaded",
        "try again after the delay that the status names (RetryInfo)",
    )
    PROCESS_ENDED = (
        "PROCESS_ENDED", "NotReady",
        "the process that runs the models has ended, as onnxruntime does on some files; another is started",
        "try again; if it ends at the same model each time, that file is the cause",
    )
    CONCURRENT_OPERATION = (
        "CONCURRENT_OPERATION", "NotReady",
        "another model is being loaded, unloaded or uploaded",
        "try again when that is done",
        "ABORTED",
    )
    DRAINING = (
        "DRAINING", "NotReady",
        "the server is shutting down and takes no more calls",
        "try again: another server, or this one once it is back",
    )
    ENGINE_CLOSED = (
        "ENGINE_CLOSED", "NotReady",
        "the engine is closed",
        "ask before `close`, or make another engine",
    )
    CLIENT_CLOSED = (
        "CLIENT_CLOSED", "NotReady",
        "the client is closed",
        "ask before `close`, or make another client",
    )
    QUEUE_FULL = (
        "QUEUE_FULL", "Overloaded",
        "as many calls as may are running or waiting",
        "try again after the delay that the status names (RetryInfo)",
    )
    TOO_MANY_STREAMS = (
        "TOO_MANY_STREAMS", "Overloaded",
        "as many streams as may are running",
        "try again later, or end a stream",
    )
    TOO_MANY_AUDITS = (
        "TOO_MANY_AUDITS", "Overloaded",
        "as many audits as may are running",
        "try again later, or end an audit",
    )
    RATE_LIMITED = (
        "RATE_LIMITED", "Overloaded",
        "as many calls of this caller are running as one caller may have",
        "wait for one of them, or try again after the delay that the status names (RetryInfo)",
    )
    DEVICE_OUT_OF_MEMORY = (
        "DEVICE_OUT_OF_MEMORY", "Overloaded",
        "the memory does not suffice for a run",
        "send fewer samples at once, or run on a device with more memory",
    )
    MESSAGE_TOO_LARGE = (
        "MESSAGE_TOO_LARGE", "MessageTooLarge",
        "a message is over the limit of the channel",
        "send fewer samples at once, or raise the server's max_request_mib",
    )
    DEADLINE_TOO_SHORT = (
        "DEADLINE_TOO_SHORT", "DeadlineExceeded",
        "the time ran out before there was a result",
        "allow more time, or take fewer steps; a stream answers with what there is",
    )
    CANCELLED = (
        "CANCELLED", "Cancelled",
        "the caller gave up",
        "ask again",
    )
    CREDENTIALS_INVALID = (
        "CREDENTIALS_INVALID", "Unauthenticated",
        "the credentials are not accepted",
        "send those that the server or the proxy before it expects",
    )
    CREDENTIALS_MISSING = (
        "CREDENTIALS_MISSING", "Unauthenticated",
        "there are no credentials",
        "give the client a token (token=, --token) or a certificate",
    )
    PERMISSION_DENIED = (
        "PERMISSION_DENIED", "PermissionDenied",
        "the role does not allow the call",
        "ask whoever runs the server",
    )
    METHOD_UNSUPPORTED = (
        "METHOD_UNSUPPORTED", "Unsupported",
        "the server does not know the call, the method, a field of the request or its value",
        "take what the message lists, or a server of the client's version",
    )
    INTERNAL = (
        "INTERNAL", "ServerBug",
        "an unexpected failure; only its incident id is told",
        "report it with the incident id, by which the server's log finds it",
    )
    # fmt: on
