"""Show how data are read: shapes, splits, classes with their counts, and what was left out.

  gracile data photos/                           a folder of images by class
  gracile data mine.csv --label answer           a table, its label's column named
  gracile data mine.csv --missing mean --json    empty cells filled in; for a program
  gracile data photos/ --out photos.html         a page with examples of each class

Takes what `gracile run --data` takes, reads it the same way, and trains nothing.
In Python: gracile.data.load, gracile.data.describe, and gracile.report.write_data_page.
"""

from __future__ import annotations

import argparse

from gracile.commands import Answer, options


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help=options.DATA)
    options.reading(parser)
    options.data_root(parser)
    options.out(parser, "a page with all of it and examples, such as data.html")


def run(args: argparse.Namespace) -> Answer:
    from gracile.data import describe, load

    splits = load(args.path, **options.how_read(args))
    found = describe(splits)
    if args.out is None:
        return Answer.of(found)
    from gracile.report import write_data_page

    page = write_data_page(splits, args.out)
    return Answer(f"{found}\n\n{page}", {**found.to_json(), "page": str(page)})
