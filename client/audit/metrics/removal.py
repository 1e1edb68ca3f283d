"""Whether what a map calls important is what the model uses: areas under curves of removal (`client.audit.curves`)."""

from __future__ import annotations

from onnx_attribution.client.audit.metrics.metric import Metric, declared

DELETION = declared(
    Metric(
        "deletion_area",
        "lower",
        "faithfulness",
        "int_0^1 (F(s) - low) / (high - low) ds, F(s) with the first share s of groups replaced, in falling order of "
        "their attributions; low and high are the least and the largest F on any curve of the sample, those of random "
        "rankings included",
        "arXiv 1805.12233, ablation; arXiv 1806.07421, deletion",
        chance="floor",
    )
)
INSERTION = declared(
    Metric(
        "insertion_area",
        "higher",
        "faithfulness",
        "the same of F(s) with all but the first share s of groups replaced",
        "arXiv 1806.07421, insertion",
        chance="floor",
    )
)
