"""Data sets over one stream, and what they say of a model's explanations: metrics and verdicts.

The streamed call is `stream`; `metrics` has one file an axis, `verdict` compares methods. The metrics work on an
`Engine` as on a `Client`, and need scipy and scikit-image: `pip install 'onnx-attribution[audit]'`.
"""

from onnx_attribution.client.audit.stream import Audited, AuditProgress, Log

__all__ = ["AuditProgress", "Audited", "Log"]
