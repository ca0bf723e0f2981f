"""Send a run's network, made smaller, to the Hugging Face hub, with a card made from its run.

  gracile push runs/digits-1 ada/lean-digits             the sparse network of a run
  gracile push runs/digits-1 ada/lean-digits --arm rgsm  one of several
  gracile push runs/digits-1 ada/lean-digits --out lean/ write the files there and send nothing

The repository is made if there is none. Log in first with `hf auth login`, or set HF_TOKEN. The
network comes back by gracile.from_pretrained("ada/lean-digits"). In Python: gracile.push_to_hub.
"""

from __future__ import annotations

import argparse

from gracile.commands import Answer, options


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", metavar="RUN", help="a run's folder")
    add("name", metavar="OWNER/NAME", help="the repository on the hub")
    add("--arm", help="the run's arm (default: its first with a method)")
    add("--seed", type=int, help="the run's seed (default: its first)")
    add("--private", action="store_true", help="make the repository private, if it is made")
    add("--license", metavar="NAME", help="for the card, as the hub names it, such as apache-2.0")
    options.data_root(parser)
    options.out(parser, "write the files there and send nothing")


def run(args: argparse.Namespace) -> Answer:
    from gracile.recipes.hub import push_to_hub

    pushed = push_to_hub(
        args.source,
        args.name,
        arm=args.arm,
        seed=args.seed,
        private=args.private,
        license=args.license,
        folder=args.out,
    )
    return Answer(str(pushed), pushed.to_json())
