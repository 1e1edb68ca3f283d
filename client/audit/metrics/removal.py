"""Whether what a map calls important is what the model uses: curves of removal, which `client.audit.ablation` makes."""

from __future__ import annotations

from onnx_attribution.client.audit.metrics.metric import Metric, declared

DELETION = declared(
    Metric(
        "deletion",
        "lower",
        "faithfulness",
        "int_0^1 F(x with the first share s of its groups replaced) ds, groups in falling order of their attributions",
        "arXiv 1805.12233, ablation; arXiv 1806.07421, deletion",
        chance="floor",
    )
)
INSERTION = declared(
    Metric(
        "insertion",
        "higher",
        "faithfulness",
        "int_0^1 F(x with all but the first share s of its groups replaced) ds, groups in falling order of their "
        "attributions",
        "arXiv 1806.07421, insertion",
        chance="floor",
    )
)
