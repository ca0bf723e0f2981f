"""Make a run's page anew, or compare runs.

  gracile report runs/digits-1                    writes runs/digits-1/report.html
  gracile report runs/digits-1 runs/digits-2      writes comparison.html: one table, curves, the front

Every run leaves its page by itself when it ends. Make it again for an unfinished run, or after `gracile compress` has measured
latencies. A page is one file that needs no network.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, such as runs/digits-1")
    parser.add_argument(
        "--out", type=Path, help="the page's file (default: RUN/report.html; comparison.html for several runs)"
    )


def run(args: argparse.Namespace) -> int:
    from gracile.report import write_report

    out = args.out or (args.runs[0] / "report.html" if len(args.runs) == 1 else Path("comparison.html"))
    print(write_report(args.runs, out))
    return 0
