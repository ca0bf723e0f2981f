"""The command line: nothing heavy is imported before a command is known."""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from gracile import __version__
from gracile.commands.advice import typed
from gracile.commands.table import COMMANDS, Parser, command_parser, module
from gracile.core.errors import GracileError, InputError, nearest


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows the program's name; the process's own arguments by default.

    Returns:
        The exit status: 0 done, 1 done but a fixed criterion was missed, 2 bad input, 130 interrupted.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments:
        _parser().print_help()
        return 0
    try:
        given = _parser().parse_args(arguments)
        if given.command not in COMMANDS:
            print(
                f"gracile: there is no command '{given.command}'. {nearest(given.command, COMMANDS)}", file=sys.stderr
            )
            return 2
        command, parser = module(given.command), command_parser(given.command)
        try:
            return _run(command, parser, parser.parse_args(given.rest))
        except GracileError as error:
            print(f"gracile: {error.cause} {typed(error.remedy, parser)}", file=sys.stderr)
            return 2
    except InputError as error:
        print(f"gracile: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("gracile: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (`| head`) left; nothing to say to it.
        sys.stderr.close()
        return 0


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    parser = Parser(
        prog="gracile",
        description="Lean, robust networks, and why they come out so.",
        epilog=f"commands:\n{rows}\n\n`gracile COMMAND --help` explains one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"gracile {__version__}")
    parser.add_argument("command", metavar="COMMAND", help="one of the commands below")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="its arguments")
    return parser


def _run(command: ModuleType, parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    """Call a command in a process that is made ready for it, and print its answer."""
    from gracile.core.console import show_progress, show_warnings
    from gracile.core.memory import keep_freed_memory

    # Of the processes that torchrun starts, the first speaks for all.
    first = os.environ.get("RANK", "0") == "0"
    if getattr(args, "data_root", None) is not None:
        os.environ["GRACILE_DATA"] = str(args.data_root)
    if args.quiet:
        # Read by tqdm when it is imported.
        os.environ["TQDM_DISABLE"] = "1"
    keep_freed_memory()
    if first:
        show_progress(quiet=args.quiet, worded=lambda text: typed(text, parser))
    else:
        logging.getLogger("gracile").addHandler(logging.NullHandler())
    show_warnings()
    answer = command.run(args)
    if first:
        print(json.dumps(_plain(answer.values), indent=2) if args.json else answer.text, flush=True)
    return answer.status


def _plain(value: Any) -> Any:
    """The same with null for what is not finite, which JSON cannot say, and text for what it does not know."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int)) else str(value)


if __name__ == "__main__":
    sys.exit(main())
