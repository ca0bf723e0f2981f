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
    add = parser.add_argument
    add("--shape", help="shape of one input, such as 3,32,32, where there are no data")
    add("--multiple-of", type=int, help="that convolutions keep channels in, such as 1 or 4 (default: the faster here)")
    add("--int8", action="store_true", help="quantise too, calibrated on training data")
    add("--max-drop", type=float, default=1.0, help="points of accuracy int8 may cost (default: 1)")
    add("--calibration", type=int, default=512, help="training samples that calibrate int8 (default: 512)")
    add("--weight-bits", type=int, default=7, help="7, or 8 for processors with VNNI (default: 7)")
    add("--eps", help="measure robust accuracy too, in an l-inf ball such as 8/255")
    add("--robust-samples", type=int, default=200, help="test samples attacked, 0 for all (default: 200)")
    add("--batch-sizes", default="1,16", help="batches to time (default: 1,16)")
    add("--threads", default="1,2", help="threads to time with (default: 1,2)")
    options.out(parser, "where the files go (default: RUN/compressed/ARM or compressed/FUNCTION)")


def run(args: argparse.Namespace) -> Answer:
    from gracile.deploy import compress

    asked = options.arguments(compress, args)
    asked |= {name: options.numbers(f"--{name.replace('_', '-')}", asked[name]) for name in ("batch_sizes", "threads")}
    asked["eps"] = None if args.eps is None else options.fraction("--eps", args.eps)
    found, folder = options.read_candidate(args)
    out = args.out or folder / "compressed" / found.name
    asked |= {"data": found.data, "dense": found.dense, "name": found.name, "note": found.note, "folder": out}
    made = compress(found.model, found.example, **asked)
    return Answer(f"{made}\n\nEverything is in {out}.", {"name": found.name, **made.to_json(), "folder": str(out)})
