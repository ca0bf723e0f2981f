"""Measure a classifier's accuracy under attack, with confidence intervals.

  gracile attack runs/digits-1                           a run's sparse network and its dense twin
  gracile attack runs/digits-1 --arm rgsm --eps 4/255    one of them, in a smaller ball
  gracile attack net.py:make --weights w.safetensors --data photos/
                                                         a function that returns your network
  gracile attack net.py:make --data cifar10 --draws 50   one that draws random numbers

Reports clean accuracy, FGSM, IFGSM-20, C&W, NAttack, AutoAttack and the worst case per sample, and
warns where the numbers claim too much: gradients that vanish, losses that do not rise, black-box
attacks that beat gradients. The last table has accuracy and cost of each network in one row.
Leaves attack.json and table.md in RUN/attacked/ARM/, where `gracile report` finds them, and of each
network a card with RobustBench's fields and its adversarial examples. In Python: gracile.attack.
"""

from __future__ import annotations

import argparse

from gracile.commands import Answer, options
from gracile.core.errors import InputError


def configure(parser: argparse.ArgumentParser) -> None:
    options.candidate(parser, "data for a network of your own, or in place of the run's")
    add = parser.add_argument
    known = "fgsm, ifgsm, pgd, cw, cw_paper, nattack, square, autoattack (default: all the field reports)"
    draws = "passes that gradients are the mean of; by default 20 where the network draws random numbers, else 1"
    add("--eps", default="8/255", help="size of the ball, such as 8/255 or 0.03 (default: 8/255)")
    add("--norm", default="linf", help="linf, l2 or l1 (default: linf)")
    add("--attacks", default="fgsm,ifgsm,cw,nattack,autoattack", help=f"which ones, of {known}")
    add("--samples", type=int, default=256, help="test samples, drawn once; 0 for all (default: 256)")
    add("--nattack-samples", type=int, default=16, help="of which NAttack is tried on (default: 16)")
    add("--draws", type=int, help=draws)
    add("--quick", action="store_true", help="a fifth of the steps of C&W, NAttack and AutoAttack")
    add("--attack-seed", type=int, default=0, help="of starts, searches and draws (default: 0)")
    add("--device", default="cpu", help="cpu or cuda (default: cpu)")
    options.out(parser, "where the files go (default: RUN/attacked/ARM or attacked/FUNCTION)")


def run(args: argparse.Namespace) -> Answer:
    from gracile.core.user_code import is_reference
    from gracile.deploy import attack

    own, asked = is_reference(args.source), options.arguments(attack, args)
    asked |= {"eps": options.fraction("--eps", args.eps), "attacks": [name for name in args.attacks.split(",") if name]}
    if own and args.data is None:
        raise InputError("Attacks need labelled data.", "Give --data.")
    found, folder = options.read_candidate(args, other_data=True)
    out = args.out or folder / "attacked" / found.name
    beside = {} if own or args.arm is not None or found.dense is None else {"dense": found.dense}
    asked |= {"seed": args.attack_seed, "data": found.data, "folder": out}
    attacked = attack({**beside, found.name: found.model}, **asked)
    return Answer(f"{attacked}\n\nEverything is in {out}.", {**attacked.to_json(), "folder": str(out)})
