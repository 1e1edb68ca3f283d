"""Scenarios: requests that are wrong, messages that are none, and clients that die."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import grpc
import numpy as np

from benchmarks.soaking.world import World, quantile, until
from benchmarks.table import Figure, least, most
from onnx_attribution.client import Client, messages
from onnx_attribution.proto import attribution_pb2 as pb

IMAGE = np.ones((1, 1, 16, 16), np.float32)
NEVER = {"INTERNAL", "UNKNOWN"}
PREFIX = f"/{pb.DESCRIPTOR.package}."
UNARY = {
    f"{PREFIX}{service.name}/{method.name}"
    for service in pb.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if not method.client_streaming and not method.server_streaming
}
ATTRIBUTE, PREDICT = f"{PREFIX}AttributionService/Attribute", f"{PREFIX}AttributionService/Predict"
STREAM = f"{PREFIX}AttributionService/StreamAttribute"
AUDIT = f"{PREFIX}AttributionService/Audit"


def valid() -> pb.AttributeRequest:
    request: pb.AttributeRequest = messages.to_request(
        "cnn", {"x": IMAGE}, method="integrated_gradients", target=1, layers=["r1", "c2"], steps=8,
        baselines={"x": np.zeros_like(IMAGE)},
    )  # fmt: skip
    return request


def _huge(request: pb.AttributeRequest, random: Random) -> None:
    request.inputs[0].shape[:] = [1 << random.randrange(20, 62)] * 4


def _short(request: pb.AttributeRequest, random: Random) -> None:
    request.inputs[0].raw = os.urandom(random.randrange(64))


def _negative(request: pb.AttributeRequest, random: Random) -> None:
    request.inputs[0].shape[random.randrange(4)] = -random.randrange(1, 1 << 40)


def _unknown(request: pb.AttributeRequest, random: Random) -> None:
    request.model = "".join(chr(random.randrange(32, 0x2000)) for _ in range(random.choice((1, 20, 5000))))


def _path(request: pb.AttributeRequest, random: Random) -> None:
    request.model = random.choice(
        ("../cnn", "/etc/passwd", "models/../../x", "cnn/versions/99999999999999999999")
    )


def _layers(request: pb.AttributeRequest, random: Random) -> None:
    request.layers[:] = ["[" * 50 + "*" * random.randrange(2000)] * random.randrange(1, 50)


def _many_steps(request: pb.AttributeRequest, random: Random) -> None:
    request.integrated_gradients.steps = random.choice((-1, 1 << 30))


def _type(request: pb.AttributeRequest, random: Random) -> None:
    request.inputs[0].datatype = random.choice(("BYTES", "FP16", "", "x" * 1000, "FP64"))


def _missing(request: pb.AttributeRequest, random: Random) -> None:
    request.ClearField(random.choice(("inputs", "model", "integrated_gradients")))


def _twice(request: pb.AttributeRequest, random: Random) -> None:
    request.inputs.extend([request.inputs[0]] * random.randrange(1, 20))


def _target(request: pb.AttributeRequest, random: Random) -> None:
    del request.targets[:]
    request.target.CopyFrom(
        messages.to_request("cnn", {"x": IMAGE}, target=random.choice((10, 1 << 40, -11))).target
    )


def _samples(request: pb.AttributeRequest, _: Random) -> None:
    request.inputs[0].CopyFrom(messages.to_request("cnn", {"x": np.repeat(IMAGE, 300, 0)}).inputs[0])


def _baseline(request: pb.AttributeRequest, random: Random) -> None:
    request.baselines["y" * random.randrange(1, 300)].CopyFrom(request.baselines["x"])


HOSTILE: tuple[Callable[[pb.AttributeRequest, Random], None], ...] = (
    _huge, _short, _negative, _unknown, _path, _layers, _many_steps, _type, _missing, _twice, _target, _samples,
    _baseline,
)  # fmt: skip


def hostile(world: World) -> Iterator[Figure]:
    """Requests that are wrong on purpose, a healthy one after each."""
    codes, healthy, count = Counter[str](), 0, world.count(100, 40)
    with world.server() as server, Client(server.address) as client, _channel(server.address) as channel:
        reference = client.attribute("cnn", IMAGE, method="integrated_gradients", target=1, steps=8)

        def one(number: int) -> None:
            nonlocal healthy
            request = valid()
            HOSTILE[number % len(HOSTILE)](request, world.random)
            codes[_code(channel.unary_unary(ATTRIBUTE), request.SerializeToString())] += 1
            found = client.attribute("cnn", IMAGE, method="integrated_gradients", target=1, steps=8)
            healthy += all(
                np.array_equal(found.layers[x].values, reference.layers[x].values) for x in found.layers
            )

        numbers = itertools.count()

        def one_of_each() -> None:
            for _ in HOSTILE:
                one(next(numbers))

        world.settle(server, one_of_each)
        before, healthy = server.mebibytes, 0
        codes.clear()
        for number in range(count):
            one(number)
        yield Figure("hostile requests", "INTERNAL, UNKNOWN or lost", _bad(codes), most(0), str(dict(codes)))
        yield Figure("hostile requests", "wrong answers after one", count - healthy, most(0))
        yield Figure(
            "hostile requests",
            "MiB that stay",
            server.mebibytes - before,
            most(1),
            f"{count} after {next(numbers)} at which it stood still; {before:.0f} MiB before",
        )


def fuzz(world: World) -> Iterator[Figure]:
    """Random bytes and valid messages in which some bytes are others, to every call."""
    random, codes, slow = world.random, Counter[str](), list[float]()
    seeds = _seeds()
    with world.server(unary_seconds=2) as server, _channel(server.address) as channel:
        done, count, paths = 0, world.count(10_000, 200), [*seeds]
        end = time.monotonic() + max(world.seconds, 60)
        while done < count and time.monotonic() < end and server.is_alive:
            path = random.choice(paths)
            data = (
                random.randbytes(random.randrange(300))
                if random.random() < 0.3
                else mutated(seeds[path], random)
            )
            began = time.monotonic()
            if path == AUDIT:
                code = _stream_code(channel.stream_stream(path)(iter([seeds[AUDIT], data]), timeout=2))
            elif path == STREAM:
                code = _stream_code(channel.unary_stream(path)(data, timeout=2))
            else:
                code = _code(channel.unary_unary(path), data, 2)
            codes[code] += 1
            slow.append(time.monotonic() - began)
            done += 1
        yield Figure(
            "fuzzed messages", "INTERNAL, UNKNOWN or lost", _bad(codes), most(0), f"{done}: {dict(codes)}"
        )
        yield Figure("fuzzed messages", "sent", done, least(count))
        yield Figure("fuzzed messages", "slowest s", quantile(slow, 1), most(3))
        yield Figure("fuzzed messages", "exits", not server.is_alive, most(0))
        with Client(server.address) as client:
            client.predict("cnn", IMAGE, timeout=10)


def _seeds() -> dict[str, bytes]:
    """A valid message of each call; what changes the models is left out."""
    request = valid()
    opened = pb.AuditRequest(open=pb.AuditOpen(request=request))
    opened.open.request.ClearField("inputs")
    named = pb.GetModelRequest(model="cnn").SerializeToString()
    seeds = dict.fromkeys((path for path in UNARY if "Load" not in path and "Unload" not in path), named)
    return seeds | {
        ATTRIBUTE: request.SerializeToString(),
        STREAM: request.SerializeToString(),
        PREDICT: pb.PredictRequest(model="cnn", inputs=request.inputs, outputs=["y"]).SerializeToString(),
        AUDIT: opened.SerializeToString(),
    }


def mutated(data: bytes, random: Random) -> bytes:
    """Bytes changed, cut out, doubled or cut off; mostly near the ends, where the small fields are."""
    found = bytearray(data)
    for _ in range(random.randrange(1, 5)):
        near = random.randrange(min(len(found), 200) or 1)
        place = near if random.random() < 0.5 else max(len(found) - 1 - near, 0)
        match random.randrange(4):
            case 0 if found:
                found[place] = random.randrange(256)
            case 1:
                del found[place : place + random.randrange(1, 9)]
            case 2:
                found[place:place] = found[place : place + random.randrange(1, 33)]
            case _ if random.random() < 0.2:
                del found[place:]
    return bytes(found)


def killed_client(world: World) -> Iterator[Figure]:
    """A client that is killed in mid-stream leaves nothing that runs."""
    program = (
        "import sys, numpy as np; from onnx_attribution.client import Client\n"
        "stream = Client(sys.argv[1]).stream('endless', {'x': np.ones((1, 2), np.float32)},"
        " method='deeplift_rescale', target=0)\n"
        "next(stream); print('open', flush=True); next(stream)"
    )
    with world.server(workers=1, heartbeat_seconds=0.05) as server, Client(server.address) as client:
        found = []
        for _ in range(world.count(3, 1)):
            child = subprocess.Popen([sys.executable, "-c", program, server.address], stdout=subprocess.PIPE)
            try:
                assert child.stdout is not None
                assert child.stdout.readline() == b"open\n"
                time.sleep(0.1)
            finally:
                child.kill()
                child.communicate()
            found.append(until(lambda: server.busy(0.1) < 0.3, 10))
        client.predict("sine", {"x": np.ones((1, 2), np.float32)}, timeout=10)
        yield Figure("killed client", "s until the core is free", max(found), most(1))


def _channel(address: str) -> Any:
    return grpc.insecure_channel(address, (("grpc.enable_retries", 0),))


def _code(call: Any, data: bytes, timeout: float = 30) -> str:
    try:
        call(data, timeout=timeout)
        return "OK"
    except grpc.RpcError as error:
        return str(error.code().name)


def _stream_code(call: Any) -> str:
    try:
        for _ in call:
            pass
        return "OK"
    except grpc.RpcError as error:
        return str(error.code().name)


def _bad(codes: Counter[str]) -> int:
    """How many calls ended as none may; UNAVAILABLE is what a server that has exited answers."""
    return sum(codes[code] for code in (*NEVER, "UNAVAILABLE"))
