"""Every benchmark beside what a user would pick instead.

    python -m benchmarks                          all of them, each in a process of its own: hours
    python -m benchmarks --list
    python -m benchmarks --only splitting walks
    python -m benchmarks --small                  the same with tiny sizes: whether they run, not how fast
    python -m benchmarks --json                   the rows as JSON
    python -m benchmarks --keep                   keep the rows in benchmarks/speed.json, and write docs/speed.md from them

Peers come from `make peers`; what is not installed is named and left out. With --keep, rows of benchmarks that were not run
this time stay as they were.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
from typing import Any

from benchmarks.page import KEPT, PAGE, page, table


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="name them and stop")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these alone")
    parser.add_argument("--small", action="store_true", help="tiny sizes")
    parser.add_argument("--rounds", type=int, default=9, help="turns of every contender (default: 9)")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--keep", action="store_true", help="into benchmarks/speed.json and docs/speed.md")
    parser.add_argument("--page", action="store_true", help="write docs/speed.md from what is kept, and stop")
    parser.add_argument("--here", metavar="NAME", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        print(json.dumps(one(args.here, args.rounds, args.small)))
        return 0
    kept: dict[str, Any] = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    if args.page:
        PAGE.write_text(page(kept), encoding="utf-8")
        return 0
    from benchmarks.table import BENCHMARKS

    unknown = [name for name in args.only or () if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]}; choose from {', '.join(BENCHMARKS)}")
    if args.list:
        print("\n".join(f"{name:<16} {text}" for name, (_, text) in BENCHMARKS.items()))
        return 0
    if args.keep and args.small:
        parser.error("what is small says nothing about speed, so it is not kept")
    found, status = {}, 0
    for name in args.only or BENCHMARKS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "benchmarks", "--here", name, "--rounds", str(args.rounds)]
        done = subprocess.run(
            [*command, *(["--small"] if args.small else [])], capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(f"{name} failed:\n{done.stderr}", file=sys.stderr)
            status = 1
            continue
        found[name] = json.loads(done.stdout.splitlines()[-1])
        if not args.json:
            print(f"\n## {name}\n\n{table(found[name])}\n", flush=True)
        if args.keep:
            kept |= {name: found[name]}
            KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
            PAGE.write_text(page(kept), encoding="utf-8")
    if args.json:
        print(json.dumps(found, indent=1))
    return status


def one(name: str, rounds: int, small: bool) -> dict[str, Any]:
    """The rows of one benchmark, measured in this process, with the machine's floor and what it ran on."""
    from benchmarks.protocol import machine, measured
    from benchmarks.table import BENCHMARKS
    from gracile.core.memory import keep_freed_memory
    from gracile.core.provenance import environment

    keep_freed_memory()
    here = machine(small)
    rows, missing = [], []
    function, _ = BENCHMARKS[name]
    try:
        for entry in function(small):
            rows += measured(entry, 1 if small else rounds, here)
    except ImportError as error:
        # A peer that is not installed: what was measured before stands.
        missing.append(str(error))
    if small:
        # A goal says nothing of it.
        rows = [{key: value for key, value in row.items() if key not in ("goal", "met")} for row in rows]
    return {
        "date": datetime.date.today().isoformat(), "machine": {"flops": here.flops, "bytes": here.bytes},
        "environment": environment(), "rows": rows, "missing": missing,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
