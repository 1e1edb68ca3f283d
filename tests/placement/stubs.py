"""CUDA libraries of which only the names are real, so that onnxruntime-gpu loads its provider without a device.

The provider then has its real kernels and says on which of them a graph would run; none computes anything.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Parts:
    """What the libraries are made from: the provider that wants them, and the headers of the CUDA runtime."""

    provider: Path
    headers: Path


def missing() -> str:
    """In words, what this machine or environment lacks; "" for nothing."""
    for tool in ("gcc", "nm", "readelf"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    return "" if isinstance(found := _parts(), Parts) else found


def _parts() -> Parts | str:
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        return "onnxruntime-gpu is not installed"
    provider = Path(spec.origin).parent / "capi/libonnxruntime_providers_cuda.so"
    if not provider.is_file():
        return "this onnxruntime has no CUDA provider"
    for place in sys.path:
        for file in Path(place).glob("nvidia/*/include/driver_types.h"):
            if (file.parent / "crt/host_defines.h").is_file():
                return Parts(provider, file.parent)
    return "the headers of nvidia-cuda-runtime and nvidia-cuda-crt are not installed"


def build(folder: Path) -> list[Path]:
    """Compiles the libraries that the provider links with into the folder, each function returning 0.

    Raises:
        RuntimeError: something is `missing`.
    """
    parts = _parts()
    if isinstance(parts, str):
        raise RuntimeError(parts)
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", parts.provider], check=True, capture_output=True, text=True
    )
    wanted = sorted({line.split()[-1] for line in listed.stdout.splitlines()})
    linked: dict[str, list[str]] = {}
    for name, library in (found.groups() for w in wanted if (found := re.fullmatch(r"(\w+)@(lib\S+)", w))):
        linked.setdefault(library, []).append(name)
    made = []
    for library, names in linked.items():
        if library.startswith("libcu"):
            written = (HERE / "cudart.c").read_text() if library.startswith("libcudart") else ""
            made.append(_compiled(folder, library, names, written, parts.headers))
    driver = [name for name in wanted if re.fullmatch(r"cu[A-Z]\w+", name)]
    made.append(_compiled(folder, "libcuda.so.1", driver, "", parts.headers, versioned=False))
    for library in sorted(_needed(parts.provider) - {file.name for file in made}):
        made.append(_compiled(folder, library, [], "", parts.headers, versioned=False))
    return made


def _needed(provider: Path) -> set[str]:
    """The CUDA libraries that are linked, whether or not a function of theirs is."""
    listed = subprocess.run(["readelf", "-d", provider], check=True, capture_output=True, text=True).stdout
    return set(re.findall(r"\(NEEDED\).*\[(libcu\S+)\]", listed))


def _compiled(
    folder: Path, library: str, names: list[str], written: str, headers: Path, versioned: bool = True
) -> Path:
    created = re.compile(r"cublas(?:Lt)?Create(?:_v2)?")  # they give a handle
    lines = [written, "static char given[64];"]
    for name in names:
        if re.search(rf"\b{name}\(", written):
            continue
        if created.fullmatch(name):
            lines.append(f"int {name}(void **made) {{ *made = given; return 0; }}")
        else:
            lines.append(f"int {name}(void) {{ return 0; }}")
    source = folder / f"{library}.c"
    source.write_text("\n".join(lines) + "\n")
    target = folder / library
    command = [
        "gcc",
        "-shared",
        "-fPIC",
        "-w",
        f"-I{headers}",
        f"-Wl,-soname,{library}",
        "-o",
        str(target),
        str(source),
    ]
    if versioned:
        script = folder / f"{library}.map"
        script.write_text(f"{library} {{ global: {' '.join(f'{n};' for n in names)} local: *; }};\n")
        command.append(f"-Wl,--version-script={script}")
    subprocess.run(command, check=True)
    return target


def load(libraries: Iterable[Path]) -> None:
    """Makes the libraries those that the provider finds, in this process only."""
    for library in libraries:
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
