"""List the runs of a folder, the newest last, filter them and compare them.

  gracile runs                                   those under runs/
  gracile runs --recipe digits --status done     only these
  gracile runs --sort accuracy --json            by the best accuracy of an arm, for a program
  gracile runs --recipe digits --compare         one page that compares them: comparison.html

In Python: gracile.report.list_runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gracile.commands import Answer, options


def configure(parser: argparse.ArgumentParser) -> None:
    add, states = parser.add_argument, ["running", "interrupted", "failed", "done"]
    add("folder", nargs="?", type=Path, default=Path("runs"), help="where the runs are (default: runs)")
    add("--recipe", help="only runs of this recipe; * stands for anything")
    add("--status", choices=states, help="only runs in this state")
    add("--sort", choices=["time", "accuracy"], default="time", help="what comes last (default: time)")
    add("--compare", action="store_true", help="write a page that compares the runs listed")
    options.out(parser, "the page's file (default: comparison.html)")


def run(args: argparse.Namespace) -> Answer:
    from tabulate import tabulate

    from gracile.report import write_report
    from gracile.report.listing import list_runs

    found = list_runs(args.folder, recipe=args.recipe, status=args.status, sort=args.sort)
    text = tabulate([one.row() for one in found], headers="keys", tablefmt="simple", missingval="") or "no runs"
    if args.compare:
        text += f"\n\n{write_report([one.path for one in found], args.out or Path('comparison.html'))}"
    return Answer(text, [one.to_json() for one in found])
