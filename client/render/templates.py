"""The templates of pages, and how they write numbers and names."""

from __future__ import annotations

from typing import Any

from onnx_attribution.client.render.scene import number
from onnx_attribution.errors import InvalidArgument


def templates(package: str) -> Any:
    """The environment of the folder `templates` of a package, with the filters number, percent and breakable.

    Raises:
        InvalidArgument: jinja2 is missing.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ModuleNotFoundError:
        raise InvalidArgument("pages need jinja2: pip install 'onnx-attribution[audit]'") from None
    environment = Environment(
        loader=PackageLoader(package, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=_number, percent=_percent, breakable=_breakable)
    return environment


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else number(value, digits)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.3g} %".replace("-", "−")


def _breakable(name: str) -> Any:
    """A name that may be broken after its underscores."""
    from markupsafe import Markup, escape

    return Markup("_<wbr>").join(escape(part) for part in name.split("_"))
