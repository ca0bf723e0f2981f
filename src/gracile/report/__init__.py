"""Figures and pages that show a run."""
