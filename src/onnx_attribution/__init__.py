"""Attribution for any ONNX model: Neuron Integrated Gradients, DeepLIFT and their relatives, as a service.

Each name is imported when it is first used, so that a client loads no runtime.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx_attribution import errors as errors
    from onnx_attribution import interventions as interventions
    from onnx_attribution import methods as methods
    from onnx_attribution.client import AsyncClient, Client
    from onnx_attribution.server.engine import Engine
    from onnx_attribution.values import References, Target

    __version__: str

__all__ = [
    "AsyncClient",
    "Client",
    "Engine",
    "References",
    "Target",
    "__version__",
    "errors",
    "interventions",
    "methods",
]

_MODULES = {
    "AsyncClient": "client",
    "Client": "client",
    "Engine": "server.engine",
    "References": "values",
    "Target": "values",
    "errors": "errors",
    "interventions": "interventions",
    "methods": "methods",
}

if not TYPE_CHECKING:  # a type checker would take every name for known

    def __getattr__(name: str) -> object:
        if name == "__version__":
            return import_module("importlib.metadata").version("onnx-attribution")
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            module = import_module(f"{__name__}.{_MODULES[name]}")
            return module if _MODULES[name] == name else getattr(module, name)
        except ModuleNotFoundError as error:
            if name != "Engine" or (error.name or "").startswith(__name__):
                raise
            words = f"Engine needs {error.name}: pip install 'onnx-attribution[server]' (or [gpu])"
            raise ModuleNotFoundError(words, name=error.name) from None


def __dir__() -> list[str]:
    return __all__
