"""Attack a classifier and say what accuracy stands, with confidence intervals.

  gracile attack runs/digits-1                              the sparse network of a run and its dense twin, on test data
  gracile attack runs/digits-1 --arm rgsm --eps 4/255       one of them, in a smaller ball
  gracile attack net.py:make --weights w.safetensors --data photos/
                                                            your own: a function that returns the network
  gracile attack net.py:make --data cifar10 --draws 20      one that draws random numbers: expectation over 20 draws

Reports clean accuracy, FGSM, IFGSM-20, C&W, NAttack, AutoAttack and the worst case a sample, and warns where the
numbers claim too much: gradients that vanish, losses that do not rise, black-box attacks that beat gradients.
Leaves attack.json and table.md in RUN/attacked/ARM/, where `gracile report` finds them.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="RUN|FILE.py:FUNCTION", help="a run's folder, or a function that returns a network"
    )
    parser.add_argument("--eps", default="8/255", help="size of the ball, such as 8/255 or 0.03 (default: 8/255)")
    parser.add_argument("--norm", default="linf", help="linf or l2 (default: linf)")
    parser.add_argument(
        "--attacks",
        default="fgsm,ifgsm,cw,nattack,autoattack",
        help="which ones, of fgsm, ifgsm, pgd, cw, cw_paper, nattack, square, autoattack (default: all the field reports)",
    )
    parser.add_argument("--samples", type=int, default=256, help="test samples, drawn once; 0 for all (default: 256)")
    parser.add_argument("--nattack-samples", type=int, default=16, help="of which NAttack is tried on (default: 16)")
    parser.add_argument("--draws", type=int, default=1, help="passes averaged, for random networks (default: 1)")
    parser.add_argument("--quick", action="store_true", help="a fifth of the steps of C&W, NAttack and AutoAttack")
    parser.add_argument("--attack-seed", type=int, default=0, help="of starts, searches and draws (default: 0)")
    parser.add_argument("--arm", help="the run's arm (default: its first with a method, and the dense one)")
    parser.add_argument("--seed", type=int, help="the run's seed (default: its first)")
    parser.add_argument("--weights", type=Path, help="a safetensors file with the network's weights")
    parser.add_argument("--data", help="data: a path, a name, or OWNER/NAME on the hub (default: the run's own)")
    parser.add_argument("--label", help="the label's column, where it is not found by itself")
    parser.add_argument("--image-size", type=int, help="resize images to this")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--out", type=Path, help="where the files go (default: RUN/attacked/ARM or attacked/FUNCTION)")
    parser.add_argument(
        "--data-root", type=Path, help="folder with a folder a data set (default: the variable GRACILE_DATA)"
    )


def run(args: argparse.Namespace) -> int:
    import os

    from gracile.commands.attacking import attack, fraction
    from gracile.commands.subjects import from_function, from_run
    from gracile.core.errors import InputError
    from gracile.core.memory import keep_freed_memory
    from gracile.data import load

    if args.data_root is not None:
        os.environ["GRACILE_DATA"] = str(args.data_root)
    file, colon, function = args.source.rpartition(":")
    if colon and file.endswith(".py"):
        for option, value in {"--arm": args.arm, "--seed": args.seed}.items():
            if value is not None:
                raise InputError(f"{option} does not go with a network of your own.", "Leave it out.")
        subject = from_function(
            Path(file), function, args.weights, data=args.data, shape=None, label=args.label, image_size=args.image_size
        )
        networks = {subject.name: subject.sparse}
        splits = subject.splits
        out = args.out or Path("attacked") / function
    else:
        if args.weights is not None:
            raise InputError("--weights does not go with a run.", "Leave it out.")
        subject = from_run(Path(args.source), args.arm, args.seed)
        twin = {} if args.arm is not None or subject.dense is None else {"dense": subject.dense}
        networks = {**twin, subject.name: subject.sparse}
        splits = subject.splits
        if args.data is not None:
            splits = load(args.data, label=args.label, image_size=args.image_size)
        out = args.out or Path(args.source) / "attacked" / subject.name
    assert splits is not None
    keep_freed_memory()
    found = attack(
        networks,
        splits,
        out,
        eps=fraction("--eps", args.eps),
        norm=args.norm,
        attacks=[name for name in args.attacks.split(",") if name],
        samples=args.samples,
        nattack_samples=args.nattack_samples,
        draws=args.draws,
        quick=args.quick,
        seed=args.attack_seed,
        device=args.device,
    )
    print(f"{found}\n\nEverything is in {out}.")
    return 0
