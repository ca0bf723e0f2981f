"""The table of commands: one row and one module for each, which is imported when it is asked for."""

from __future__ import annotations

import argparse
import importlib
import re
from types import ModuleType
from typing import NoReturn

from gracile import __version__
from gracile.core.errors import InputError, nearest

# A command is a module `gracile.commands.<name>` with `configure(parser)` and `run(args) -> Answer`, and a row here.
COMMANDS = {
    "run": "train a dense network and its sparse twin from a recipe or on your data",
    "runs": "list the runs of a folder, filter and compare them",
    "report": "rebuild a run's page, or make one that compares several runs",
    "compress": "shrink a sparse network, export it to ONNX and int8, and measure what that bought",
    "attack": "measure a classifier's accuracy under attack, with intervals and warnings",
    "push": "send a run's network, made smaller, to the Hugging Face hub, with a card",
    "data": "show how data are read: shapes, splits, classes with their counts",
    "weights": "draw a run's weights: histograms, kernels, channel norms, sparsity against lam",
    "workers": "train one network over many workers, and see how they agree and what it costs",
    "walk": "diffusivity of senile reinforced random walks, exact and simulated",
    "one-layer": "relaxed splitting on the one-layer network of theorems 3.1 and 3.2, from many starts",
    "reproduce": "run a published table or figure and print the published numbers beside ours",
    "doctor": "show what is installed, what this machine can do, and which data sets are found",
    "completion": "print the completion script for a shell",
}


class Parser(argparse.ArgumentParser):
    """A parser that says what it cannot use as the library does: what is wrong, and what to type."""

    def error(self, message: str) -> NoReturn:
        unknown = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        known = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
        remedy = nearest(unknown[1], known) if unknown else f"`{self.prog} --help` tells what it takes."
        raise InputError(f"{message[0].upper()}{message[1:]}.", remedy)


def module(name: str) -> ModuleType:
    """A command's module."""
    return importlib.import_module(f"gracile.commands.{name.replace('-', '_')}")


def full_parser() -> argparse.ArgumentParser:
    """All commands as subcommands of one parser, for tools that read it; every command's module is imported."""
    parser = Parser(prog="gracile")
    parser.add_argument("--version", action="version", version=f"gracile {__version__}")
    commands = parser.add_subparsers(dest="command")
    for name, text in COMMANDS.items():
        command = module(name)
        command.configure(commands.add_parser(name, help=text, parents=[_everywhere()]))
    return parser


def _everywhere() -> Parser:
    """The options that every command has."""
    parser = Parser(add_help=False)
    group = parser.add_argument_group("what is printed")
    group.add_argument("--json", action="store_true", help="the result as JSON")
    group.add_argument("--quiet", "-q", action="store_true", help="no progress, only warnings and the result")
    return parser


def command_parser(name: str) -> argparse.ArgumentParser:
    """The parser of one command's own arguments."""
    command = module(name)
    parser = Parser(
        prog=f"gracile {name}",
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[_everywhere()],
    )
    command.configure(parser)
    return parser
