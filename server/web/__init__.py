"""A page on which people look into a model who write no code.

`serve` opens it on this machine; it asks the server by the client only, and whoever starts it says how files and texts
become a request (`Reading`), which is as the command `explain` has it.
"""

from onnx_attribution.server.web.opening import in_browser
from onnx_attribution.server.web.pages import Pages
from onnx_attribution.server.web.question import Files, Given, Question, Reading
from onnx_attribution.server.web.serve import serving

__all__ = ["Files", "Given", "Pages", "Question", "Reading", "in_browser", "serving"]
