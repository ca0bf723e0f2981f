"""Make a sparse network physically smaller, export it, and measure what that bought.

  gracile compress runs/digits-1 --int8                     the sparse network of a run
  gracile compress runs/digits-1 --arm rgsm --seed 1        one of several
  gracile compress net.py:make --weights w.safetensors --data photos/ --int8
                                                            your own: a function that returns the network
  gracile compress net.py:make --shape 3,32,32              without data: no int8, no accuracy

Leaves lean.safetensors, lean.onnx, with --int8 lean.int8.onnx, table.md and compress.json in RUN/compressed/ARM/.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="RUN|FILE.py:FUNCTION", help="a run's folder, or a function that returns a network"
    )
    parser.add_argument("--int8", action="store_true", help="quantise too, calibrated on training data")
    parser.add_argument("--arm", help="the run's arm (default: its first with a method)")
    parser.add_argument("--seed", type=int, help="the run's seed (default: its first)")
    parser.add_argument("--weights", type=Path, help="a safetensors file with the network's weights, zeros included")
    parser.add_argument("--data", help="data for a network of your own: a path, a name, or OWNER/NAME on the hub")
    parser.add_argument("--label", help="the label's column, where it is not found by itself")
    parser.add_argument("--image-size", type=int, help="resize images to this")
    parser.add_argument("--shape", help="shape of one input, such as 3,32,32, where there are no data")
    parser.add_argument("--max-drop", type=float, default=1.0, help="points of accuracy int8 may cost (default: 1)")
    parser.add_argument(
        "--calibration", type=int, default=512, help="training samples that calibrate int8 (default: 512)"
    )
    parser.add_argument("--weight-bits", type=int, default=7, help="7, or 8 for processors with VNNI (default: 7)")
    parser.add_argument("--eps", help="measure robust accuracy too, in an l-inf ball such as 8/255")
    parser.add_argument(
        "--robust-samples", type=int, default=200, help="test samples attacked, 0 for all (default: 200)"
    )
    parser.add_argument("--batch-sizes", default="1,16", help="batches to time (default: 1,16)")
    parser.add_argument("--threads", default="1,2", help="threads to time with (default: 1,2)")
    parser.add_argument(
        "--out", type=Path, help="where the files go (default: RUN/compressed/ARM or compressed/FUNCTION)"
    )
    parser.add_argument(
        "--data-root", type=Path, help="folder with a folder a data set (default: the variable GRACILE_DATA)"
    )


def run(args: argparse.Namespace) -> int:
    import os

    from gracile.commands.attacking import fraction
    from gracile.commands.compressing import compress
    from gracile.commands.subjects import from_function, from_run
    from gracile.core.errors import InputError

    if args.data_root is not None:
        os.environ["GRACILE_DATA"] = str(args.data_root)
    file, colon, function = args.source.rpartition(":")
    of_function = bool(colon) and file.endswith(".py")
    names = ("arm", "seed") if of_function else ("weights", "data", "label", "image_size", "shape")
    foreign = {f"--{name.replace('_', '-')}": getattr(args, name) for name in names}
    for option, value in foreign.items():
        if value is not None:
            which = "a network of your own" if of_function else "a run"
            raise InputError(f"{option} does not go with {which}.", "Leave it out.")
    batch_sizes, threads = _numbers("--batch-sizes", args.batch_sizes), _numbers("--threads", args.threads)
    if args.calibration < 1:
        raise InputError(f"--calibration is {args.calibration}.", "Give a number of samples.")
    if of_function:
        shape = None if args.shape is None else tuple(_numbers("--shape", args.shape))
        subject = from_function(
            Path(file),
            function,
            args.weights,
            data=args.data,
            shape=shape,
            label=args.label,
            image_size=args.image_size,
        )
    else:
        subject = from_run(Path(args.source), args.arm, args.seed)
    out = args.out or subject.folder
    made = compress(
        subject,
        out,
        int8=args.int8,
        max_drop=args.max_drop,
        weight_bits=args.weight_bits,
        calibration=args.calibration,
        eps=None if args.eps is None else fraction("--eps", args.eps),
        robust_samples=args.robust_samples,
        batch_sizes=batch_sizes,
        threads=threads,
    )
    print(f"{made}\n\nEverything is in {out}.")
    return 0


def _numbers(option: str, text: str) -> list[int]:
    from gracile.core.errors import InputError

    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise InputError(f"{option} takes whole numbers from 1 on, not '{text}'.", f"Write {option} 1,16 for instance.")
    return numbers
