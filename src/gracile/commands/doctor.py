"""Show what is installed, what this machine can do, and which data sets are found.

  gracile doctor                  worth attaching to a bug report
  gracile doctor --data-root D    with the data sets under D

In Python: gracile.deploy.doctor.examine.
"""

from __future__ import annotations

import argparse

from gracile.commands import Answer, options


def configure(parser: argparse.ArgumentParser) -> None:
    options.data_root(parser)


def run(args: argparse.Namespace) -> Answer:
    from gracile.deploy.doctor import examine

    return Answer.of(examine())
