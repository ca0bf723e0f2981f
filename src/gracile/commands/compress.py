"""Make a sparse network physically smaller, export it, and measure what that bought.

  gracile compress runs/digits-1 --int8                     the sparse network of a run
  gracile compress runs/digits-1 --arm rgsm --seed 1        one of several
  gracile compress net.py:make --weights w.safetensors --data photos/ --int8
                                                            a function that returns your network
  gracile compress net.py:make --shape 3,32,32              without data: no int8, no accuracy

Leaves lean.safetensors, lean.onnx, with --int8 lean.int8.onnx, table.md and compress.json in
RUN/compressed/ARM/. In Python: gracile.compress.
"""

from __future__ import annotations

import argparse

from gracile.commands import Answer, options


def configure(parser: argparse.ArgumentParser) -> None:
    options.candidate(parser)
    parser.add_argument("--shape", help="shape of one input, such as 3,32,32, where there are no data")
    parser.add_argument("--int8", action="store_true", help="quantise too, calibrated on training data")
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
    options.out(parser, "where the files go (default: RUN/compressed/ARM or compressed/FUNCTION)")


def run(args: argparse.Namespace) -> Answer:
    from gracile.deploy import compress

    batch_sizes = options.numbers("--batch-sizes", args.batch_sizes)
    threads = options.numbers("--threads", args.threads)
    eps = None if args.eps is None else options.fraction("--eps", args.eps)
    found, folder = options.read_candidate(args)
    out = args.out or folder / "compressed" / found.name
    made = compress(
        found.model,
        found.example,
        found.data,
        dense=found.dense,
        int8=args.int8,
        max_drop=args.max_drop,
        weight_bits=args.weight_bits,
        calibration=args.calibration,
        eps=eps,
        robust_samples=args.robust_samples,
        batch_sizes=batch_sizes,
        threads=threads,
        folder=out,
        name=found.name,
        note=found.note,
    )
    return Answer(f"{made}\n\nEverything is in {out}.", {"name": found.name, **made.to_json(), "folder": str(out)})
