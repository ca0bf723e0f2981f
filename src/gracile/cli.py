"""The command line: one row a command, one module a row; nothing heavy is imported before a command is known."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from gracile import __version__
from gracile.core.errors import GracileError, nearest

# A command is a module `gracile.commands.<name>` with `configure(parser)` and `run(args) -> int`, and a row here.
COMMANDS = {
    "run": "train a dense network and its sparse twin from a recipe or on your data",
    "reproduce": "run a published table or figure and print the published numbers beside ours",
    "report": "make a run's page anew, or one that compares several runs",
    "compress": "shrink a sparse network, export it to ONNX and int8, and measure what that bought",
    "attack": "attack a classifier and say what accuracy stands, with intervals and warnings",
    "one-layer": "relaxed splitting on the one-layer network of theorems 3.1 and 3.2, from many starts",
    "weights": "draw a run's weights: histograms, kernels, channel norms, sparsity against lam",
    "walk": "diffusivity of senile reinforced random walks, exact and simulated",
    "workers": "train one network over many workers, and see how they agree and what it costs",
}


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="gracile",
        description="Lean, robust networks, and why they come out so.",
        epilog=f"commands:\n{rows}\n\n`gracile COMMAND --help` explains one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"gracile {__version__}")
    parser.add_argument("command", metavar="COMMAND", help="one of the commands below")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="its arguments")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows the program's name; the process's own arguments by default.

    Returns:
        The exit status: 0 done, 1 done but a fixed criterion was missed, 2 bad input, 130 interrupted.
    """
    given = _parser().parse_args(arguments)
    try:
        if given.command not in COMMANDS:
            print(
                f"gracile: there is no command '{given.command}'. {nearest(given.command, COMMANDS)}", file=sys.stderr
            )
            return 2
        command = importlib.import_module(f"gracile.commands.{given.command.replace('-', '_')}")
        parser = argparse.ArgumentParser(
            prog=f"gracile {given.command}",
            description=command.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.configure(parser)
        return command.run(parser.parse_args(given.rest))
    except GracileError as error:
        print(f"gracile: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("gracile: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (`| head`) left; nothing to say to it.
        sys.stderr.close()
        return 0


if __name__ == "__main__":
    sys.exit(main())
