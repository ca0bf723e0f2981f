"""Figures and pages that show a run, or several beside each other."""

from gracile.report.data import write_data_page
from gracile.report.listing import Listed, list_runs
from gracile.report.reading import Run, read
from gracile.report.writing import render, write_report

__all__ = ["Listed", "Run", "list_runs", "read", "render", "write_data_page", "write_report"]
