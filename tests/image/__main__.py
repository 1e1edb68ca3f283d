"""The image without a container engine: `python -m tests.image [--keep]`, or `make image`.

Takes the steps of deploy/Dockerfile's target `cpu` (the wheel is built, it and the locked packages are installed into a
clean prefix), starts its entry point as the user of the image with models and file system to read only, waits for its
health check, asks for an attribution, and sends SIGTERM while a stream is open: that ends well, and the status is 0.
As root, the user is changed and the file system is read-only; others start the server as they are.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from onnx_attribution import Client
from tests.image.dockerfile import ROOT, Stage, stages
from tests.image.steps import Steps

DIGITS = ROOT / "tests" / "data" / "digits"
SEALED = (
    "mount -o remount,bind,ro / && mount -t tmpfs -o mode=1777 tmpfs /tmp && cd {cwd} && "
    'exec setpriv --reuid={uid} --regid={gid} --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all "$@"'
)
"""What a container engine does for --read-only --tmpfs /tmp --user --cap-drop ALL --security-opt no-new-privileges."""


def main() -> None:
    keep = "--keep" in sys.argv[1:]
    place = Path(tempfile.mkdtemp(prefix="onnx-attribution-image-", dir="/var/tmp"))
    try:
        check(place)
    finally:
        if keep:
            print(f"kept: {place}")
        else:
            shutil.rmtree(place)


def check(place: Path) -> None:
    """Builds and tries the image below a folder. Raises: SystemExit, AssertionError with what went wrong."""
    place.chmod(0o755)
    prefix = place / "opt" / "onnx-attribution"
    found = stages({"PREFIX": str(prefix)})
    cpu = found["cpu"]
    steps = Steps(found, ROOT, place, interpreter(), lambda line: print(line, flush=True))
    steps.build("cpu")
    size = sum(file.stat().st_size for file in prefix.rglob("*") if file.is_file() and not file.is_symlink())
    print(
        f"installed: {size / 2**20:.0f} MiB in {len([*prefix.glob('lib/*/site-packages/*.dist-info')])} packages"
    )

    models = place / "models"
    (models / "digits").mkdir(parents=True)
    shutil.copy(DIGITS / "digits.onnx", models / "digits" / "model.onnx")
    for folder in (models / "digits", models):
        folder.chmod(0o555)
    try:
        serve(cpu, steps.environment(cpu), models)
    finally:
        for folder in (models, models / "digits"):
            folder.chmod(0o755)  # so that they can be removed


def serve(stage: Stage, environment: dict[str, str], models: Path) -> None:
    """Starts the image's entry point, asks it, and ends it."""
    entry = [
        *stage.words("ENTRYPOINT"),
        *(word.replace("/models", str(models)) for word in stage.words("CMD")),
    ]
    # A test listens on loopback, on a free port.
    for name in ("", "HTTP_"):
        environment[f"ONNX_ATTRIBUTION_{name}HOST"] = "127.0.0.1"
        environment[f"ONNX_ATTRIBUTION_{name}PORT"] = str(free_port())
    address = f"127.0.0.1:{environment['ONNX_ATTRIBUTION_PORT']}"
    began = time.monotonic()
    with started(entry, stage, environment, models) as server:
        wait_for_health(server, stage.words("HEALTHCHECK"), environment)
        print(f"health check green after {time.monotonic() - began:.1f} s")
        uid = os.stat(f"/proc/{server.pid}").st_uid
        if os.getuid() == 0:
            assert uid == int(stage.last("USER").partition(":")[0]), f"the server runs as {uid}"
            status = Path(f"/proc/{server.pid}/status").read_text()
            assert "CapEff:\t0000000000000000" in status
            assert "NoNewPrivs:\t1" in status
        with np.load(DIGITS / "digits.npz") as data:
            image = data["images"][:1]
        with Client(address) as client:
            answer = client.attribute("digits", image, method="neuron_ig", layers=["conv2"], target=7)
            layer = answer.layers["conv2"]
            assert layer.values.shape == (1, 32, 8, 8)
            print(f"answered: sum {layer.sum[0]:.4f}, residual {layer.residual[0]:.4f}, as user {uid}")
            with client.stream("digits", image, method="neuron_ig", layers=["image"], target=7) as stream:
                events = iter(stream)
                kinds = [type(next(events)).__name__]
                server.send_signal(signal.SIGTERM)  # the stream is open: it is to end well
                kinds += [type(event).__name__ for event in events]
        assert kinds[-1] == "Completed", kinds
        began = time.monotonic()
        code = server.wait(timeout=40)
        assert code == 0, f"SIGTERM ended the server with status {code}"
        print(f"drained: the stream had {', '.join(kinds)}; status 0 after {time.monotonic() - began:.1f} s")


@contextmanager
def started(
    entry: list[str], stage: Stage, environment: dict[str, str], models: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """The process of the entry point, in the models' folder, with nothing to write to but /tmp."""
    user, _, group = stage.last("USER").partition(":")
    command = entry
    if os.getuid() == 0 and sealable():
        script = SEALED.format(cwd=models, uid=user, gid=group)
        command = ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", script, "sh", *entry]
        print(
            f"started as {user}:{group} without capabilities, on a read-only file system with a /tmp of its own"
        )
    elif os.getuid() == 0:
        sys.exit("root can make no mount namespace here: run this as another user")
    else:
        print("started as the user who runs this, in a read-only folder")
    program = shutil.which(entry[0], path=environment["PATH"])
    assert program is not None, f"{entry[0]} is not on the image's PATH"
    command[command.index(entry[0])] = program
    server = subprocess.Popen(command, cwd=models, env=environment)
    try:
        yield server
    finally:
        if server.poll() is None:
            server.kill()
        server.wait()


def wait_for_health(server: subprocess.Popen[bytes], command: list[str], environment: dict[str, str]) -> None:
    """Waits until the image's health check has status 0, for a minute at most."""
    program = shutil.which(command[0], path=environment["PATH"])
    assert program is not None
    end = time.monotonic() + 60
    while True:
        assert server.poll() is None, f"the server ended with status {server.returncode}"
        checked = subprocess.run([program, *command[1:]], env=environment, capture_output=True, text=True)
        if checked.returncode == 0:
            assert checked.stdout == "SERVING\n"
            return
        if time.monotonic() > end:
            sys.exit(f"the health check stays red: {checked.stderr}")


def interpreter() -> Path:
    """A Python that every user may run, of the version of the image's base or newer."""
    names = [sys.executable, "/usr/local/bin/python3.11", "/usr/bin/python3.11", "/usr/bin/python3"]
    for name in names:
        real = Path(name).resolve()
        reachable = real.exists() and all(parent.stat().st_mode & stat.S_IXOTH for parent in real.parents)
        if os.getuid() != 0 and real.exists():
            reachable = True
        code = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))"
        if reachable and subprocess.run([real, "-c", code], capture_output=True).returncode == 0:
            return real
    sys.exit("no Python 3.11 or newer that an unprivileged user may run; install one below /usr")


def sealable() -> bool:
    """Whether this process can make a mount namespace whose root is read-only."""
    tools = shutil.which("unshare") and shutil.which("setpriv")
    command = ["unshare", "--mount", "--propagation", "private", "mount", "-o", "remount,bind,ro", "/"]
    return bool(tools) and subprocess.run(command, capture_output=True).returncode == 0


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
