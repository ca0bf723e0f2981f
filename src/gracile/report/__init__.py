"""Figures and pages that show a run, or several beside each other."""

from gracile.report.reading import Run, read
from gracile.report.writing import render, write_report

__all__ = ["Run", "read", "render", "write_report"]
