"""Figures and pages that show a run."""

from gracile.report.page import render, write_report
from gracile.report.reading import Run, read

__all__ = ["Run", "read", "render", "write_report"]
