"""ONNX files checked against torch, int8 that is measured, latency tables."""

from gracile.export.errors import ExportError, Int8Warning
from gracile.export.evaluation import Accuracy, accuracy
from gracile.export.latency import LatencyRow, LatencyTable, latency_table
from gracile.export.onnx_file import Exported, export_onnx

__all__ = [
    "Accuracy",
    "ExportError",
    "Exported",
    "Int8Warning",
    "LatencyRow",
    "LatencyTable",
    "accuracy",
    "export_onnx",
    "latency_table",
]
