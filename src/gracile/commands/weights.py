"""Draw the weights of a run's trained networks.

  gracile weights runs/digits-1                       every arm
  gracile weights runs/table-4.4-1 --arm resnet20 --arm en2 --layer stages.2.1.conv2

Leaves, in RUN/weights: all-weights.svg and layer-weights.svg (histograms with the share below
1e-3), kernels.svg (a layer's kernels as an image), channel-norms.svg (with the count of zeros),
sparsity-lam.svg (zero channels against lam over seeds, where a network was trained with several
lam), and weights.json with the numbers. In Python: gracile.draw_weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gracile.commands import Answer, options


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's folder, such as runs/digits-1")
    parser.add_argument("--arm", action="append", default=[], help="only this arm; repeatable")
    parser.add_argument("--layer", help="the end of a convolution's name (default: the last of the largest)")
    options.out(parser, "where the files go (default: RUN/weights)")


def run(args: argparse.Namespace) -> Answer:
    from gracile.report.weights import draw_weights

    drawn = draw_weights(args.run, args.out, arms=args.arm, layer=args.layer)
    return Answer("\n".join(f"{what}: {file}" for what, file in drawn.items()), drawn)
