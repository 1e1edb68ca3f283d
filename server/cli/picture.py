"""The options that say how pictures become inputs, and what they mean together."""

from __future__ import annotations

import math
from typing import Annotated, cast, get_args

import typer

from onnx_attribution.client.render.inputs import Layout
from onnx_attribution.errors import InvalidArgument
from onnx_attribution.server.cli.inputs import parse_numbers
from onnx_attribution.server.cli.pictures import Picture
from onnx_attribution.server.cli.pixels import colour_of
from onnx_attribution.values import Colours

Scale = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBER",
        help="Pixels, from 0 (black) to 255 (white) at any depth, are multiplied by it; default 1/255 for float "
        "inputs, 1 for others.",
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBERS",
        help="Subtracted after scaling; one number, or one a channel: 0.5,0.5,0.5; default 0.",
    ),
]
Std = Annotated[str | None, typer.Option(metavar="NUMBERS", help="Divided by after that; default 1.")]
Order = Annotated[
    str | None,
    typer.Option(metavar="LAYOUT", help="nchw or nhwc; default: guessed from the input's shape."),
]
Colour = Annotated[
    str | None,
    typer.Option(metavar="ORDER", help="rgb, bgr or gray: what the input takes of a picture; default rgb."),
]
Resize = Annotated[bool, typer.Option("--resize", help="Bring pictures to the model's size.")]
Background = Annotated[
    str | None,
    typer.Option(metavar="COLOUR", help="What shows through transparent pixels: a name or #rrggbb."),
]


def picture_of(
    scale: Scale = None,
    mean: Mean = None,
    std: Std = None,
    layout: Order = None,
    colours: Colour = None,
    resize: Resize = False,
    background: Background = None,
) -> Picture:
    """What the options say. Raises: InvalidArgument: a value that none of them can have."""
    if layout is not None and layout not in get_args(Layout):
        raise InvalidArgument(f"no layout {layout!r}; there are: {', '.join(get_args(Layout))}")
    factors = parse_numbers(scale, "--scale") if scale is not None else (None,)
    if len(factors) != 1:
        raise InvalidArgument("--scale is one number; what differs by channel goes into --std")
    averages = None if mean is None else parse_numbers(mean, "--mean")
    deviations = None if std is None else parse_numbers(std, "--std")
    given = {
        "--scale": [f for f in factors if f is not None],
        "--mean": averages or (),
        "--std": deviations or (),
    }
    for option, values in given.items():
        if not all(map(math.isfinite, values)) or (option != "--mean" and 0 in values):
            raise InvalidArgument(f"{option} holds {', '.join(f'{value:g}' for value in values)}")
    if colours is not None and colours not in get_args(Colours):
        raise InvalidArgument(f"no colours {colours!r}; there are: {', '.join(get_args(Colours))}")
    if background is not None:
        colour_of(background, "RGB")
    return Picture(
        factors[0],
        averages,
        deviations,
        cast("Layout | None", layout),
        resize,
        background,
        cast("Colours | None", colours),
    )
