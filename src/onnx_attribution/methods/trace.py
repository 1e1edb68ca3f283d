"""fb_trace, the compact support in the input of what is explained. Needs numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from onnx_attribution.parameters import bounded
from onnx_attribution.register import Method, register

TraceForm = Literal["signed", "positive"]
TraceFirst = Literal["auto", "positive", "absolute"]


@register("fb_trace", paper="arXiv 1711.06221, our reconstruction of its idea")
@dataclass(frozen=True)
class FbTrace(Method):
    """A compact support in the input, and in each layer: shares of what is explained, those below a threshold set to 0.

    The paper's idea, a forward run and a trace back, is known to us from its abstract: this algorithm is our
    reconstruction. Attributions are shares, whose magnitudes sum to the mass that is kept, at most 1; what is dropped
    stays out. The support is where they are not 0: the answer has the boxes of its connected parts, and what each layer
    keeps.

    The form signed takes each layer's contributions, gradient x activation, as shares of the sum of their magnitudes
    (that over all sources for these), and keeps those of a magnitude of `tau`. It tells classes apart.

    The form positive sends a mass of 1 from the target back: operators with weights share it by their positive terms
    x w without biases (LRP's z+), a max pool passes it to its maximum, and at every tensor what is below `tau` is
    dropped. It takes no gradient, and supports are nested: a larger tau keeps a part. As all that spreads positive
    terms alone, it may hardly depend on the class; and sums of tensors that hold numbers below 0, as the linear
    bottlenecks of MobileNets, lose much of the mass. With a tau of 0 it is LRP's zplus with zero_bias.
    """

    indifferent_to: ClassVar[frozenset[str]] = frozenset({"multiply_by_inputs"})

    form: TraceForm = bounded("signed", help="Shares of contributions of both signs, or of a positive mass.")
    tau: float | None = bounded(
        None,
        at_least=0,
        at_most=1,
        help="The least share that is kept; without, by the budget, for each sample.",
    )
    budget: float = bounded(
        0.1,
        above=0,
        at_most=1,
        help="Where tau is left open: at most this share of the positions of the sources is kept, at least one; tau is "
        "the least such, to 2 % in the form positive. In the form signed each other layer keeps this share of its own. "
        "Of layers with two axes or more, channels are one position.",
    )
    first: TraceFirst = bounded(
        "auto",
        help="In the form positive what operators that read the source share by: positive terms, or |x w|; auto: the "
        "latter for samples that hold a number below 0.",
    )
    channel_axis: int | None = bounded(
        None,
        at_least=-16,
        at_most=16,
        help="The axis of the channels of the sources, counted with that of the samples in front; 0: there are none, "
        "as of grey images [N, H, W]; without, 1, or the last where that alone has at most 4 elements.",
    )
    top: int = bounded(
        0,
        at_least=0,
        at_most=64,
        help="So many units of each layer are named, those of the largest shares, with what of each goes through which "
        "of the layers behind it. Of layers with two axes or more, channels are one unit.",
    )
