"""Both distributions as users meet them: `python -m tests.release dist/*`, or `make release`.

Each file is installed into two environments of its own, bare and with the extras of the server, of plots and of audits.
There the README's lines run, by the installed command and interpreter, in a folder that holds nothing of the tree but
the data they name: the client's code in the bare environment against a server of the other one.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.test_readme import ROOT, blocks, masked

SERVER = "[server,plot,audit]"  # what the README's commands need
DIGITS = Path("tests") / "data" / "digits"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


class Environment:
    """A virtual environment that holds a distribution and what it asks for."""

    def __init__(self, folder: Path, distribution: Path, extra: str) -> None:
        began = time.monotonic()
        venv.create(folder, with_pip=False)
        self.python = folder / "bin" / "python"
        self.command = folder / "bin" / "onnx-attribution"
        self.variables = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        pip = (
            sys.executable,
            "-m",
            "pip",
            "--python",
            self.python,
            "install",
            "-q",
            "--disable-pip-version-check",
        )
        subprocess.run([*pip, f"{distribution}{extra}"], check=True, env=self.variables)
        print(f"  installed{extra and ' with ' + extra} in {time.monotonic() - began:.0f} s", flush=True)

    def run(self, words: Sequence[str | Path], folder: Path) -> str:
        """What a command prints. Raises: SystemExit with what it said, if its status is not 0."""
        result = subprocess.run(
            words, cwd=folder, env=self.variables, capture_output=True, text=True, timeout=600
        )
        if result.returncode:
            sys.exit(f"{shlex.join(map(str, words))}: status {result.returncode}\n{result.stderr}")
        return result.stdout


def main() -> None:
    given = [Path(word).resolve() for word in sys.argv[1:]]
    assert sorted(file.name for file in given) == [
        f"onnx_attribution-{VERSION}-py3-none-any.whl",
        f"onnx_attribution-{VERSION}.tar.gz",
    ], given
    for distribution in given:
        print(f"{distribution.name} ({distribution.stat().st_size / 1024:.0f} KiB)", flush=True)
        with tempfile.TemporaryDirectory(prefix="onnx-attribution-release-") as folder:
            check(distribution, Path(folder))


def check(distribution: Path, folder: Path) -> None:
    """Installs a distribution and runs the README's lines. Raises: SystemExit, AssertionError if one fails."""
    work = folder / "work"
    shutil.copytree(ROOT / DIGITS, work / DIGITS)
    bare = Environment(folder / "bare", distribution, "")
    server = Environment(folder / "server", distribution, SERVER)
    for one in (bare, server):
        shown = one.run(
            [one.python, "-c", "import onnx_attribution as o; print(o.__version__, o.__file__)"], work
        )
        version, place = shown.split(maxsplit=1)
        assert version == VERSION
        assert place.startswith(str(folder)), place
    absent = "import importlib.util as u; print([n for n in ('onnx', 'onnxruntime') if u.find_spec(n)])"
    assert bare.run([bare.python, "-c", absent], work) == "[]\n"

    code = blocks("python")
    (embedded,) = [block for block in code if "Engine(" in block]
    assert "(1, 32, 8, 8)" in server.run([server.python, "-W", "error", "-c", embedded], work)
    clients = [block for block in code if "Client(" in block]
    with serving(server, work) as address:
        for block in clients:
            asked = block.replace("127.0.0.1:8081", address)
            assert asked != block
            assert bare.run([bare.python, "-W", "error", "-c", asked], work)
        assert server.run([server.command, "health", "--server", address], work) == "SERVING\n"
    ran = len(clients) + 1
    for block in blocks("console"):
        line, _, shown = block.partition("\n")
        _, name, *arguments = shlex.split(line)
        assert name == "onnx-attribution"
        found = server.run([server.command, *arguments], work)
        assert masked(found) == masked(shown), f"{line}\n{found}"
        ran += 1
    shell = "\n".join(blocks("sh")).replace("\\\n", " ")
    for line in re.findall(r"^onnx-attribution .*", shell, re.MULTILINE):
        server.run([server.command, *shlex.split(line, comments=True)[1:]], work)
        ran += 1
    print(f"  {ran} pieces of the README run: the client's in the bare environment, the rest with {SERVER}")


@contextmanager
def serving(environment: Environment, folder: Path) -> Iterator[str]:
    """The address of a server of the digits; it is to end with status 0 at SIGTERM."""
    command: list[str | Path] = [environment.command, "serve", DIGITS, "--port", "0", "--json"]
    process = subprocess.Popen(
        command, cwd=folder, env=environment.variables, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the server ended with status {process.wait()}"
        yield json.loads(line)["address"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


if __name__ == "__main__":
    main()
