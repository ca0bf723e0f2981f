"""Say what data are read as: shapes, splits, classes with their counts, and what was left out.

  gracile data photos/                           a folder of images by class
  gracile data mine.csv --label answer           a table, its label's column named
  gracile data mine.csv --missing mean --json    empty cells filled in; for a program

Takes what `gracile run --data` takes, reads it the same way, and trains nothing.
In Python: gracile.data.load, and gracile.data.describe.
"""

from __future__ import annotations

import argparse

from gracile.commands import Answer, options


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help=options.DATA)
    options.reading(parser)
    options.data_root(parser)


def run(args: argparse.Namespace) -> Answer:
    from gracile.data import describe, load

    return Answer.of(describe(load(args.path, **options.how_read(args))))
