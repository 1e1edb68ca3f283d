"""The files of an audit: `report.json` for programs, `attributions.parquet` for tables, `report.html` for people."""

from onnx_attribution.client.audit.report.page import write_page
from onnx_attribution.client.audit.report.summary import SCHEMA, summary, write_summary
from onnx_attribution.client.audit.report.table import write_table

__all__ = ["SCHEMA", "summary", "write_page", "write_summary", "write_table"]
