"""Pictures of attributions: one place decides what is drawn, its colours, captions and units, for files and for pages.

`scene` says what a picture holds, `maps` what of the numbers is drawn, `colours` how. `plot` draws scenes into files
with matplotlib (the `plot` extra), `page` into HTML.
"""

from onnx_attribution.client.render.inputs import shown_of
from onnx_attribution.client.render.plot import draw, figure
from onnx_attribution.client.render.scene import Shown

__all__ = ["Shown", "draw", "figure", "shown_of"]
