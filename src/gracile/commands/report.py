"""Rebuild a run's page, or compare runs.

  gracile report runs/digits-1                    writes runs/digits-1/report.html
  gracile report runs/digits-1 runs/digits-2      comparison.html: one table, curves, the front

Every run writes its page when it ends. Rebuild it for an unfinished run, or after
`gracile compress` has measured latencies. A page is one file that needs no network.
In Python: gracile.write_report.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gracile.commands import Answer, options


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, such as runs/digits-1")
    options.out(parser, "the page's file (default: RUN/report.html; comparison.html for several runs)")


def run(args: argparse.Namespace) -> Answer:
    from gracile.report import write_report

    page = write_report(args.runs, args.out)
    return Answer(str(page), {"page": str(page)})
