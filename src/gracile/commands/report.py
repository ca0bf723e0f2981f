"""Make the page of a run anew, or one that compares several.

gracile report runs/digits-1                  writes runs/digits-1/report.html
gracile report runs/digits-1 runs/digits-2    writes comparison.html: all arms in one table, and the front of
                                              accuracy against multiply-adds
"""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, finished or not")
    parser.add_argument("--out", type=Path, help="the HTML file")


def run(args: argparse.Namespace) -> int:
    from gracile.report import write_report

    out = args.out or (args.runs[0] / "report.html" if len(args.runs) == 1 else Path("comparison.html"))
    print(write_report(args.runs, out))
    return 0
